"""What the metadata and the storage service have in common as processes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from luciole.client.remote.connections import connections_of
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.client.remote.membership import (
    Membership,
    Reports,
    all_reached,
    has_no_part,
    no_targets,
)
from luciole.config import MetaConfig, StorageConfig, overlay
from luciole.errors import FsError, Retry
from luciole.proto import mgmtd_pb2
from luciole.rpc.interface import Memory, pages
from luciole.rpc.serving import Ports
from luciole.rpc.slices import Slices
from luciole.runtime import Runtime, drive

MemberConfigT = TypeVar("MemberConfigT", MetaConfig, StorageConfig)

MANAGER_WAIT_S = 15.0
MANAGER_PAUSE_S = 0.2


class Node:
    """A process's connections, routing and manager, on threads.

    `memory` is where the process receives and reads what it may send on to storage services.
    """

    def __init__(
        self, runtime: Runtime, config: MetaConfig | StorageConfig, kind: mgmtd_pb2.NodeKind
    ) -> None:
        self.runtime = runtime
        self._config = config
        self._kind = kind
        forwards = kind == mgmtd_pb2.STORAGE and config.transport != "tcp"
        self.memory: Memory = Slices().take if forwards else pages
        self.connections = connections_of(
            config, f"{_service(kind)}-{config.node_id}", memory=self.memory)
        self.routing = RoutingCache(runtime)
        self.manager = Manager(runtime, self.connections, config.mgmtd, self.routing)
        self.client_id = runtime.entropy.token(16)

    def membership(
        self, ports: Ports, reports: Reports = no_targets, *,
        unreachable: Callable[[], list[mgmtd_pb2.Unreachable]] = all_reached,
        step_down: Callable[[Iterable[mgmtd_pb2.StepDown]], None] = has_no_part,
        kv_capacity: int = 0,
    ) -> Membership:
        """This node as a member, listening on `ports`, with a volume of the KV cache of so many
        bytes; the rest as for `Membership`."""
        node = mgmtd_pb2.Node(
            node_id=self._config.node_id, kind=self._kind, host=self._config.host,
            rpc_port=ports.rpc, grpc_port=ports.grpc, local=ports.local,
            kv_capacity_bytes=kv_capacity,
            generation=int.from_bytes(self.runtime.entropy.token(7), "little"))
        return Membership(
            self.runtime, self.manager, self._config.cluster_id, node, reports,
            unreachable=unreachable, step_down=step_down)


def _service(kind: mgmtd_pb2.NodeKind) -> str:
    return mgmtd_pb2.NodeKind.Name(kind).lower()


def cluster_config(
    runtime: Runtime, config: MemberConfigT, kind: mgmtd_pb2.NodeKind
) -> MemberConfigT:
    """`config` with what the cluster's operators set for all services of this kind.

    Waits for a manager that is starting up. Raises its FsError when none answers.
    """
    service = _service(kind)
    node = Node(runtime, config, kind)  # of its own: what is set may change how nodes are reached
    deadline = runtime.clock.now() + MANAGER_WAIT_S
    request = mgmtd_pb2.GetConfigRequest(service=service)

    async def ask() -> mgmtd_pb2.GetConfigReply:
        while True:
            try:
                return await node.manager.call(
                    lambda stub: stub.get_config(request, timeout=2.0))
            except FsError as failure:
                if failure.facts.retry is Retry.NEVER or runtime.clock.now() > deadline:
                    raise
                await runtime.sleep(MANAGER_PAUSE_S)

    try:
        reply = drive(ask())
    finally:
        node.connections.close()
    return overlay(config, reply.content, f"{service} configuration version {reply.version}")
