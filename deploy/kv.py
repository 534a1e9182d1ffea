"""`luciole kv`: namespaces of the KV cache, and what is in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.table import Table

from luciole.deploy import kv_bench, kv_replay
from luciole.deploy.connect import add_cluster_options, client_config
from luciole.deploy.output import answers, print_json
from luciole.deploy.status import size_text
from luciole.deploy.trees import amount
from luciole.errors import FsError, Kind
from luciole.kvcache.store import Store
from luciole.proto import common_pb2, kvcache_pb2, mgmtd_pb2
from luciole.runtime import drive

ASK_SECONDS = 10.0
COUNTS = ("blocks", "used_bytes", "limit_bytes", "leased_blocks", "hits", "misses", "bytes_read",
          "bytes_written", "puts", "evicted", "expired", "refused", "damaged")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `kv`."""
    parser = commands.add_parser(
        "kv", help="the KV cache of inference engines", description="Makes and shows namespaces of "
        "the KV cache, measures it, and replays request traces against it.",
        epilog="example: luciole kv create llama-70b --quota 200G && luciole kv list")
    actions = parser.add_subparsers(metavar="COMMAND", required=True)
    create = _add(actions, "create", run_create, "make a namespace", "kv create llama --quota 10G")
    change = _add(actions, "set", run_set, "change a namespace", "kv set llama --ttl 86400")
    for action in (create, change):
        action.add_argument("name", metavar="NAME")
        action.add_argument("--quota", type=amount, metavar="SIZE", help="room on all volumes "
                            "together, as 500M or 2T; 0: all that they have (default)")
        action.add_argument("--ttl", type=int, metavar="SECONDS",
                            help="age at which blocks go; 0: none (default)")
        action.add_argument("--replication", type=int, metavar="N",
                            help="volumes that hold a block (default: 1)")
        action.add_argument("--block-size", type=amount, metavar="SIZE",
                            help="size of most blocks, for those who ask")
        action.add_argument("--description", metavar="TEXT", help="model and layout, for people")
    _add(actions, "list", run_list, "list namespaces", "kv list --json")
    stat = _add(actions, "stat", run_stat, "tell what is in a namespace, on each volume",
                "kv stat llama")
    drop = _add(actions, "drop", run_drop, "remove a namespace and its blocks", "kv drop llama")
    evict = _add(actions, "evict", run_evict, "make room in a namespace now",
                 "kv evict llama --keep 1G")
    for action in (stat, drop, evict):
        action.add_argument("name", metavar="NAME")
    evict.add_argument("--keep", type=amount, default=0, metavar="SIZE",
                       help="bytes that may stay, of all volumes together (default: 0)")
    kv_bench.add_command(actions)
    kv_replay.add_command(actions)


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
    run: Callable[[argparse.Namespace], int], about: str, example: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=about, description=about.capitalize() + ".",
        epilog=f"example: luciole {example}")
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def _open(args: argparse.Namespace) -> Store:
    return Store(client_config(args))


def run_create(args: argparse.Namespace) -> int:
    """Makes a namespace."""
    record = mgmtd_pb2.KvNamespace(name=args.name)
    _overlay(record, args)
    with _open(args) as store:
        record.namespace_id = drive(store.cluster.set_namespace(record))
    _show_one(record, args, "made")
    return 0


def run_set(args: argparse.Namespace) -> int:
    """Changes what is given."""
    with _open(args) as store:
        record = mgmtd_pb2.KvNamespace()
        record.CopyFrom(store.namespace(args.name).record)
        _overlay(record, args)
        drive(store.cluster.set_namespace(record))
    _show_one(record, args, "changed")
    return 0


def _overlay(record: mgmtd_pb2.KvNamespace, args: argparse.Namespace) -> None:
    given = {"quota_bytes": args.quota, "ttl_seconds": args.ttl, "replication": args.replication,
             "block_bytes": args.block_size, "description": args.description}
    for field, value in given.items():
        if value is not None:
            try:
                setattr(record, field, value)
            except ValueError as failure:
                raise FsError(Kind.INVALID_ARGUMENT, f"{field.replace('_', ' ')} cannot be {value}"
                              ) from failure


def _plain(record: mgmtd_pb2.KvNamespace) -> dict[str, object]:
    return {"name": record.name, "id": record.namespace_id, "quota_bytes": record.quota_bytes,
            "ttl_seconds": record.ttl_seconds, "replication": max(1, record.replication),
            "block_bytes": record.block_bytes, "description": record.description}


