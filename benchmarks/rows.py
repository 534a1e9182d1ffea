"""The rows of the comparison: what each does on any filesystem, and what it cannot do without.

Jobs are processes, so that the interpreter's lock is no part of what is measured. A row that is
`cold` runs on a mount that was just made: nothing is cached on the client's side, while servers
keep their caches. Large files are read `WARM_READS` times before, so that each server has in memory
what it keeps there: twice for each copy, as some keep only what is asked for again. What else a row
needs besides its measure (files, a fresh folder) is made before, too.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NamedTuple

from benchmarks.workloads import MIB, SMALL, Result, Scale

KIB = 1 << 10
SAMPLE = 128 * KIB
SHARD_WRITE = 8 * MIB
JOB_SECONDS = 300.0
WARM_READS = 4
Moved = tuple[int, int]  # operations, bytes


class JobError(Exception):
    """A job failed; the text says how."""


class Row(NamedTuple):
    """One row."""

    name: str
    unit: str  # "MB/s" or "ops/s"
    run: Callable[[Path, Scale], Result]
    needs: Mapping[str, float]  # ceiling -> how often one operation, or byte, needs it, at least
    cold: bool = False
    prepare: Callable[[Path, Scale], object] = lambda folder, scale: None


def in_processes(count: int, body: Callable[[int], Moved]) -> Result:
    """Runs `body(number)` in that many processes at once; from the first start to the last end.

    Raises JobError with the first job's failure.
    """
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)

    def job(number: int, answer: Connection) -> None:
        barrier.wait(JOB_SECONDS)
        began = time.perf_counter()
        try:
            moved = body(number)
        except OSError as failure:
            answer.send(str(failure))
        else:
            answer.send((began, time.perf_counter(), *moved))

    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    children = [context.Process(target=job, args=(number, pipe[1]), daemon=True)
                for number, pipe in enumerate(pipes)]
    for child in children:
        child.start()
    try:
        told = [_told(receiver) for receiver, _ in pipes]
    finally:
        for child in children:
            _end(child)
    return Result(sum(one[2] for one in told), sum(one[3] for one in told),
                  max(one[1] for one in told) - min(one[0] for one in told))


def _told(receiver: Connection) -> tuple[float, float, int, int]:
    if not receiver.poll(JOB_SECONDS):
        raise JobError(f"a job took more than {JOB_SECONDS:.0f} s")
    told = receiver.recv()
    if isinstance(told, str):
        raise JobError(told)
    began, ended, operations, size = told
    return began, ended, operations, size


def _end(child: ForkProcess) -> None:
    child.join(1.0)
    if child.is_alive():
        child.kill()
        child.join(10.0)


def timed(operations: int, size: int, body: Callable[[], object]) -> Result:
    """Runs `body` here."""
    began = time.perf_counter()
    body()
    return Result(operations, size, time.perf_counter() - began)


def _big(folder: Path, jobs: int, number: int) -> Path:
    return folder / f"big-{jobs}-{number}"


def write_files(jobs: int) -> Callable[[Path, Scale], Result]:
    """1 MiB writes to new files, one a job, each with fsync at its end."""
    def run(folder: Path, scale: Scale) -> Result:
        blocks = scale.size // jobs // MIB
        data = random.Random(jobs).randbytes(MIB)

        def job(number: int) -> Moved:
            _write(_big(folder, jobs, number), data, blocks)
            return blocks, blocks * MIB

        return in_processes(jobs, job)

    return run


def _write(path: Path, data: bytes, count: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for _ in range(count):
            done = os.write(descriptor, data)
            assert done == len(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files(jobs: int) -> Callable[[Path, Scale], object]:
    """Those of an earlier round."""
    def prepare(folder: Path, scale: Scale) -> None:
        for number in range(jobs):
            _big(folder, jobs, number).unlink(missing_ok=True)

    return prepare


def read_files(jobs: int) -> Callable[[Path, Scale], Result]:
    """1 MiB reads of whole files, one a job."""
    def run(folder: Path, scale: Scale) -> Result:
        blocks = scale.size // jobs // MIB

        def job(number: int) -> Moved:
            with _big(folder, jobs, number).open("rb", buffering=0) as file, \
                    mmap.mmap(-1, MIB) as buffer:
                for _ in range(blocks):
                    done = file.readinto(buffer)
                    assert done == MIB
            return blocks, blocks * MIB

        return in_processes(jobs, job)

    return run


def warm(jobs: int) -> Callable[[Path, Scale], object]:
    """Servers have the large files in memory, as far as they keep anything there."""
    def prepare(folder: Path, scale: Scale) -> None:
        del scale
        for number in [*range(jobs)] * WARM_READS:
            with _big(folder, jobs, number).open("rb", buffering=0) as file, \
                    mmap.mmap(-1, MIB) as buffer:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # ask the servers
                while file.readinto(buffer):
                    pass

    return prepare


def read_pieces(jobs: int, size: int, each: int | None = None) -> Callable[[Path, Scale], Result]:
    """Reads of aligned pieces of one file in random order, none twice; all of it unless `each`."""
    def run(folder: Path, scale: Scale) -> Result:
        order = list(range(scale.size // size))
        random.Random(size).shuffle(order)
        count = min(each or len(order), len(order) // jobs)

        def job(number: int) -> Moved:
            with _big(folder, 1, 0).open("rb", buffering=0) as file, \
                    mmap.mmap(-1, size) as buffer:
                for index in order[number * count : (number + 1) * count]:
                    done = os.preadv(file.fileno(), [buffer], index * size)
                    assert done == size
            return count, count * size

        return in_processes(jobs, job)

    return run


def checkpoint(ranks: int) -> Callable[[Path, Scale], Result]:
    """Each rank writes a shard under a passing name, flushes it, renames it, flushes the folder."""
    def run(folder: Path, scale: Scale) -> Result:
        place = folder / "checkpoint"
        count = scale.size // ranks // SHARD_WRITE
        data = random.Random(ranks).randbytes(SHARD_WRITE)

        def job(rank: int) -> Moved:
            _write(place / f"{rank}.new", data, count)
            os.rename(place / f"{rank}.new", place / f"{rank}")
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return count, count * SHARD_WRITE

        return in_processes(ranks, job)

    return run


def fresh(name: str) -> Callable[[Path, Scale], object]:
    """An empty folder of that name."""
    def prepare(folder: Path, scale: Scale) -> None:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()

    return prepare


def each_small(call: Callable[[str], object]) -> Callable[[Path, Scale], Result]:
    """One call for each small file."""
    def run(folder: Path, scale: Scale) -> Result:
        names = [f"{folder}/small/{number:06}" for number in range(scale.files)]

        def body() -> None:
            for name in names:
                call(name)

        return timed(len(names), len(names) * SMALL, body)

    return run


def _create(name: str) -> None:
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, b"x" * SMALL)
    finally:
        os.close(descriptor)


def _read(name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY)
    try:
        assert len(os.read(descriptor, SMALL)) == SMALL
    finally:
        os.close(descriptor)


def untar(folder: Path, scale: Scale) -> Result:
    """Files that tar(1) unpacks."""
    return timed(scale.files, scale.files * SMALL, lambda: subprocess.run(
        ["tar", "-C", str(folder / "unpacked"), "-xf", str(scale.archive)],
        check=True, timeout=JOB_SECONDS))


# A byte written twice passes these; one read is copied by FUSE and by whoever fetched it.
WRITE = {"disk write": 2.0, "FUSE write": 1.0, "memory copy": 5.0}
READ = {"FUSE read": 1.0, "memory copy": 2.0}
TRIP = {"FUSE round trip": 1.0, "Unix socket round trip": 1.0}
TRIPS = {"FUSE round trip, 4 jobs": 1.0, "Unix socket round trip": 0.5}  # on two cores

ROWS = (
    Row("write 1 MiB", "MB/s", write_files(1), WRITE, prepare=remove_files(1)),
    Row("write 1 MiB, 4 jobs", "MB/s", write_files(4), WRITE, prepare=remove_files(4)),
    Row("checkpoint, 4 ranks", "MB/s", checkpoint(4), WRITE, prepare=fresh("checkpoint")),
    Row("read 1 MiB", "MB/s", read_files(1), READ, cold=True, prepare=warm(1)),
    Row("read 1 MiB, 4 jobs", "MB/s", read_files(4), READ, cold=True, prepare=warm(4)),
    Row("random read 128 KiB, 4 jobs", "MB/s", read_pieces(4, SAMPLE), READ, cold=True),
    Row("random read 4 KiB", "ops/s", read_pieces(1, SMALL, 2000), TRIP, cold=True),
    Row("random read 4 KiB, 16 jobs", "ops/s", read_pieces(16, SMALL, 300), TRIPS, cold=True),
    Row("create 4 KiB files", "ops/s", each_small(_create),
        {"disk flush": 2.0, "FUSE round trip": 4.0}, prepare=fresh("small")),
    Row("stat", "ops/s", each_small(os.stat), TRIP, cold=True),
    Row("read 4 KiB files", "ops/s", each_small(_read),
        {"FUSE round trip": 4.0, "Unix socket round trip": 2.0}, cold=True),
    Row("rename", "ops/s", each_small(lambda name: os.rename(name, f"{name}.new")),
        {"disk flush": 1.0, "FUSE round trip": 1.0}),
    Row("unlink", "ops/s", each_small(lambda name: os.unlink(f"{name}.new")),
        {"disk flush": 1.0, "FUSE round trip": 1.0}),
    Row("untar", "ops/s", untar, {"disk flush": 2.0, "FUSE round trip": 6.0},
        prepare=fresh("unpacked")),
)
