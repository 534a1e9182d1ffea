"""`python -m benchmarks.native`: the native client beside os.preadv into the same memory.

One cluster of real processes; one file, warm everywhere. Both ways are measured in turn; shown are
medians of rates and of CPU time: of this process and of all storage services together, beyond what
the services use when nobody asks. On a machine that others use, CPU time tells more than rates.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import cast

import luciole
from benchmarks.cluster import MIB, running
from benchmarks.measure import CpuMeter
from luciole.client.native.file import File
from luciole.client.native.filesystem import Buffer, FileSystem
from luciole.deploy import processes
from luciole.deploy.local_cluster import Shape

FILE_BYTES = 192 * MIB  # more than processors cache: both sides fetch from memory
SMALL_SPAN = 32 * MIB  # of it, for small reads: less than services keep verified
SMALL = 4096
BATCH = 64
HALF = 4  # of the large reads that are under way: as many come together, and go together


class Meter:
    """Rate and CPU time of what runs now."""

    def __init__(self, services: CpuMeter, seconds: float) -> None:
        self._services = services
        self._seconds = seconds
        before = sum(services.used().values())
        time.sleep(seconds)
        self._idle = (sum(services.used().values()) - before) / seconds

    def measure(self, step: Callable[[], int]) -> tuple[float, float]:
        """Operations a second, and CPU seconds for each beyond what idle services use.

        `step` returns how many operations it did.
        """
        done, used = 0, time.process_time() + sum(self._services.used().values())
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + self._seconds:
            done += step()
        used = time.process_time() + sum(self._services.used().values()) - used
        return done / (now - began), (used - self._idle * (now - began)) / done


class Reads:
    """The ways to read the file."""

    def __init__(self, fs: FileSystem, file: File, buffer: Buffer, descriptor: int) -> None:
        self._fs, self._file, self._descriptor = fs, file, descriptor
        self._small = [buffer.view[at : at + SMALL] for at in range(0, BATCH * SMALL, SMALL)]
        self._large = [buffer.view[at : at + MIB] for at in range(0, 2 * HALF * MIB, MIB)]
        self._idle = list(self._large)  # those that no read of the ring fills
        self._chance = random.Random(1)
        self._ring = fs.ring(2 * HALF)
        self._next = 0

    def _offsets(self) -> list[int]:
        draw = self._chance.random
        count = SMALL_SPAN // SMALL
        return [int(draw() * count) * SMALL for _ in range(BATCH)]

    def small_many(self) -> int:
        """A batch of `read_many`."""
        file = self._file
        results = self._fs.read_many(
            [(file, offset, room)
             for offset, room in zip(self._offsets(), self._small, strict=True)])
        assert results == [SMALL] * BATCH
        return BATCH

    def small_one(self) -> int:
        """A batch of one: what a round trip costs."""
        offset = self._chance.randrange(SMALL_SPAN // SMALL) * SMALL
        return len(self._fs.read_many([(self._file, offset, self._small[0])]))

    def small_preadv(self) -> int:
        """The same by the system call."""
        for offset, room in zip(self._offsets(), self._small, strict=True):
            os.preadv(self._descriptor, [room], offset)
        return BATCH

    def large_ring(self) -> int:
        """Keeps some reads of 1 MiB under way."""
        while self._idle:
            view = self._idle.pop()
            self._ring.read(self._file, self._next, view, view)
            self._next = (self._next + MIB) % FILE_BYTES
            if len(self._idle) % HALF == 0:
                self._ring.submit()
        return self._take(HALF)

    def _take(self, count: int) -> int:
        done = self._ring.wait(count)
        assert all(completion.result == MIB for completion in done)
        self._idle += [cast("memoryview", completion.tag) for completion in done]
        return len(done)

    def large_into(self) -> int:
        """One read of 1 MiB at a time."""
        if len(self._idle) < len(self._large):
            self._take(len(self._large) - len(self._idle))
        self._next = (self._next + MIB) % FILE_BYTES
        return self._file.read_into(self._large[0], self._next) // MIB

    def large_preadv(self) -> int:
        """The same by the system call."""
        for view in self._large[:HALF]:
            os.preadv(self._descriptor, [view], self._next)
            self._next = (self._next + MIB) % FILE_BYTES
        return HALF


def compare(
    name: str, meter: Meter, ours: Callable[[], int], theirs: Callable[[], int], repeats: int
) -> None:
    """Measures both in turn and prints a line."""
    ours()
    rounds = [(meter.measure(ours), meter.measure(theirs)) for _ in range(repeats)]
    rates = [statistics.median(pair[side][0] for pair in rounds) for side in (0, 1)]
    costs = [statistics.median(pair[side][1] for pair in rounds) * 1e6 for side in (0, 1)]
    print(f"{name:34} {rates[0]:9,.0f}/s preadv {rates[1]:9,.0f}/s ratio {rates[0] / rates[1]:5.2f}"
          f"   CPU {costs[0]:6.1f} us preadv {costs[1]:6.1f} us ratio {costs[1] / costs[0]:5.2f}")


def main() -> None:
    """Both sizes, both transports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--transports", default="shm,tcp")
    options = parser.parse_args()
    with running(Shape(nodes=2, replicas=2, targets_per_node=2)) as cluster, \
            tempfile.TemporaryFile() as local:
        data = random.Random(1).randbytes(MIB) * (FILE_BYTES // MIB)
        local.write(data)
        local.flush()
        records = {name: processes.running(cluster.directory.pid_file(name))
                   for name in ("storage-1", "storage-2")}
        services = CpuMeter({name: record.pid for name, record in records.items() if record})
        meter = Meter(services, options.seconds)
        for transport in options.transports.split(","):
            with luciole.connect(cluster.directory.path, transport=transport) as fs, \
                    fs.buffer(2 * HALF * MIB) as buffer:
                with fs.open("/file", "w") as file:
                    file.write(data, 0)
                with fs.open("/file") as file:
                    reads = Reads(fs, file, buffer, local.fileno())
                    for what, ours, theirs in (
                            (f"4 KiB, read_many of {BATCH}", reads.small_many,
                             reads.small_preadv),
                            ("4 KiB, read_many of 1", reads.small_one, reads.small_preadv),
                            (f"1 MiB, ring of {2 * HALF}", reads.large_ring, reads.large_preadv),
                            ("1 MiB, one at a time", reads.large_into, reads.large_preadv)):
                        compare(f"{transport}: {what}", meter, ours, theirs, options.repeats)


if __name__ == "__main__":
    main()
