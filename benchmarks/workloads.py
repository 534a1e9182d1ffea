"""The workloads: each does real file I/O under a directory and returns how much it did.

They know nothing of what is mounted there, so the same code runs on every side.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
SMALL = 4096
RANDOM_CALLS = 2000
JOBS = 4


class Result(NamedTuple):
    """What one run of a workload did."""

    operations: int
    size: int  # bytes moved
    seconds: float


class Scale(NamedTuple):
    """How much a workload does."""

    size: int  # bytes of the big file
    files: int  # small files
    archive: Path  # a tar archive of as many


class Workload(NamedTuple):
    """A workload and how its figure is read."""

    name: str
    unit: str  # "MB/s" or "ops/s"
    run: Callable[[Path, Scale], Result]


def _timed(operations: int, size: int, body: Callable[[], object]) -> Result:
    began = time.perf_counter()
    body()
    return Result(operations, size, time.perf_counter() - began)


def _in_jobs(count: int, body: Callable[[int], None]) -> Callable[[], None]:
    """Runs `body(number)` on that many threads at once."""
    def run() -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(body, range(count)))

    return run


def _drop_cached(path: Path) -> None:
    """Drops the kernel's clean pages of a file. (The storage services keep theirs.)"""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _big(folder: Path, jobs: int, number: int) -> Path:
    return folder / f"big-{jobs}-{number}"


def _block(size: int) -> mmap.mmap:
    """Random bytes in memory that is aligned, as O_DIRECT wants it."""
    block = mmap.mmap(-1, size)
    block[:] = random.Random(size).randbytes(size)
    return block


def sequential_write(jobs: int, flags: int = 0) -> Callable[[Path, Scale], Result]:
    """1 MiB writes of new files, one a job, fsync at the end."""
    def run(folder: Path, scale: Scale) -> Result:
        blocks = scale.size // jobs // MIB

        def job(number: int) -> None:
            descriptor = os.open(
                _big(folder, jobs, number), os.O_WRONLY | os.O_CREAT | flags, 0o644)
            try:
                for _ in range(blocks):
                    os.write(descriptor, block)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        for number in range(jobs):
            _big(folder, jobs, number).unlink(missing_ok=True)
        with _block(MIB) as block:
            return _timed(jobs * blocks, jobs * blocks * MIB, _in_jobs(jobs, job))

    return run


def sequential_read(jobs: int, flags: int = 0) -> Callable[[Path, Scale], Result]:
    """1 MiB reads of whole files, one a job, not cached by the client's kernel."""
    def run(folder: Path, scale: Scale) -> Result:
        blocks = scale.size // jobs // MIB

        def job(number: int) -> None:
            descriptor = os.open(_big(folder, jobs, number), os.O_RDONLY | flags)
            try:
                with mmap.mmap(-1, MIB) as buffer:
                    for _ in range(blocks):
                        assert os.readv(descriptor, [buffer]) == MIB
            finally:
                os.close(descriptor)

        for number in range(jobs):
            _drop_cached(_big(folder, jobs, number))
        return _timed(jobs * blocks, jobs * blocks * MIB, _in_jobs(jobs, job))

    return run


def random_calls(jobs: int, *, write: bool) -> Callable[[Path, Scale], Result]:
    """4 KiB O_DIRECT calls at random offsets of one file."""
    def run(folder: Path, scale: Scale) -> Result:
        each = RANDOM_CALLS // jobs

        def job(number: int) -> None:
            chance = random.Random(number)
            flags = (os.O_WRONLY if write else os.O_RDONLY) | os.O_DIRECT
            descriptor = os.open(_big(folder, 1, 0), flags)
            call = os.pwritev if write else os.preadv
            try:
                with _block(SMALL) as buffer:
                    for _ in range(each):
                        call(descriptor, [buffer], chance.randrange(scale.size // SMALL) * SMALL)
            finally:
                os.close(descriptor)

        return _timed(each * jobs, each * jobs * SMALL, _in_jobs(jobs, job))

    return run


def _each_small(call: Callable[[str], object]) -> Callable[[Path, Scale], Result]:
    """One call for each small file."""
    def run(folder: Path, scale: Scale) -> Result:
        (folder / "small").mkdir(exist_ok=True)
        names = [f"{folder}/small/{number:06}" for number in range(scale.files)]

        def body() -> None:
            for name in names:
                call(name)

        return _timed(len(names), 0, body)

    return run


def _create(name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _write_small(name: str) -> None:
    Path(name).write_bytes(b"x" * SMALL)


def list_long(folder: Path, scale: Scale) -> Result:
    """What `ls -l` asks for; the entries are those that were just made."""
    def body() -> None:
        with os.scandir(folder / "small") as found:
            assert sum(os.lstat(entry.path).st_size == SMALL for entry in found) == scale.files

    return _timed(scale.files, 0, body)


def pack(path: Path, files: int) -> None:
    """Makes an archive of small files, a hundred to a folder."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path, "w") as packed:
        for number in range(files):
            file = Path(folder) / f"{number // 100}" / f"{number}"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x" * SMALL)
        packed.add(folder, "tree")


def untar(folder: Path, scale: Scale) -> Result:
    """Files that tar(1) unpacks."""
    return _timed(scale.files, scale.files * SMALL, lambda: subprocess.run(
        ["tar", "-C", str(folder), "-xf", str(scale.archive)], check=True))


def remove_tree(folder: Path, scale: Scale) -> Result:
    """Removes them again, with rm(1)."""
    return _timed(scale.files, 0, lambda: subprocess.run(
        ["rm", "-r", str(folder / "tree")], check=True))


WORKLOADS = (
    Workload("write 1 MiB, 4 jobs", "MB/s", sequential_write(JOBS)),
    Workload("read 1 MiB, 4 jobs", "MB/s", sequential_read(JOBS)),
    Workload("write 1 MiB direct, 4 jobs", "MB/s", sequential_write(JOBS, os.O_DIRECT)),
    Workload("read 1 MiB direct, 4 jobs", "MB/s", sequential_read(JOBS, os.O_DIRECT)),
    Workload("write 1 MiB direct", "MB/s", sequential_write(1, os.O_DIRECT)),
    Workload("read 1 MiB direct", "MB/s", sequential_read(1, os.O_DIRECT)),
    Workload("write 1 MiB", "MB/s", sequential_write(1)),
    Workload("read 1 MiB", "MB/s", sequential_read(1)),
    Workload("random read 4 KiB", "ops/s", random_calls(1, write=False)),
    Workload("random read 4 KiB, 4 jobs", "ops/s", random_calls(JOBS, write=False)),
    Workload("random write 4 KiB", "ops/s", random_calls(1, write=True)),
    Workload("random write 4 KiB, 4 jobs", "ops/s", random_calls(JOBS, write=True)),
    Workload("create", "ops/s", _each_small(_create)),
    Workload("write 4 KiB files", "ops/s", _each_small(_write_small)),
    Workload("stat", "ops/s", _each_small(os.stat)),
    Workload("readdir and stat", "ops/s", list_long),
    Workload("unlink", "ops/s", _each_small(os.unlink)),
    Workload("untar", "ops/s", untar),
    Workload("rm -r", "ops/s", remove_tree),
)
