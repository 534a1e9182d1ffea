"""The workloads: each does real file I/O under a directory and returns how much it did.

They know nothing of what is mounted there, so the same code runs on the mount and on the disk.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
SMALL = 4096


class Result(NamedTuple):
    """What one run of a workload did."""

    operations: int
    size: int  # bytes moved
    seconds: float


class Workload(NamedTuple):
    """A workload and how its figure is read."""

    name: str
    unit: str  # "MB/s" or "ops/s"
    run: Callable[[Path, int], Result]


def _timed(operations: int, size: int, body: Callable[[], None]) -> Result:
    began = time.perf_counter()
    body()
    return Result(operations, size, time.perf_counter() - began)


def _drop_cached(path: Path) -> None:
    """Drops the kernel's clean pages of a file. (The storage services keep theirs.)"""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _big(folder: Path) -> Path:
    return folder / "big"


def sequential_write(folder: Path, size: int) -> Result:
    """1 MiB writes of a new file, fsync at the end."""
    block = random.Random(size).randbytes(MIB)

    def body() -> None:
        with _big(folder).open("wb", buffering=0) as file:
            for _ in range(size // MIB):
                file.write(block)
            os.fsync(file.fileno())

    _big(folder).unlink(missing_ok=True)
    return _timed(size // MIB, size, body)


def sequential_read(folder: Path, size: int) -> Result:
    """1 MiB reads of the whole file, not cached by the client's kernel."""
    buffer = bytearray(MIB)

    def body() -> None:
        with _big(folder).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    _drop_cached(_big(folder))
    return _timed(size // MIB, size, body)


def _random_reads(folder: Path, size: int, threads: int, each: int) -> Result:
    offsets = random.Random(7)
    plans = [[offsets.randrange(size // SMALL) * SMALL for _ in range(each)]
             for _ in range(threads)]

    def reader(plan: list[int]) -> None:
        descriptor = os.open(_big(folder), os.O_RDONLY | os.O_DIRECT)
        try:
            # O_DIRECT wants aligned memory, which an anonymous mapping is.
            import mmap  # noqa: PLC0415

            with mmap.mmap(-1, SMALL) as buffer:
                for offset in plan:
                    os.preadv(descriptor, [buffer], offset)
        finally:
            os.close(descriptor)

    def body() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(reader, plans))

    return _timed(threads * each, threads * each * SMALL, body)


def random_read(folder: Path, size: int) -> Result:
    """4 KiB O_DIRECT reads at random offsets, one at a time."""
    return _random_reads(folder, size, threads=1, each=2000)


def random_read_8(folder: Path, size: int) -> Result:
    """4 KiB O_DIRECT reads at random offsets, eight at a time."""
    return _random_reads(folder, size, threads=8, each=500)


def _names(folder: Path, count: int) -> list[Path]:
    return [folder / "small" / f"{number:06}" for number in range(count)]


COUNT = 1000


def create(folder: Path, size: int) -> Result:
    """Creates and closes empty files in one directory."""
    (folder / "small").mkdir(exist_ok=True)

    def body() -> None:
        for path in _names(folder, COUNT):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    return _timed(COUNT, 0, body)


def write_small(folder: Path, size: int) -> Result:
    """Opens, writes 4 KiB and closes each of those files."""
    block = b"x" * SMALL

    def body() -> None:
        for path in _names(folder, COUNT):
            path.write_bytes(block)

    return _timed(COUNT, COUNT * SMALL, body)


def stat(folder: Path, size: int) -> Result:
    """Stats each of those files after the client's attributes have expired."""
    time.sleep(1.1)  # the attribute cache lasts a second; it is not what is measured

    def body() -> None:
        for path in _names(folder, COUNT):
            os.stat(path)

    return _timed(COUNT, 0, body)


def unlink(folder: Path, size: int) -> Result:
    """Removes those files."""
    def body() -> None:
        for path in _names(folder, COUNT):
            os.unlink(path)

    return _timed(COUNT, 0, body)


WORKLOADS = (
    Workload("sequential write 1 MiB", "MB/s", sequential_write),
    Workload("sequential read 1 MiB", "MB/s", sequential_read),
    Workload("random read 4 KiB, 1 thread", "ops/s", random_read),
    Workload("random read 4 KiB, 8 threads", "ops/s", random_read_8),
    Workload("create", "ops/s", create),
    Workload("write 4 KiB files", "ops/s", write_small),
    Workload("stat", "ops/s", stat),
    Workload("unlink", "ops/s", unlink),
)
