"""`python -m benchmarks.spread_reads`: one chain of three replicas, read everywhere or at its tail.

Readers are processes of their own with a chunk client each (no mount): they read whole chunks, or
4 KiB of them, in random order for a while. Both ways run in turn, several times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.cluster import MIB, Cluster, file_of_one_chain, running
from benchmarks.measure import CpuMeter
from luciole.client.remote.chunks import ChunkClient, PieceIO
from luciole.deploy import processes
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.deploy.connect import open_client
from luciole.deploy.local_cluster import Shape
from luciole.routing import RoutingTable, serving_targets
from luciole.runtime import drive

CHUNKS = 128
READERS = 4


def at_the_tail(self: ChunkClient, table: RoutingTable, piece: PieceIO) -> int:
    """Chain replication without CRAQ: the tail alone answers."""
    return serving_targets(table.chain(piece.chain_id))[-1]


def read(directory: Path, seed: int, size: int, tail: bool, seconds: float) -> tuple[int, float]:
    """One reader; returns how many reads it made and their seconds."""
    if tail:
        ChunkClient._reader_of = at_the_tail  # type: ignore[method-assign]
    client = open_client(ClusterDirectory(directory).client_config())
    drive(client.manager.wait_for_routing(10.0))
    inode, chance = file_of_one_chain(1), random.Random(seed)
    buffer = memoryview(bytearray(size))
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        offset = chance.randrange(CHUNKS) * MIB + chance.randrange(MIB // size) * size
        drive(client.chunks.read(inode, offset, buffer))
        done += 1
    return done, time.perf_counter() - began


def rate(
    cluster: Cluster, size: int, tail: bool, seconds: float
) -> tuple[float, dict[str, float]]:
    """Reads a second of all readers together, and the busy share of a core of each server."""
    records = {name: processes.running(cluster.directory.pid_file(name))
               for name in ("storage-1", "storage-2", "storage-3")}
    meter = CpuMeter({name: record.pid for name, record in records.items() if record})
    began = time.perf_counter()
    with ProcessPoolExecutor(READERS, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(read, cluster.directory.path, seed, size, tail, seconds)
                   for seed in range(READERS)]
        total = sum(done / took for done, took in (future.result() for future in futures))
    spent = time.perf_counter() - began
    return total, {name: used / spent for name, used in meter.used().items()}


def main() -> None:
    """Both ways, both sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread_reads")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with running(Shape(nodes=3, replicas=3, targets_per_node=1)) as cluster:
        client = cluster.client()
        data = memoryview(random.Random(1).randbytes(MIB))
        for number in range(CHUNKS):
            drive(client.chunks.write(file_of_one_chain(1), number * MIB, data))
        for size in (MIB, 4096):
            pairs = []
            for _ in range(options.repeats):
                spread, shares = rate(cluster, size, False, options.seconds)
                tail, tail_shares = rate(cluster, size, True, options.seconds)
                pairs.append((spread, tail))
                print(f"{size >> 10} KiB: spread {spread:.0f}/s, servers "
                      f"{[round(share, 2) for share in shares.values()]} cores; tail {tail:.0f}/s,"
                      f" {[round(share, 2) for share in tail_shares.values()]}")
            print(f"{size >> 10} KiB: ratio "
                  f"{statistics.median(spread / tail for spread, tail in pairs):.2f}")


if __name__ == "__main__":
    main()