def _show_one(record: mgmtd_pb2.KvNamespace, args: argparse.Namespace, done: str) -> None:
    if args.json:
        print_json(_plain(record))
    else:
        answers().print(f"{done} namespace {record.name}: {_limits(record)}")


def _limits(record: mgmtd_pb2.KvNamespace) -> str:
    quota = size_text(record.quota_bytes) if record.quota_bytes else "no quota"
    ttl = f"{record.ttl_seconds} s" if record.ttl_seconds else "no age limit"
    return f"{quota}, {ttl}, replication {max(1, record.replication)}"


def run_list(args: argparse.Namespace) -> int:
    """Lists all namespaces, and the volumes."""
    with _open(args) as store:
        table = store.cluster.routing.current()
        records, volumes = table.kv_namespaces(), table.kv_volumes()
    if args.json:
        print_json({"namespaces": [_plain(record) for record in records],
                    "volumes": {str(node): size for node, size in volumes.items()}})
        return 0
    console = answers()
    shown = Table("NAME", "LIMITS", "DESCRIPTION", box=None)
    for record in records:
        shown.add_row(record.name, _limits(record), record.description)
    console.print(shown)
    total = size_text(sum(volumes.values()))
    console.print(f"{len(records)} namespaces; {len(volumes)} volumes of {total} together")
    return 0


def volume_stats(store: Store) -> dict[int, kvcache_pb2.KvStatsReply | FsError]:
    """What each volume says of itself, or why it says nothing."""
    table = store.cluster.routing.current()
    found: dict[int, kvcache_pb2.KvStatsReply | FsError] = {}
    for node_id in table.kv_volumes():
        stub = store.cluster.connections.kv_cache(table.node(node_id))
        try:
            found[node_id] = drive(stub.stats(common_pb2.Empty(), timeout=ASK_SECONDS))
        except FsError as failure:
            found[node_id] = failure
    return found


def run_stat(args: argparse.Namespace) -> int:
    """Shows counts of each volume and their sum."""
    with _open(args) as store:
        wanted = store.namespace(args.name).record.namespace_id
        replies = volume_stats(store)
    nodes: dict[str, object] = {}
    total = dict.fromkeys(COUNTS, 0)
    for node_id, reply in replies.items():
        if isinstance(reply, FsError):
            nodes[str(node_id)] = {"error": str(reply)}
            continue
        for entry in reply.namespaces:
            if entry.namespace_id == wanted:
                counts = {name: int(getattr(entry, name)) for name in COUNTS}
                nodes[str(node_id)] = counts
                total = {name: total[name] + counts[name] for name in COUNTS}
    if args.json:
        print_json({"name": args.name, "total": total, "nodes": nodes})
        return 0
    shown = Table("", "TOTAL", *(f"node {node}" for node in nodes), box=None)
    for name in COUNTS:
        cells = [str(each.get(name, "?")) if isinstance(each, dict) else "?"
                 for each in nodes.values()]
        shown.add_row(name.replace("_", " "), str(total[name]), *cells)
    answers().print(shown)
    return 0


def run_drop(args: argparse.Namespace) -> int:
    """Removes a namespace."""
    with _open(args) as store:
        record = store.namespace(args.name).record
        request = mgmtd_pb2.DropKvNamespaceRequest(namespace_id=record.namespace_id)
        drive(store.cluster.manager.call(
            lambda stub: stub.drop_kv_namespace(request, timeout=ASK_SECONDS)))
    _show_one(record, args, "dropped")
    return 0


def run_evict(args: argparse.Namespace) -> int:
    """Evicts on every volume, each down to its part of what may stay."""
    blocks = freed = 0
    with _open(args) as store:
        record = store.namespace(args.name).record
        table, placement = store.cluster.routing.current(), store.cluster.volumes.placement()
        for node_id in table.kv_volumes():
            keep = placement.quota_of(node_id, args.keep, record.replication)
            stub = store.cluster.connections.kv_cache(table.node(node_id))
            reply = drive(stub.evict(kvcache_pb2.KvEvictRequest(
                namespace_id=record.namespace_id, keep_bytes=keep), timeout=60.0))
            blocks, freed = blocks + reply.blocks, freed + reply.bytes
    if args.json:
        print_json({"name": args.name, "blocks": blocks, "bytes": freed})
    else:
        answers().print(f"evicted {blocks} blocks, {size_text(freed)}")
    return 0
