"""What one incarnation of a volume has promised, and whether it keeps it.

Layer: tests. `Watch` hears every request that the volume answers, and what it answered. It looks
after each: a leased block is there until its lease ends, and no namespace grows beyond its limit.
A volume forgets leases when it dies, and so does its watch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from luciole.clock import Clock
from luciole.kvcache.core.packing import split_keys
from luciole.kvcache.core.slots import Slot
from luciole.kvcache.core.space import Space
from luciole.kvcache.volume.volume import Volume
from luciole.proto import kvcache_pb2
from luciole.tests.sim.platter import Block, Platter

if TYPE_CHECKING:
    from luciole.tests.sim.world import World


REMEMBERED_S = 20.0  # after its end, a lease


@dataclass
class Promise:
    """A lease. Until then its blocks stay, by the volume's clock."""

    until: float
    granted: set[Block] = field(default_factory=set)
    kept: set[Block] = field(default_factory=set)  # without those that were deleted


class Watch:
    """See the module."""

    def __init__(
        self, world: World, name: str, volume: Volume, clock: Clock, platter: Platter
    ) -> None:
        self._world = world
        self._name = name
        self._volume = volume
        self._clock = clock
        self._platter = platter
        self._promises: dict[int, Promise] = {}
        self._unexplained: list[Block] = []  # damaged ones
        self._deleting: Counter[Block] = Counter()
        # What each namespace may take: more than its limit only as long as it was lowered or not
        # yet told, and less and less.
        self._ceilings: dict[int, float] = {
            number: level(space) for number, space in volume.spaces.items()}

    def holds(self, lease_id: int, block: Block) -> bool:
        """Whether a block is promised now."""
        promise = self._promises.get(lease_id)
        return (promise is not None and block in promise.kept and not self._deleting[block]
                and self._clock.now() < promise.until)

    def granted(self, lease_id: int, block: Block) -> bool:
        """Whether a block was ever promised under this lease."""
        promise = self._promises.get(lease_id)
        return promise is not None and block in promise.granted

    def before(self, request: Message) -> None:
        """A request is about to be served: what it deletes is promised no more."""
        if isinstance(request, kvcache_pb2.KvDeleteRequest):
            self._deleting.update(self._deleted_by(request))

    def ended(self, request: Message) -> None:
        """It was served or refused. What was leased while it was being deleted is not promised."""
        if isinstance(request, kvcache_pb2.KvDeleteRequest):
            gone = self._deleted_by(request)
            for promise in self._promises.values():
                promise.kept -= gone
            self._deleting.subtract(gone)

    @staticmethod
    def _deleted_by(request: kvcache_pb2.KvDeleteRequest) -> set[Block]:
        return {(request.namespace_id, key)
                for key in split_keys(request.key_size, request.keys)}

    def after(self, request: Message, reply: Message) -> None:
        """It was served, and this is the answer."""
        now = self._clock.now()
        if isinstance(request, kvcache_pb2.KvMatchRequest):
            assert isinstance(reply, kvcache_pb2.KvMatchReply)
            keys = split_keys(request.key_size, request.keys)[: reply.count]
            if request.lease_ms and keys:
                # With two copies a node is asked twice: for its own blocks, and for second copies.
                lease = self._promises.setdefault(request.lease_id, Promise(now))
                if lease.until <= now:
                    lease.kept.clear()  # it had ended, and is made anew
                lease.until = max(lease.until, now + request.lease_ms / 1000)
                lease.granted |= {(request.namespace_id, key) for key in keys}
                lease.kept |= {(request.namespace_id, key) for key in keys}
        elif isinstance(request, kvcache_pb2.KvLeaseRequest):
            assert isinstance(reply, kvcache_pb2.KvLeaseReply)
            promise = self._promises.get(request.lease_id)
            if promise is not None:
                if now < promise.until and not reply.found:
                    self._violate(f"lease {request.lease_id} is not there until {promise.until}")
                promise.until = now + request.lease_ms / 1000 if reply.found else now
        self.verify()

    def damaged(self, block: Block) -> None:
        """A block did not read back. Power loss and rot may do it, the death of a process not.

        Called on a stage, so that it is told of later.
        """
        self._world.count("kv damaged")
        if not self._platter.lost_power and block not in self._platter.rotten:
            self._unexplained.append(block)
        for promise in self._promises.values():
            promise.kept.discard(block)

    def configured(self) -> None:
        """Limits have come: namespaces that take more may do so until they have shrunk."""
        spaces = self._volume.spaces
        self._ceilings = {
            number: max(inf if space.limit is None else space.limit, level(space))
            for number, space in spaces.items()}
        for promise in self._promises.values():
            promise.kept = {block for block in promise.kept if block[0] in spaces}
        self.verify()

    def verify(self) -> None:
        """Looks at the volume."""
        volume, now = self._volume, self._clock.now()
        while self._unexplained:
            self._violate(f"block {told(self._unexplained.pop())} is damaged by nothing")
        for old in [number for number, promise in self._promises.items()
                    if promise.until + REMEMBERED_S < now]:
            del self._promises[old]
        for lease_id, promise in self._promises.items():
            if now < promise.until:
                for number, key in sorted(promise.kept):
                    if self._deleting[number, key]:
                        continue
                    if number not in volume.spaces or key not in volume.spaces[number].index:
                        promise.kept.discard((number, key))
                        self._violate(f"block {told((number, key))} is gone at {now:.3f}, leased "
                                      f"until {promise.until:.3f} by {lease_id}")
        for number, space in volume.spaces.items():
            taken, ceiling = level(space), self._ceilings.get(number, inf)
            if taken > ceiling:
                self._violate(f"namespace {number} takes {taken} bytes, its limit is {space.limit}")
            limit = inf if space.limit is None else space.limit
            self._ceilings[number] = max(min(ceiling, taken), min(ceiling, limit))

    def _violate(self, message: str) -> None:
        self._world.violate(f"{self._name}: {message}")


def level(space: Space[Slot]) -> int:
    """Bytes of a namespace's blocks, those on their way in too."""
    return space.used + space.reserved


def told(block: Block) -> str:
    """A block, for people."""
    return f"{block[0]}/{block[1].hex()[:12]}"
