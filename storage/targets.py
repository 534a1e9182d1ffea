"""The targets of one storage process, and what it may do with them.

Layer: shell. A target's *local state* is this process's word: UP_TO_DATE means that it holds
every acknowledged byte of its chain; ONLINE that it is here but may lack some. The manager's
*public state* decides who serves; the two meet in `observe`:

- public SERVING or LAST_SERVING when the process starts: it had everything and still has: up to
  date (LAST_SERVING will be made SERVING by the manager);
- public OFFLINE, WAITING or SYNCING: it may lack writes: online, until the predecessor of a
  syncing target says that it has sent everything (`sync_done`). That word counts for one chain
  version: this process may not have seen every version, nor that it was out for a while;
- after a power loss that may have taken acknowledged updates (`ChunkEngine.doubtful`), public
  SERVING or LAST_SERVING: doubtful, and it serves nothing. The manager answers by making it wait
  for the others, or LAST_SERVING; a doubtful target that has seen itself LAST_SERVING and then
  SERVING was chosen to go on with what it has;
- asked by the manager to step down (its neighbours do not reach it): the same, without the power
  loss.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2
from luciole.routing import RoutingTable
from luciole.storage.core.replica import Links
from luciole.storage.damage import Damage
from luciole.storage.engine.interface import ChunkEngine

_JUDGED = (mgmtd_pb2.LOCAL_DOUBTFUL, mgmtd_pb2.LOCAL_ASIDE)  # the manager decides
_BEHIND = (mgmtd_pb2.OFFLINE, mgmtd_pb2.WAITING)


@dataclass
class Target:
    """One engine in one chain."""

    target_id: int
    disk: int
    engine: ChunkEngine
    local_state: mgmtd_pb2.LocalState = mgmtd_pb2.LOCAL_ONLINE
    chain_id: int = 0
    chain_version: int = 0
    resync_done: int = 0
    resync_total: int = 0
    resync_seconds_left: int = 0
    device: str = ""  # names the physical device under the engine
    links: Links = field(default_factory=Links)
    unsettled: set[bytes] = field(default_factory=set)  # chunks with an update of unknown fate
    damage: Damage = field(default_factory=Damage)
    doubt_answered: bool = False  # it was made LAST_SERVING while doubtful

    def __post_init__(self) -> None:
        self._links_guard = threading.Lock()
        if self.engine.doubtful:
            self.local_state = mgmtd_pb2.LOCAL_DOUBTFUL

    @property
    def trusted(self) -> bool:
        """Whether others may build on what it holds: its disk works, and no power loss that the
        manager has not judged took something from it."""
        return self.local_state not in {mgmtd_pb2.LOCAL_OFFLINE, *_JUDGED}

    def note_link(self, chain_version: int, link: int) -> int:
        """Takes note of the link that a message came over; returns the newest one."""
        with self._links_guard:
            self.links = self.links.seen(chain_version, link)
            overtaken = self.links.overtaken(chain_version, link)
            return self.links.newest if overtaken else link


class Targets:
    """All targets of this process, by id."""

    def __init__(self, targets: list[Target]) -> None:
        self._targets = {target.target_id: target for target in targets}
        self._guard = threading.Lock()

    def all(self) -> list[Target]:
        """Every target."""
        return list(self._targets.values())

    def get(self, target_id: int) -> Target:
        """Raises FsError NOT_SERVING for a target that lives elsewhere."""
        target = self._targets.get(target_id)
        if target is None:
            raise FsError(Kind.NOT_SERVING, "the target is not on this node",
                          f"target {target_id}")
        return target

    def of_chain(self, chain: mgmtd_pb2.Chain) -> tuple[Target, mgmtd_pb2.PublicState]:
        """This process's member of a chain and its public state.

        Raises FsError CHAIN_VERSION_MISMATCH when there is none.
        """
        for member in chain.targets:
            target = self._targets.get(member.target_id)
            if target is not None:
                return target, member.state
        raise FsError(Kind.CHAIN_VERSION_MISMATCH, "no target of the chain is on this node",
                      f"chain {chain.chain_id}")

    def neighbours(self, table: RoutingTable) -> dict[int, mgmtd_pb2.Node]:
        """The nodes that this one shares chains with, by id."""
        own = {target.target_id for target in self.all()}
        others = {
            member.target_id for chain in table.chains()
            if any(member.target_id in own for member in chain.targets)
            for member in chain.targets} - own
        return {node.node_id: node for node in map(table.node_of, sorted(others))}

    def observe(self, table: RoutingTable) -> None:
        """Takes over what new routing says of our targets."""
        with self._guard:
            for chain in table.chains():
                for member in chain.targets:
                    target = self._targets.get(member.target_id)
                    if target is not None and chain.version >= target.chain_version:
                        self._observe_one(target, chain, member.state)

    @staticmethod
    def _observe_one(
        target: Target, chain: mgmtd_pb2.Chain, state: mgmtd_pb2.PublicState
    ) -> None:
        news = target.chain_version != chain.version
        target.chain_id, target.chain_version = chain.chain_id, chain.version
        if target.local_state == mgmtd_pb2.LOCAL_OFFLINE:
            return
        doubtful = target.local_state in _JUDGED
        if state in _BEHIND or (state == mgmtd_pb2.SYNCING and (news or doubtful)):
            target.local_state = mgmtd_pb2.LOCAL_ONLINE
            _end_doubt(target)
        elif doubtful and state == mgmtd_pb2.LAST_SERVING:
            target.doubt_answered = True
        elif doubtful and state == mgmtd_pb2.SERVING and target.doubt_answered:
            target.local_state = mgmtd_pb2.LOCAL_UP_TO_DATE
            _end_doubt(target)
        elif not doubtful and state in {mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING}:
            target.local_state = mgmtd_pb2.LOCAL_UP_TO_DATE

    def sync_done(self, chain: mgmtd_pb2.Chain) -> None:
        """The predecessor has sent everything under this very chain version."""
        target, state = self.of_chain(chain)
        with self._guard:
            if state == mgmtd_pb2.SYNCING and target.chain_version == chain.version:
                target.local_state = mgmtd_pb2.LOCAL_UP_TO_DATE

    def step_down(self, asked: Iterable[mgmtd_pb2.StepDown]) -> None:
        """These targets answer nothing more until the manager has settled their part."""
        with self._guard:
            for step in asked:
                target = self._targets.get(step.target_id)
                if target is not None and target.chain_version == step.chain_version \
                        and target.local_state == mgmtd_pb2.LOCAL_UP_TO_DATE:
                    target.local_state = mgmtd_pb2.LOCAL_ASIDE

    def set_offline(self, target: Target) -> None:
        """The disk failed: the target is out until the process starts anew."""
        with self._guard:
            target.local_state = mgmtd_pb2.LOCAL_OFFLINE

    async def reports(self) -> list[mgmtd_pb2.TargetReport]:
        """What a heartbeat says of each target."""
        reports = []
        for target in self.all():
            report = mgmtd_pb2.TargetReport(
                target_id=target.target_id, state=target.local_state, disk=target.disk,
                chain_version=target.chain_version, resync_done=target.resync_done,
                resync_total=target.resync_total,
                resync_seconds_left=target.resync_seconds_left,
                device=target.device, content_id=target.engine.content_id)
            target.damage.tell(report)
            try:
                space = await target.engine.space()
            except FsError:
                self.set_offline(target)
                report.state = mgmtd_pb2.LOCAL_OFFLINE
            else:
                report.used_bytes, report.chunks = space.used, space.chunks
                report.capacity_bytes, report.free_bytes = space.capacity, space.free
            reports.append(report)
        return reports


def _end_doubt(target: Target) -> None:
    try:
        target.engine.trust()
    except FsError:
        target.local_state = mgmtd_pb2.LOCAL_OFFLINE
