"""The cluster manager as clients and servers see it: calls, and routing kept up to date.

`RoutingCache` holds the newest table; `Manager.follow` is the long poll that feeds it. A process
runs `follow` in a loop; whoever finds its routing too old waits in `newer_than`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from luciole.client.remote.connections import Connections
from luciole.config import parse_address
from luciole.errors import FsError, Kind, Retry
from luciole.proto import mgmtd_pb2
from luciole.proto.services import MgmtdStub
from luciole.routing import RoutingTable
from luciole.runtime import Runtime

T = TypeVar("T")
# A primary that stops answering without breaking its connections is noticed after the sum.
POLL_MS = 3000
POLL_SLACK_S = 1.5
ELECTION_S = 6.0  # thrice the lease of a primary
ELECTION_PAUSE_S = 0.2


class RoutingCache:
    """The newest routing that this process has seen."""

    def __init__(self, runtime: Runtime) -> None:
        self._signal = runtime.signal()
        self._table: RoutingTable | None = None

    @property
    def version(self) -> int:
        """Version of the table, 0 before the first."""
        return self._table.version if self._table else 0

    def current(self) -> RoutingTable:
        """The table. Raises FsError UNAVAILABLE before the first arrived."""
        if self._table is None:
            raise FsError(Kind.UNAVAILABLE, "no routing yet: the cluster manager has not answered")
        return self._table

    async def newer_than(self, version: int, timeout: float) -> RoutingTable:
        """Waits up to `timeout` seconds for a newer table; returns the current one either way."""
        seen = self._signal.count
        if self.version <= version:
            await self._signal.wait(seen, timeout)
        return self.current()

    def newly_failed(self, routing: mgmtd_pb2.Routing) -> list[mgmtd_pb2.Node]:
        """Nodes that a newer table calls failed and this one does not."""
        before = {node.node_id for node in self._table.routing.nodes
                  if node.state == mgmtd_pb2.FAILED} if self._table else set()
        return [node for node in routing.nodes
                if node.state == mgmtd_pb2.FAILED and node.node_id not in before]

    def replace(self, routing: mgmtd_pb2.Routing) -> None:
        """Takes over a table unless a newer one is here."""
        if routing.version > self.version:
            self._table = RoutingTable(routing)
            self._signal.notify()


class Manager:
    """Calls to whichever manager is the primary."""

    def __init__(
        self, runtime: Runtime, connections: Connections, addresses: list[str],
        routing: RoutingCache,
    ) -> None:
        self._runtime = runtime
        self._connections = connections
        self._addresses = [parse_address(address) for address in addresses]
        self._primary: tuple[str, int] | None = None  # who answered last
        self.routing = routing

    async def call(
        self, ask: Callable[[MgmtdStub], Awaitable[T]], patience: float = ELECTION_S
    ) -> T:
        """Asks the primary manager. Raises the failure that lasts.

        Args:
            ask: makes one call, with a timeout of its own.
            patience: seconds for which an election that is under way is waited for.
        """
        deadline = self._runtime.clock.now() + patience
        while True:
            try:
                return await self._ask_each(ask)
            except FsError as failure:
                # Only a manager that runs can say so: one will soon lead.
                if failure.kind != Kind.NOT_PRIMARY \
                        or self._runtime.clock.now() + ELECTION_PAUSE_S >= deadline:
                    raise
            await self._runtime.sleep(ELECTION_PAUSE_S)

    async def _ask_each(self, ask: Callable[[MgmtdStub], Awaitable[T]]) -> T:
        """Asks each manager once: the one that answered last first, then as they point."""
        waiting = [self._primary, *self._addresses] if self._primary else [*self._addresses]
        asked: set[tuple[str, int]] = set()
        failure = FsError(Kind.UNAVAILABLE, "no manager address is configured")
        hint_left = True
        while waiting:
            address = waiting.pop(0)
            if address in asked:
                continue
            asked.add(address)
            try:
                reply = await ask(self._connections.mgmtd(address))
            except FsError as problem:
                if problem.facts.retry is Retry.NEVER:
                    raise
                if failure.kind != Kind.NOT_PRIMARY:
                    failure = problem
                if problem.kind == Kind.NOT_PRIMARY and problem.subject and hint_left:
                    hint_left = False
                    waiting.insert(0, parse_address(problem.subject))
            else:
                self._primary = address
                return reply
        raise failure

    async def follow(self, wait_ms: int = POLL_MS) -> None:
        """One long poll: returns when routing changed or after `wait_ms`. Raises FsError."""
        request = mgmtd_pb2.GetRoutingRequest(
            known_version=self.routing.version, wait_ms=wait_ms)
        reply = await self.call(
            lambda stub: stub.get_routing(request, timeout=wait_ms / 1000 + POLL_SLACK_S))
        if reply.HasField("routing"):
            failed = self.routing.newly_failed(reply.routing)
            self.routing.replace(reply.routing)
            for node in failed:
                self._connections.sever(node)

    async def wait_for_routing(self, timeout: float) -> RoutingTable:
        """Fetches the first table. Raises the manager's FsError after `timeout` seconds."""
        deadline = self._runtime.clock.now() + timeout
        while True:
            try:
                await self.follow(wait_ms=0)
                return self.routing.current()
            except FsError as failure:
                if failure.facts.retry is Retry.NEVER or self._runtime.clock.now() >= deadline:
                    raise
                await self._runtime.sleep(0.1)
