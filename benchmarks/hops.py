"""`python -m benchmarks.hops`: where the time of a chunk write goes along its chain.

Real processes, one chain of one, two and three replicas; the storage services run with a stopwatch
around the three steps of a replica: stage, pass on, commit. What is left of a step's time when the
next replica's is taken off is the way between them: frames, sockets, threads, checks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.cluster import MIB, Cluster, file_of_one_chain, luciole, percentile, running
from luciole.config import StorageConfig, load
from luciole.deploy.local_cluster import Shape
from luciole.proto.services import Call
from luciole.runtime import drive
from luciole.storage import chain as chain_module
from luciole.storage.chain import ChainReplica, Staged
from luciole.storage.engine.interface import Version
from luciole.storage.server import serve as serve_storage
from luciole.storage.targets import Target

SIZES = (4096, MIB)
WARM_UP = 50


def serve(config: Path) -> None:
    """A storage service that writes the seconds of each update's steps to its own file."""
    output = Path(f"{config}.steps").open("w", buffering=1)  # noqa: SIM115 - ends with the process

    async def apply(self: ChainReplica, target: Target, staged: Staged, call: Call) -> Version:
        chunk_id = staged.io.chunk_id
        times = [time.perf_counter()]
        with target.damage.noticing(chunk_id):
            await target.engine.stage(
                chunk_id, staged.version, chain_module.update_of(staged.io), staged.data)
        times.append(time.perf_counter())
        await self._pass_on(target, staged, call)
        times.append(time.perf_counter())
        version = await target.engine.commit(chunk_id, staged.version)
        times.append(time.perf_counter())
        steps = [after - before for before, after in pairwise(times)]
        output.write(json.dumps(steps) + "\n")
        return version

    ChainReplica._apply = apply  # type: ignore[method-assign]
    serve_storage(load(config, StorageConfig))


def command(kind: str, config: Path) -> Sequence[str]:
    """Storage services with the stopwatch."""
    if kind != "storage":
        return luciole(kind, config)
    root = str(Path(__file__).resolve().parent.parent)
    program = (f"import sys; sys.path.insert(0, {root!r}); from pathlib import Path; "
               f"from benchmarks.hops import serve; serve(Path({str(config)!r}))")
    return [sys.executable, "-P", "-c", program]


def steps_of(cluster: Cluster) -> list[list[list[float]]]:
    """Per replica, head first, the steps of every update so far."""
    order = [member.target_id // 100_000 - 100
             for member in cluster.client().routing.current().chains()[0].targets]
    return [[json.loads(line) for line in Path(
        f"{cluster.directory.config_file(f'storage-{number}')}.steps").read_text().splitlines()]
        for number in order]


def measure(cluster: Cluster, size: int, count: int) -> None:
    """Writes `count` chunks' worth of `size` bytes and prints the medians."""
    client = cluster.client()
    data = memoryview(bytes(range(256)) * (size // 256))
    inode = file_of_one_chain(size)
    begun = [len(steps) for steps in steps_of(cluster)]
    times = []
    for number in range(WARM_UP + count):
        began = time.perf_counter()
        drive(client.chunks.write(inode, number * MIB, data))
        times.append(time.perf_counter() - began)
    total = times[WARM_UP:]
    replicas = [steps[first + WARM_UP :]
                for first, steps in zip(begun, steps_of(cluster), strict=True)]
    print(f"{size >> 10} KiB, {len(replicas)} replicas: p50 {1e3 * statistics.median(total):.2f} "
          f"ms, p99 {1e3 * percentile(total, 0.99):.2f} ms")
    outer = statistics.median(total)
    for name, steps in zip(("head", "second", "third"), replicas, strict=False):
        whole = statistics.median([sum(step) for step in steps])
        stage, rest, commit = (1e3 * statistics.median(column)
                               for column in zip(*steps, strict=True))
        print(f"  way to the {name:6} {1e3 * (outer - whole):6.2f} ms; there: stage {stage:5.2f}, "
              f"pass on {rest:5.2f}, commit {commit:5.2f}")
        outer = rest / 1e3


def main() -> None:
    """The three chains, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hops")
    parser.add_argument("--count", type=int, default=500, help="writes of each size")
    options = parser.parse_args()
    for replicas in (1, 2, 3):
        shape = Shape(nodes=replicas, replicas=replicas, targets_per_node=1)
        with running(shape, command) as cluster:
            for size in SIZES:
                measure(cluster, size, options.count)


if __name__ == "__main__":
    main()
