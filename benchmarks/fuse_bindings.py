"""What a binding to the kernel costs: both of them over files in memory, in turn.

    python -m benchmarks.fuse_bindings [--cpu N] [--repeats N] [--bindings direct,pyfuse3]
        [--other NAME=PATH] [--json FILE]

Client and server are pinned to one CPU unless --cpu is -1: wall time is then what both cost
together, and no wake-up crosses CPUs. libfuse's passthrough example in C over a tmpfs takes part
where it can be built; it pays for the tmpfs, too. --other adds a directory on which somebody else
has mounted, or a plain one. Needs root.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.memory_operations import MemoryOperations
from benchmarks.passthrough import build, passing_through
from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.mount import start_server
from luciole.client.fuse.mount_table import find_mount

MIB = 1 << 20
SIZE = 64 * MIB
SECONDS = 0.5
START_SECONDS = 10.0
CACHE_SECONDS = 60.0
MEMORY = Path("/dev/shm")  # noqa: S108 (a tmpfs on every Linux; the folder in it is our own)


def timed(seconds: float, step: Callable[[int], None]) -> float:
    """Steps per second."""
    begin = time.perf_counter()
    count = 0
    while time.perf_counter() - begin < seconds:
        for _ in range(16):
            step(count)
            count += 1
    return count / (time.perf_counter() - begin)


def bulk(root: Path) -> dict[str, float]:
    """1 MiB O_DIRECT calls, MB/s, and 4 KiB random ones, per second."""
    memory = mmap.mmap(-1, MIB)
    small = memoryview(memory)[:4096]
    descriptor = os.open(root / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    for offset in range(0, SIZE, MIB):
        os.pwritev(descriptor, [memory], offset)
    chance = random.Random(1)
    offsets = [chance.randrange(SIZE // 4096) * 4096 for _ in range(4096)]
    blocks = SIZE // MIB
    found = {
        "write 1 MiB": MIB / 1e6 * timed(
            SECONDS, lambda n: check(os.pwritev(descriptor, [memory], n % blocks * MIB), MIB)),
        "read 1 MiB": MIB / 1e6 * timed(
            SECONDS, lambda n: check(os.preadv(descriptor, [memory], n % blocks * MIB), MIB)),
        "read 4 KiB": timed(
            SECONDS, lambda n: check(os.preadv(descriptor, [small], offsets[n % 4096]), 4096)),
        "write 4 KiB": timed(
            SECONDS, lambda n: check(os.pwritev(descriptor, [small], offsets[n % 4096]), 4096)),
    }
    os.close(descriptor)
    os.unlink(root / "file")
    return found


def check(done: int, wanted: int) -> None:
    """A short answer would be fast and wrong."""
    assert done == wanted


def namespace(root: Path) -> dict[str, float]:
    """Files per second."""
    names = [f"{root}/{number}" for number in range(2000)]

    def each(call: Callable[[str], object]) -> float:
        begin = time.perf_counter()
        for name in names:
            call(name)
        return len(names) / (time.perf_counter() - begin)

    return {
        "create, close": each(
            lambda name: os.close(os.open(name, os.O_CREAT | os.O_WRONLY))),
        "open, close": each(lambda name: os.close(os.open(name, os.O_RDONLY))),
        "stat, not cached": each(lambda name: os.path.exists(name + "-not")),
        "unlink": each(os.unlink),
    }


def serve(binding: str, place: Path) -> None:
    """Mounts until unmounted."""
    if binding == "direct":
        server = start_server(
            MemoryOperations(), place, allow_other=True, attribute_seconds=CACHE_SECONDS,
            entry_seconds=CACHE_SECONDS)
        while not server.wait_unmounted(1.0):
            pass
        return
    import pyfuse3  # noqa: PLC0415
    import trio  # noqa: PLC0415

    from luciole.client.fuse.pyfuse3_binding import Pyfuse3Binding  # noqa: PLC0415
    from luciole.client.fuse.pyfuse3_mount import mount  # noqa: PLC0415

    async def run() -> None:
        mount(Pyfuse3Binding(MemoryOperations(), attribute_seconds=CACHE_SECONDS,
                             entry_seconds=CACHE_SECONDS), place, allow_other=True)
        await pyfuse3.main(max_tasks=64)
        pyfuse3.close(unmount=True)

    trio.run(run)


def measured(binding: str, cpu: int) -> dict[str, float]:
    """One round on a fresh mount."""
    place = Path(tempfile.mkdtemp(prefix="luciole-bench-"))
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fuse_bindings", "--serve", binding, str(place),
         "--cpu", str(cpu)])
    try:
        deadline = time.monotonic() + START_SECONDS
        while find_mount(place) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return bulk(place) | namespace(place)
    finally:
        mounting.detach(place)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        place.rmdir()


def measured_in_c() -> dict[str, float] | None:
    """One round on libfuse's example; None where it cannot be built."""
    with tempfile.TemporaryDirectory(prefix="luciole-bench-", dir=MEMORY) as folder:
        program = build(Path(folder))
        if program is None:
            return None
        with passing_through(program, Path(folder) / "behind", Path(folder) / "place") as place:
            return bulk(place) | namespace(place)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bindings", default="direct,pyfuse3")
    parser.add_argument("--other", metavar="NAME=PATH", action="append", default=[])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]))
        return
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for binding in options.bindings.split(","):
            rounds.setdefault(binding, []).append(measured(binding, options.cpu))
        in_c = measured_in_c()
        if in_c is not None:
            rounds.setdefault("C", []).append(in_c)
        for other in options.other:
            name, _, place = other.partition("=")
            found = bulk(Path(place)) | namespace(Path(place))
            rounds.setdefault(name, []).append(found)
    names = list(rounds)
    first, *others = names
    headings = [*names, *(f"{first} / {other}" for other in others)]
    sys.stdout.write(f"{'':20}" + "".join(f"{name:>18}" for name in headings) + "\n")
    for workload in rounds[first][0]:
        row = [statistics.median(one[workload] for one in rounds[name]) for name in names]
        ratios = [statistics.median(
            mine[workload] / theirs[workload]
            for mine, theirs in zip(rounds[first], rounds[other], strict=True))
            for other in others]
        sys.stdout.write(f"{workload:20}" + "".join(f"{value:18,.0f}" for value in row)
                         + "".join(f"{ratio:18.2f}" for ratio in ratios) + "\n")
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
