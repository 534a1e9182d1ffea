"""Serves handlers on the framed protocol and on gRPC, for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from luciole.config import ServiceConfig
from luciole.proto.method import Service
from luciole.rpc.dispatch import Services
from luciole.rpc.grpc_binding import GrpcServer
from luciole.rpc.tcp_server import FramedServer


class Ports(NamedTuple):
    """Where a service listens."""

    rpc: int
    grpc: int


@contextmanager
def serving(
    config: ServiceConfig, service: Service, handler: object, beside: Services = ()
) -> Iterator[Ports]:
    """Starts both servers, stops them gracefully. Raises FsError when a port is taken.

    Args:
        config: names and addresses.
        service: by which the process is known.
        handler: of that service.
        beside: other services of the same process, with their handlers.
    """
    served = [(service, handler), *beside]
    name = f"{service.name.lower()}-{config.node_id}"
    framed = FramedServer(
        (config.host, config.rpc_port), served, cluster_id=config.cluster_id,
        name=name, kind=service.name.lower())
    rpc_port = framed.start()
    try:
        grpc_server = GrpcServer(
            (config.host, config.grpc_port), served, cluster_id=config.cluster_id)
        grpc_port = grpc_server.start()
        try:
            yield Ports(rpc_port, grpc_port)
        finally:
            grpc_server.stop()
    finally:
        framed.stop()
