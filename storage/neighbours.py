"""Which nodes this one shares chains with, and which of them do not answer it.

Layer: shell. A node that is silent to the manager is taken out by it. Two nodes may yet reach the
manager and not each other: so each asks all that it shares a chain with, again and again, whether
they are there, and its heartbeats name those that are not. A probe is nothing but its answer, so
that a successor that waits for its own successor is not taken for the one to blame.

Silence is counted in probes: a process that stood still itself must not blame the others for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from luciole.errors import FsError
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.runtime import Runtime
from luciole.storage.ports import Peers, Routing
from luciole.storage.targets import Targets

PROBE_TIMEOUT_S = 1.0
LOST_S = 1.5  # of silence: calls under way are not worth waiting for


class SeverablePeers(Peers, Protocol):
    """Connections that can be given up."""

    def sever(self, node: mgmtd_pb2.Node) -> None:
        """Makes every call to a node fail now."""


class Neighbours:
    """The nodes that share chains with this one."""

    def __init__(
        self, runtime: Runtime, targets: Targets, routing: Routing, peers: SeverablePeers,
        *, interval_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._routing = routing
        self._peers = peers
        self._interval = interval_seconds
        self._silent: dict[int, float] = {}  # node id -> seconds, of those that do not answer

    async def probe_once(self) -> None:
        """Asks every neighbour whether it is there."""
        nodes = self._targets.neighbours(self._routing.current())
        self._silent = {
            node_id: seconds for node_id, seconds in self._silent.items() if node_id in nodes}
        calls: list[Callable[[], Awaitable[None]]] = [
            partial(self._probe, node) for node in nodes.values()]
        await self._runtime.gather(calls)

    async def _probe(self, node: mgmtd_pb2.Node) -> None:
        now = self._runtime.clock.now
        began = now()
        try:
            await self._peers.storage(node).probe(common_pb2.Empty(), timeout=PROBE_TIMEOUT_S)
        except FsError:
            # The pause before this probe was silent, too, if the probe before it was.
            pause = self._interval if node.node_id in self._silent else 0.0
            silent = self._silent.get(node.node_id, 0.0) + pause
            self._silent[node.node_id] = silent + min(now() - began, PROBE_TIMEOUT_S)
        else:
            self._silent.pop(node.node_id, None)

    def unreachable(self) -> list[mgmtd_pb2.Unreachable]:
        """Those that do not answer, for the next heartbeat."""
        return [mgmtd_pb2.Unreachable(node_id=node_id, for_ms=int(seconds * 1000))
                for node_id, seconds in sorted(self._silent.items())]

    def sever_lost(self) -> None:
        """Ends calls to those that are lost: routing has changed, what waits must look again."""
        table = self._routing.current()
        lost = {node_id for node_id, seconds in self._silent.items() if seconds >= LOST_S}
        for node_id, node in self._targets.neighbours(table).items():
            if node_id in lost:
                self._peers.sever(node)
