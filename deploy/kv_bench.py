"""`luciole kv bench`: blocks per second, side by side with Redis, Mooncake and copying memory.

Layer: shell. One client thread. For each size every peer takes its turn at each operation, so that
what else the machine does falls on all alike; the best of the rounds counts. CPU time is that of
this process and of the servers together.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.table import Table

from luciole.deploy import processes
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.deploy.connect import add_cluster_options, client_config
from luciole.deploy.kv_mooncake import mooncake_missing, mooncake_peer
from luciole.deploy.kv_peers import Ours, Peer, redis_missing, redis_peers
from luciole.deploy.output import Reporter, answers, notes, print_json, progress
from luciole.deploy.status import size_text
from luciole.deploy.trees import amount
from luciole.errors import FsError, Kind
from luciole.kvcache.statistics import Histogram
from luciole.kvcache.store import Store
from luciole.proto import mgmtd_pb2
from luciole.runtime import drive

SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20)
MATCHED = 1000  # keys of a prefix
CHECKED = 128  # keys of an existence check
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """What is measured."""

    size: int  # of a block
    batch: int  # blocks of a call
    seconds: float


@dataclass(frozen=True)
class Row:
    """One measurement."""

    peer: str
    operation: str
    size: int
    batch: int
    per_second: float
    cpu_us: float

    @property
    def bytes_per_second(self) -> float:
        """Of blocks moved."""
        return self.per_second * self.size

    def plain(self) -> dict[str, object]:
        """As JSON."""
        return vars(self) | {"bytes_per_second": self.bytes_per_second}


def add_command(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `bench`."""
    parser = actions.add_parser(
        "bench", help="measure the cache", description="Puts, gets and looks up blocks of several "
        "sizes, one by one and in batches, in a namespace of its own that it drops again; beside "
        "Redis if redis-server and the Python package redis are installed, beside Mooncake's "
        "store if the package mooncake-transfer-engine-non-cuda is, and beside copying memory.",
        epilog="example: luciole kv bench --size 64K --size 1M --seconds 1")
    add_cluster_options(parser)
    parser.add_argument("--size", type=amount, action="append", metavar="SIZE",
                        help="of a block; may be repeated (default: 4K, 64K, 1M and 4M)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="SECONDS",
                        help="of each measurement (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="of which the best counts (default: 3)")
    parser.add_argument("--no-redis", action="store_true", help="leave Redis out")
    parser.add_argument("--no-mooncake", action="store_true", help="leave Mooncake out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def batch_of(size: int) -> int:
    """Blocks of a batch."""
    return 128 if size <= 64 << 10 else max(1, (16 << 20) // size * 2 if size > 1 << 20 else 16)


def run(args: argparse.Namespace) -> int:
    """Measures and shows."""
    name = f"bench-{os.getpid()}"
    servers = _server_pids(args)
    with Store(client_config(args)) as store, ExitStack() as resources, \
            progress(quiet=args.json) as report:
        namespace_id = drive(store.cluster.set_namespace(mgmtd_pb2.KvNamespace(name=name)))
        resources.callback(_drop, store, namespace_id)
        _wait_known(store, name)
        ours = Ours(store.namespace(name))
        peers: list[tuple[Peer, list[int]]] = [(ours, servers)]
        peers += _others(args, resources)
        rows = [row for size in args.size or SIZES
                for row in _measure_size(peers, size, args.seconds, args.rounds, report)]
        rows += _existence(peers, args.seconds, args.rounds)
        matches = _matches(ours)
    copied = {size: _memcpy(size) for size in args.size or SIZES}
    if args.json:
        print_json({"rows": [row.plain() for row in rows], "memcpy_bytes_per_second": copied,
                    "match_1000_ms": {"p50": matches.percentile(0.5) * 1000,
                                      "p99": matches.percentile(0.99) * 1000}})
    else:
        _render(rows, copied, matches)
    return 0


def _others(
    args: argparse.Namespace, resources: ExitStack
) -> list[tuple[Peer, list[int]]]:
    """Starts whatever is installed to be measured beside us."""
    found: list[tuple[Peer, list[int]]] = []
    missing = "it was left out" if args.no_redis else redis_missing()
    if missing:
        notes().print(f"without Redis: {missing}")
    else:
        faces, pid = resources.enter_context(redis_peers())
        found += [(face, [pid]) for face in faces]
    missing = "it was left out" if args.no_mooncake else mooncake_missing()
    if missing:
        notes().print(f"without Mooncake: {missing}")
    else:
        found.append(resources.enter_context(mooncake_peer()))
    return found


def _server_pids(args: argparse.Namespace) -> list[int]:
    """Storage processes of a local cluster, whose CPU time can be read."""
    if args.config:
        return []
    run_folder = ClusterDirectory(Path(args.dir)).run
    found = [processes.running(path) for path in sorted(run_folder.glob("storage-*.pid"))]
    return [record.pid for record in found if record]


def _drop(store: Store, namespace_id: int) -> None:
    request = mgmtd_pb2.DropKvNamespaceRequest(namespace_id=namespace_id)
    drive(store.cluster.manager.call(
        lambda stub: stub.drop_kv_namespace(request, timeout=10.0)))


def _wait_known(store: Store, name: str) -> None:
    """Waits until every volume has heard of the namespace. Raises FsError."""
    namespace = store.namespace(name)
    keys = [os.urandom(32) for _ in range(200)]
    deadline = time.monotonic() + 10.0
    while not all(outcome.ok for outcome in namespace.put(keys, [b"x"] * len(keys))):
        if time.monotonic() > deadline:
            raise FsError(Kind.UNAVAILABLE, "not every volume takes blocks: `luciole kv list` "
                          "shows the volumes, and nodes without kv_capacity_bytes have none")
        time.sleep(0.05)
    namespace.delete(keys)


def _measure_size(
    peers: Sequence[tuple[Peer, list[int]]], size: int, seconds: float, rounds: int,
    report: Reporter,
) -> list[Row]:
    rows: list[Row] = []
    for batch in (1, batch_of(size)):
        case = Case(size, batch, seconds)
        rooms = [_Rooms(peer, case) for peer, _ in peers]
        best: dict[tuple[str, str], Row] = {}
        for number in range(rounds):
            for (peer, pids), room in zip(peers, rooms, strict=True):
                report(f"{peer.name}: {batch} of {size_text(size)}", number, rounds)
                for row in _turn(peer, pids, case, room):
                    name = (row.peer, row.operation)
                    if name not in best or best[name].per_second < row.per_second:
                        best[name] = row
        rows += best.values()
    return rows


class _Rooms:
    """Where a peer's blocks come from and go to."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self.values = peer.memory(case.batch, case.size)
        self.buffers = peer.memory(case.batch, case.size)
        for value in self.values:
            value[:] = (os.urandom(64) * (case.size // 64 + 1))[: case.size]


def _turn(peer: Peer, pids: list[int], case: Case, rooms: _Rooms) -> list[Row]:
    """One peer puts for a while, then gets what it put."""
    kept: list[list[bytes]] = []
    keys_max = max(2, (128 << 20) // (case.size * case.batch))  # batches that stay, to be read

    def put() -> None:
        keys = [os.urandom(32) for _ in range(case.batch)]
        if len(kept) >= keys_max:
            peer.clear(kept.pop(0))
        peer.put(keys, rooms.values)
        kept.append(keys)

    turn = iter(range(10**9))

    def get() -> None:
        peer.get(kept[next(turn) % len(kept)], rooms.buffers)

    rows = [_timed(peer.name, operation, case, pids, work)
            for operation, work in (("put", put), ("get", get))]
    for keys in kept:
        peer.clear(keys)
    return rows


def _timed(
    peer: str, operation: str, case: Case, pids: list[int], work: Callable[[], object]
) -> Row:
    work()
    cpu = _cpu_seconds(pids)
    began = now = time.perf_counter()
    calls = 0
    while now < began + case.seconds:
        work()
        calls += 1
        now = time.perf_counter()
    done = calls * case.batch
    return Row(peer, operation, case.size, case.batch, done / (now - began),
               (_cpu_seconds(pids) - cpu) / done * 1e6)


def _cpu_seconds(pids: list[int]) -> float:
    total = time.process_time()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def _existence(
    peers: Sequence[tuple[Peer, list[int]]], seconds: float, rounds: int
) -> list[Row]:
    rows = []
    case = Case(0, CHECKED, seconds)
    keys = [os.urandom(32) for _ in range(CHECKED)]
    for peer, pids in peers:
        peer.put(keys, peer.memory(len(keys), 100))
        turns = [_timed(peer.name, "exists", case, pids, partial(peer.exists, keys))
                 for _ in range(rounds)]
        rows.append(max(turns, key=lambda row: row.per_second))
        peer.clear(keys)
    return rows


def _matches(ours: Ours) -> Histogram:
    """How long a prefix of 1,000 blocks takes to look up and lease (and release)."""
    keys = [os.urandom(32) for _ in range(MATCHED)]
    ours.put(keys, ours.memory(len(keys), 100))
    times = Histogram()
    for _ in range(200):
        began = time.perf_counter()
        found = ours.match(keys)
        times.add(time.perf_counter() - began)
        if found != MATCHED:
            raise FsError(Kind.UNAVAILABLE, f"{found} of {MATCHED} blocks were found")
    ours.clear(keys)
    return times


def _memcpy(size: int) -> float:
    """Bytes per second of copying blocks from memory to memory, beyond the caches."""
    count = max(2, (64 << 20) // size)
    source = [bytearray(size) for _ in range(count)]
    target = [memoryview(bytearray(size)) for _ in range(count)]
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for here, there in zip(source, target, strict=True):
            there[:] = here
        best = max(best, count * size / (time.perf_counter() - began))
    return best


def _render(rows: Sequence[Row], copied: dict[int, float], matches: Histogram) -> None:
    shown = Table("BLOCKS", "OPERATION", "PEER", "PER SECOND", "BYTES/S", "OF MEMCPY", "CPU µs",
                  "OURS / IT", box=None)
    ours = {(row.operation, row.size, row.batch): row for row in rows if row.peer == Ours.name}
    for row in sorted(rows, key=lambda row: (row.size, row.batch, row.operation)):
        mine = ours[row.operation, row.size, row.batch]
        blocks = f"{row.batch} x {size_text(row.size)}" if row.size else f"{row.batch} keys"
        part = f"{row.bytes_per_second / copied[row.size]:.1%}" if row.size else ""
        ratio = f"{mine.per_second / row.per_second:.2f}" if mine is not row else ""
        shown.add_row(blocks, row.operation, row.peer, f"{row.per_second:,.0f}",
                      size_text(int(row.bytes_per_second)) if row.size else "", part,
                      f"{row.cpu_us:.1f}", ratio)
    console = answers()
    console.print(shown)
    console.print(f"match_prefix of {MATCHED} keys, leased and released: median "
                  f"{matches.percentile(0.5) * 1000:.2f} ms, p99 "
                  f"{matches.percentile(0.99) * 1000:.2f} ms")
