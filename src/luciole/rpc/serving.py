"""Serves handlers on every transport, for as long as a block runs.

Layer: shell. The Unix socket has an abstract name with a random part: no file is left behind, no
path is too long, and who connects to it has found this very process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from luciole.config import ServiceConfig
from luciole.proto.method import Service
from luciole.rpc.dispatch import Services
from luciole.rpc.grpc_binding import GrpcServer
from luciole.rpc.interface import Memory, pages
from luciole.rpc.rdma_device import Settings
from luciole.rpc.tcp_server import FramedServer


class Ports(NamedTuple):
    """Where a service listens."""

    rpc: int
    grpc: int
    local: str = ""  # name of a Unix socket for callers on this machine, where memory is shared


@contextmanager
def serving(
    config: ServiceConfig, service: Service, handler: object, beside: Services = (),
    memory: Memory = pages,
) -> Iterator[Ports]:
    """Starts all servers, stops them gracefully. Raises FsError when a port is taken.

    Args:
        config: names and addresses.
        service: by which the process is known.
        handler: of that service.
        beside: other services of the same process, with their handlers.
        memory: as for `FramedServer`.
    """
    served = [(service, handler), *beside]
    kind = service.name.lower()
    name = f"{kind}-{config.node_id}"
    local_name = f"\0luciole-{name}-{os.urandom(8).hex()}"
    framed = FramedServer(
        (config.host, config.rpc_port), served, cluster_id=config.cluster_id, name=name, kind=kind,
        memory=memory, rdma=Settings(
            config.rdma_device, config.rdma_port, config.rdma_gid_index, config.rdma_setup))
    local = FramedServer(
        local_name, served, cluster_id=config.cluster_id, name=name, kind=kind, memory=memory)
    grpc_server = GrpcServer(
        (config.host, config.grpc_port), served, cluster_id=config.cluster_id)
    with ExitStack() as running:
        rpc_port = framed.start()
        running.callback(framed.stop)
        local.start()
        running.callback(local.stop)
        grpc_port = grpc_server.start()
        running.callback(grpc_server.stop)
        yield Ports(rpc_port, grpc_port, local_name[1:])
