"""A service as a member of the cluster: registration, heartbeats, and the fence.

The manager acts on a silent member after its lease T. A member that has not reached the manager
for T/2 fences itself: it answers no data request, so that what the manager then decides cannot
contradict what this process still serves. Both sides count from the moment at which the member
*sent* its last heartbeat that was answered; only the difference in clock rate matters, and T/2 is
ample for it.

A fence that fell may have cost this process its part in chains. Heartbeats are answered again
before the new routing has come, so the fence opens only with routing as new as the manager's at
that time: else readers with old routing would find here what others have overwritten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from luciole.client.remote.manager import Manager
from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.proto import mgmtd_pb2
from luciole.runtime import Runtime

log = get_logger("membership")
HEARTBEAT_TIMEOUT_S = 1.0  # then the next manager is asked
NO_PATIENCE = 0.0  # the loop asks again, with fresh reports
Reports = Callable[[], Awaitable[list[mgmtd_pb2.TargetReport]]]


async def no_targets() -> list[mgmtd_pb2.TargetReport]:
    """The reports of a service without targets."""
    return []


def all_reached() -> list[mgmtd_pb2.Unreachable]:
    """The word of a service that need not reach others."""
    return []


def has_no_part(asked: Iterable[mgmtd_pb2.StepDown]) -> None:
    """The answer of a service without targets."""


class Membership:
    """Registers a node and keeps its lease."""

    def __init__(
        self,
        runtime: Runtime,
        manager: Manager,
        cluster_id: str,
        node: mgmtd_pb2.Node,
        reports: Reports = no_targets,
        *,
        unreachable: Callable[[], list[mgmtd_pb2.Unreachable]] = all_reached,
        step_down: Callable[[Iterable[mgmtd_pb2.StepDown]], None] = has_no_part,
    ) -> None:
        self._runtime = runtime
        self._manager = manager
        self._cluster_id = cluster_id
        self._node = node
        self._reports = reports
        self._unreachable = unreachable
        self._step_down = step_down
        self._registered = False
        self._fenced_at = 0.0
        self._needs_routing = 0  # the version without which the fence stays closed

    def check(self) -> None:
        """Raises FsError NOT_SERVING when the manager may have taken this node for dead."""
        if self._runtime.clock.now() >= self._fenced_at:
            raise FsError(Kind.NOT_SERVING, "this node has lost touch with the manager and "
                          "serves nothing until it answers", f"node {self._node.node_id}")
        if self._manager.routing.version < self._needs_routing:
            raise FsError(Kind.NOT_SERVING, "this node was out of touch and serves nothing until "
                          f"routing version {self._needs_routing} arrives",
                          f"node {self._node.node_id}")

    async def beat(self) -> None:
        """Registers, or sends one heartbeat. Raises FsError."""
        sent_at = self._runtime.clock.now()
        reports = await self._reports()
        if not self._registered:
            reply: mgmtd_pb2.RegisterNodeReply | mgmtd_pb2.HeartbeatReply
            reply = await self._register(reports)
        else:
            request = mgmtd_pb2.HeartbeatRequest(
                cluster_id=self._cluster_id, node_id=self._node.node_id,
                generation=self._node.generation, targets=reports,
                unreachable=self._unreachable())
            try:
                reply = await self._manager.call(
                    lambda stub: stub.heartbeat(request, timeout=HEARTBEAT_TIMEOUT_S),
                    NO_PATIENCE)
            except FsError as failure:
                if failure.kind == Kind.NOT_FOUND:
                    self._registered = False
                raise
            self._step_down(reply.step_down)
        if sent_at >= self._fenced_at:
            self._needs_routing = reply.routing_version
        self._fenced_at = sent_at + reply.lease_ms / 2000

    async def _register(
        self, reports: list[mgmtd_pb2.TargetReport]
    ) -> mgmtd_pb2.RegisterNodeReply:
        request = mgmtd_pb2.RegisterNodeRequest(
            cluster_id=self._cluster_id, node=self._node, targets=reports)
        reply = await self._manager.call(
            lambda stub: stub.register_node(request, timeout=HEARTBEAT_TIMEOUT_S),
            NO_PATIENCE)
        self._registered = True
        log.info("registered", node=self._node.node_id, routing=reply.routing_version)
        return reply
