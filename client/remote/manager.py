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
POLL_MS = 10_000
CALL_TIMEOUT_S = 5.0


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

    def replace(self, routing: mgmtd_pb2.Routing) -> None:
        """Takes over a table unless a newer one is here."""
        if routing.version > self.version:
            self._table = RoutingTable(routing)
            self._signal.notify()


class Manager:
    """Calls to whichever manager answers."""

    def __init__(
        self, runtime: Runtime, connections: Connections, addresses: list[str],
        routing: RoutingCache,
    ) -> None:
        self._runtime = runtime
        self._connections = connections
        self._addresses = [parse_address(address) for address in addresses]
        self._first = 0
        self.routing = routing

    async def call(self, ask: Callable[[MgmtdStub], Awaitable[T]]) -> T:
        """Asks each manager once, the one that answered last first. Raises the last failure."""
        failure = FsError(Kind.UNAVAILABLE, "no manager address is configured")
        for step in range(len(self._addresses)):
            position = (self._first + step) % len(self._addresses)
            try:
                reply = await ask(self._connections.mgmtd(self._addresses[position]))
            except FsError as problem:
                failure = problem
                if problem.facts.retry is Retry.NEVER:
                    raise
            else:
                self._first = position
                return reply
        raise failure

    async def follow(self, wait_ms: int = POLL_MS) -> None:
        """One long poll: returns when routing changed or after `wait_ms`. Raises FsError."""
        request = mgmtd_pb2.GetRoutingRequest(
            known_version=self.routing.version, wait_ms=wait_ms)
        reply = await self.call(
            lambda stub: stub.get_routing(request, timeout=wait_ms / 1000 + CALL_TIMEOUT_S))
        if reply.HasField("routing"):
            self.routing.replace(reply.routing)

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
