"""The metadata service as a client sees it: any server, tried again until the deadline.

Mutating requests get an id before the first attempt and keep it through all of them, so that the
servers can tell a retry from a new request (meta/core/idempotency.py). Threads may share a client:
the lock makes taking a number and naming the oldest one that is open a single step.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, mgmtd_pb2, services
from luciole.proto.method import Method
from luciole.retry import retrying
from luciole.routing import RoutingTable
from luciole.runtime import Runtime

# What a writer tells with it is for others to see, and need not survive a power loss.
REPORT = partial(meta_pb2.FsyncRequest, report_only=True)
RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


class MetaClient:
    """Calls to the metadata services of a cluster."""

    def __init__(
        self,
        runtime: Runtime,
        connections: Connections,
        routing: RoutingCache,
        client_id: bytes,
        *,
        attempt_seconds: float,
        total_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._connections = connections
        self._routing = routing
        self.client_id = client_id
        self.attempt_seconds = attempt_seconds
        self._total_seconds = total_seconds
        self._servers: tuple[RoutingTable | None, list[mgmtd_pb2.Node]] = None, []
        self._sticky = runtime.entropy.below(1 << 16)
        self._guard = threading.Lock()
        self._sequence = 0
        self._outstanding: dict[int, None] = {}  # in order of begin: the first is the oldest

    async def ask(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """A call that changes nothing. Raises FsError."""
        deadline = self._runtime.clock.now() + self._total_seconds

        async def attempt(number: int) -> ReplyT:
            caller = self._connections.node(self._node(number))
            remaining = max(0.001, deadline - self._runtime.clock.now())
            return await caller.call(
                method, request, timeout=min(self.attempt_seconds, remaining))

        return await retrying(self._runtime, deadline, attempt, self._reroute)

    async def change(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """A call that changes something, done once however often it is sent. Raises FsError."""
        with self._guard:
            self._sequence += 1
            sequence = self._sequence
            self._outstanding[sequence] = None
            oldest = next(iter(self._outstanding))
        request_id: common_pb2.RequestId = request.request_id  # type: ignore[attr-defined]
        request_id.client_id = self.client_id
        request_id.sequence = sequence
        request_id.first_incomplete = oldest
        try:
            return await self.ask(method, request)
        finally:
            with self._guard:
                del self._outstanding[sequence]

    async def fsync(self, inode_id: int) -> None:
        """All that was changed before by anybody, names too, survives a power loss of the store.

        The inode is what the caller is asked about; it is not looked at. Raises FsError.
        """
        await self.ask(services.META_FSYNC, meta_pb2.FsyncRequest(inode_id=inode_id))

    def _node(self, number: int) -> mgmtd_pb2.Node:
        table = self._routing.current()
        known, nodes = self._servers
        if known is not table:
            every = table.nodes(mgmtd_pb2.META)
            nodes = [node for node in every if node.state == mgmtd_pb2.CONNECTED] or every
            self._servers = table, nodes
        if not nodes:
            raise FsError(Kind.UNAVAILABLE, "no metadata service is registered")
        return nodes[(self._sticky + number) % len(nodes)]

    async def _reroute(self, seconds: float) -> None:
        await self._routing.newer_than(self._routing.version, seconds)
