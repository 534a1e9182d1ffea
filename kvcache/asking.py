"""Asks the right volumes, side by side, and is not held up by those that fail.

Layer: shell; coroutines that await only their ports (luciole/runtime.py). A volume that fails is no
error: its keys are misses with a reason, and for a moment it is not asked again. Placement follows
routing and is made anew when the volumes change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.core.placement import Placement
from luciole.kvcache.remote import VolumeCalls
from luciole.proto import mgmtd_pb2
from luciole.runtime import Runtime, side_by_side

AVOID_S = 1.0  # a volume that failed is not asked again for so long
PATIENT_S = 0.05  # with less time than this, a late answer says nothing of the volume
# What a volume answers while it works: it is asked again at once.
_ALIVE = (Kind.NOT_FOUND, Kind.INVALID_ARGUMENT, Kind.NO_SPACE)

Ask = Callable[[int, VolumeCalls, list[int]], Awaitable[None]]  # node, its calls, which keys
Settled = Callable[[int], bool]


class Deadline:
    """When a call is to be back."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._clock = runtime.clock
        self.began = runtime.clock.now()
        self._at = self.began + seconds

    def remaining(self) -> float:
        """Seconds that are left."""
        return self._at - self._clock.now()

    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._clock.now() - self.began


class Volumes:
    """The volumes that routing shows, shared by all namespaces of a store."""

    def __init__(
        self, runtime: Runtime, connections: Connections, routing: RoutingCache
    ) -> None:
        self.runtime = runtime
        self._routing = routing
        self._connections = connections
        self._placement = Placement({})
        self._seen = -1
        self._avoided: dict[int, float] = {}  # node -> until when

    def placement(self) -> Placement:
        """By the newest routing."""
        if self._seen != self._routing.version:
            table = self._routing.current()
            capacities = table.kv_volumes()
            if capacities != self._placement.capacities:
                self._placement = Placement(capacities)
            self._seen = table.version
        return self._placement

    async def ask(
        self, record: mgmtd_pb2.KvNamespace, keys: Sequence[bytes], wanted: Sequence[int],
        deadline: Deadline, ask: Ask, *, settled: Settled | None = None,
        outcomes: list[Outcome] | None = None, size: int = 0,
    ) -> None:
        """Asks the first choice of each wanted key, then the second of those not settled, ….

        Args:
            record: of the namespace; its replication says how many choices there are.
            keys: of a call.
            wanted: indices of those that are asked for.
            deadline: of the call.
            ask: asks one volume for some of them. Its FsError ends its part, not the call.
            settled: whether a key needs no other volume; without, all choices are asked.
            outcomes: of all keys; told why a volume was not asked.
            size: of the blocks that are moved, about, in bytes.
        """
        placement = self.placement()
        nodes = list(placement.capacities)
        at_once = side_by_side(self.runtime, size)

        async def part(node_id: int, indices: list[int]) -> None:
            reason = await self._part(node_id, record.namespace_id, indices, deadline, ask)
            if reason is not None and outcomes is not None:
                for index in indices:
                    if not outcomes[index].ok:
                        outcomes[index] = reason

        for rank in range(min(record.replication, len(nodes))):
            left = [i for i in wanted if not settled(i)] if rank and settled else wanted
            if not left:
                return
            by_node: dict[int, list[int]] = {}
            if len(nodes) == 1:
                by_node[nodes[0]] = list(left)
            else:
                for index in left:
                    node_id = placement.ranking(record.namespace_id, keys[index])[rank]
                    by_node.setdefault(node_id, []).append(index)
            await at_once([
                _bound(part, node_id, indices) for node_id, indices in by_node.items()])

    async def ask_all(self, namespace_id: int, deadline: Deadline, ask: Ask) -> None:
        """Asks every volume, about no key in particular. Those that fail say nothing."""

        async def part(node_id: int, indices: list[int]) -> None:
            await self._part(node_id, namespace_id, indices, deadline, ask)

        await self.runtime.gather([
            _bound(part, node_id, []) for node_id in self.placement().capacities])

    async def _part(
        self, node_id: int, namespace_id: int, indices: list[int], deadline: Deadline, ask: Ask
    ) -> Outcome | None:
        """One volume's part; why it was not asked, or None."""
        if deadline.remaining() <= 0:
            return Outcome.LATE
        calls = self.calls(node_id, namespace_id, deadline)
        if calls is None:
            return Outcome.UNREACHABLE
        patient = deadline.remaining() > PATIENT_S
        try:
            await ask(node_id, calls, indices)
        except FsError as failure:
            if failure.kind not in _ALIVE and (
                    patient or failure.kind != Kind.DEADLINE_EXCEEDED):
                self._avoided[node_id] = self.runtime.clock.now() + AVOID_S
        return None

    def calls(self, node_id: int, namespace_id: int, deadline: Deadline) -> VolumeCalls | None:
        """Calls to a node's volume; None while it is avoided."""
        until = self._avoided.get(node_id)
        if until is not None and self.runtime.clock.now() < until:
            return None
        try:
            node = self._routing.current().node(node_id)
        except FsError:
            return None
        return VolumeCalls(self._connections.kv_cache(node), namespace_id, deadline.remaining)


def _bound(
    part: Callable[[int, list[int]], Awaitable[None]], node_id: int, indices: list[int]
) -> Callable[[], Awaitable[None]]:
    return lambda: part(node_id, indices)


def explain(outcomes: list[Outcome], failure: FsError) -> None:
    """Says in `outcomes` why those that are LATE did not come."""
    if failure.kind != Kind.DEADLINE_EXCEEDED:
        reason = Outcome.MISS if failure.kind in _ALIVE else Outcome.UNREACHABLE
        for index, outcome in enumerate(outcomes):
            if outcome is Outcome.LATE:
                outcomes[index] = reason
