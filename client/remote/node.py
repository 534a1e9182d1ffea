"""What the metadata and the storage service have in common as processes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.client.remote.membership import (
    Membership,
    Reports,
    all_reached,
    has_no_part,
    no_targets,
)
from luciole.config import ConfigT, MetaConfig, StorageConfig, overlay
from luciole.errors import FsError, Retry
from luciole.proto import mgmtd_pb2
from luciole.proto.services import Caller
from luciole.rpc.serving import Ports
from luciole.rpc.tcp_client import BlockingCaller
from luciole.runtime import Runtime, drive

MANAGER_WAIT_S = 15.0
MANAGER_PAUSE_S = 0.2


class Node:
    """A process's connections, routing and manager, on threads."""

    def __init__(
        self, runtime: Runtime, config: MetaConfig | StorageConfig, kind: mgmtd_pb2.NodeKind
    ) -> None:
        self.runtime = runtime
        self._config = config
        self._kind = kind
        name = f"{mgmtd_pb2.NodeKind.Name(kind).lower()}-{config.node_id}"

        def connect(address: tuple[str, int]) -> Caller:
            return BlockingCaller(address, cluster_id=config.cluster_id, name=name)

        self.connections = Connections(connect)
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


def cluster_config(config: ConfigT, service: str, node: Node) -> ConfigT:
    """`config` with what the cluster's operators set for all services of this kind.

    Waits for a manager that is starting up. Raises its FsError when none answers.
    """
    runtime = node.runtime
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

    reply = drive(ask())
    return overlay(config, reply.content, f"{service} configuration version {reply.version}")
