"""`luciole doctor`: how this machine reaches each node of a cluster, and why not in a better way.

Layer: shell. It connects as a client would, by the client's own `transport`; and asks each storage
service how it reaches those that it shares chains with.
"""

from __future__ import annotations

import argparse

import msgspec
from rich.table import Table

from luciole.client.remote.connections import rdma_settings
from luciole.config import ClientConfig
from luciole.deploy.commands import Commands
from luciole.deploy.connect import add_cluster_options, client_config, open_client
from luciole.deploy.output import answers, print_json
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.proto.services import StorageStub
from luciole.rpc.reach import NodeCaller
from luciole.rpc.wire import describe
from luciole.runtime import drive

ROUTING_SECONDS = 5.0
ASK_SECONDS = 2.0


class Neighbour(msgspec.Struct):
    """How a storage service reaches another one."""

    node_id: int
    transport: str  # as of Way
    why: str


class Way(msgspec.Struct):
    """How one node is reached."""

    node_id: int
    kind: str
    address: str
    transport: str  # "shm", "rdma" or "tcp"; empty: not at all
    why: str  # not a better one, or what is wrong
    neighbours: list[Neighbour] = []  # of a storage service that tells
    rings: bool = False  # over shared memory: many requests go with one doorbell
    why_no_rings: str = ""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds `doctor`."""
    parser = commands.add_parser(
        "doctor", help="how each node is reached from here",
        description="Connects to each node as a client of this machine would, and tells by which "
        "transport, and why not by a better one; and how storage services reach each other.",
        epilog="example: luciole doctor --json")
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the ways; 1 when a node is not reached at all. Raises FsError."""
    config = client_config(args)
    client = open_client(config)
    drive(client.manager.wait_for_routing(ROUTING_SECONDS))
    table = client.routing.current()
    ways = [_way(node, config)
            for kind in (mgmtd_pb2.META, mgmtd_pb2.STORAGE) for node in table.nodes(kind)]
    if args.json:
        print_json({"nodes": ways})
    else:
        shown = Table("node", "kind", "address", "transport", "why not a better one")
        for way in ways:
            shown.add_row(
                str(way.node_id), way.kind, way.address, way.transport or "none", _remarks(way))
        answers().print(shown)
        _show_neighbours(ways)
    return 0 if all(way.transport for way in ways) else 1


def _show_neighbours(ways: list[Way]) -> None:
    shown = Table("storage node", "reaches node", "by", "why not a better one")
    for way in ways:
        for other in way.neighbours:
            shown.add_row(
                str(way.node_id), str(other.node_id), other.transport or "none", other.why)
    if shown.row_count:
        answers().print(shown)


def _remarks(way: Way) -> str:
    """What a better transport lacked; of the best one, whether it has its rings."""
    if way.transport != "shm":
        return way.why
    return "with rings" if way.rings else f"without rings: {way.why_no_rings}"


def _way(node: mgmtd_pb2.Node, config: ClientConfig) -> Way:
    kind = mgmtd_pb2.NodeKind.Name(node.kind).lower()
    address = (node.host, node.rpc_port)
    caller = NodeCaller(
        address, node.local, config.transport, cluster_id=config.cluster_id, name="doctor",
        rdma=rdma_settings(config))
    try:
        choice = caller.probe()
        neighbours = _neighbours(caller) if node.kind == mgmtd_pb2.STORAGE else []
        no_rings = caller.why_no_rings()
    except FsError as failure:
        return Way(node.node_id, kind, describe(address), "", str(failure))
    finally:
        caller.close()
    return Way(node.node_id, kind, describe(address), choice.transport, choice.why, neighbours,
               not no_rings, no_rings)


def _neighbours(caller: NodeCaller) -> list[Neighbour]:
    try:
        reply = drive(StorageStub(caller).ways(common_pb2.Empty(), timeout=ASK_SECONDS))
    except FsError as failure:
        if failure.kind != Kind.UNIMPLEMENTED:
            raise
        return []  # it is of an older version
    return [Neighbour(way.node_id, way.transport, way.why) for way in reply.ways]
