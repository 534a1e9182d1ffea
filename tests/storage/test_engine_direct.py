"""Direct reads and writes of block files: the same bytes as through the page cache."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luciole.rpc.interface import pages
from luciole.storage.engine.blocks import BlockFiles
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.direct import PAGE
from luciole.storage.engine.records import Block

LARGE = 64 * 1024
BLOCK = Block(6, 3)  # of 4 MiB
SPAN = 40 * PAGE


class Counting(FileCalls):
    """Tells how often the disk was reached directly."""

    def __init__(self, direct_from: int = LARGE) -> None:
        super().__init__(direct_from)
        self.direct: set[int] = set()
        self.reads = self.writes = 0

    def open_direct(self, path: Path) -> int:
        descriptor = super().open_direct(path)
        self.direct.add(descriptor)
        return descriptor

    def read(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        self.reads += descriptor in self.direct
        return super().read(descriptor, views, position)

    def write(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        self.writes += descriptor in self.direct
        return super().write(descriptor, views, position)


class Refusing(FileCalls):
    """A file system without direct access."""

    def __init__(self) -> None:
        super().__init__(LARGE)
        self.asked = 0

    def open_direct(self, path: Path) -> int:
        self.asked += 1
        raise OSError(errno.EINVAL, "Invalid argument")


def opened(path: Path, calls: FileCalls) -> BlockFiles:
    files = BlockFiles(path, calls)
    files.resume([0] * 16)
    files.prepare(BLOCK, hole=False)
    return files


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[FileCalls], BlockFiles]]:
    """Opens block files; skips where the file system of the tests has no direct access."""
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_DIRECT))
    except OSError as failure:
        pytest.skip(f"no direct access under {tmp_path}: {failure.strerror}")
    made: list[BlockFiles] = []

    def make(calls: FileCalls) -> BlockFiles:
        made.append(opened(tmp_path / str(len(made)), calls))
        return made[-1]

    yield make
    for files in made:
        files.close()


def aligned(data: bytes) -> memoryview:
    view = pages(len(data))
    view[:] = data
    return view


def evict(files: BlockFiles) -> None:
    files.flush()
    descriptor, _ = files.locate(BLOCK)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(
    st.sampled_from(["write", "write pieces", "read", "evict"]), st.integers(0, SPAN),
    st.integers(1, SPAN), st.sampled_from([1, 7, 512, PAGE]), st.booleans()), max_size=12))
def test_reads_return_what_was_written_however_it_went(
    disk: Callable[[FileCalls], BlockFiles], steps: list[tuple[str, int, int, int, bool]]
) -> None:
    files, model = disk(Counting()), bytearray(2 * SPAN)
    files.write(BLOCK, 0, [memoryview(bytes(2 * SPAN))])
    for number, (what, start, length, unit, whole_page) in enumerate(steps):
        offset, size = start // unit * unit, max(unit, length // unit * unit)
        data = random.Random(number).randbytes(size)
        view = aligned(data) if whole_page else memoryview(b"x" + data)[1:]
        if what == "evict":
            evict(files)
        elif what == "read":
            room = pages(size) if whole_page else memoryview(bytearray(size + 1))[1:]
            assert files.read(BLOCK, offset, [room]) == size
            assert room == model[offset : offset + size]
        else:
            cut = size // 3 if what == "write pieces" else 0
            files.write(BLOCK, offset, [view[:cut], view[cut:]] if cut else [view])
            model[offset : offset + size] = data
    room = memoryview(bytearray(2 * SPAN))
    assert files.read(BLOCK, 0, [room]) == 2 * SPAN
    assert room == model


def test_large_writes_are_direct_and_small_ones_are_not(
    disk: Callable[[FileCalls], BlockFiles]
) -> None:
    calls = Counting()
    files = disk(calls)
    files.write(BLOCK, 0, [aligned(bytes(LARGE - PAGE))])
    assert calls.writes == 0
    files.write(BLOCK, 0, [aligned(bytes(LARGE))])
    files.write(BLOCK, LARGE, [memoryview(b"from anywhere" * 10_000)])
    assert calls.writes == 2
    files.write(BLOCK, 17, [aligned(bytes(LARGE))])
    assert calls.writes == 2


def test_a_large_read_fills_the_page_cache_the_second_time(
    disk: Callable[[FileCalls], BlockFiles]
) -> None:
    calls = Counting()
    files = disk(calls)
    data = random.Random(1).randbytes(LARGE)
    descriptor, position = files.locate(BLOCK)
    os.pwrite(descriptor, data, position)
    if not calls.cached(descriptor, position, LARGE):
        pytest.skip("this kernel does not tell what is in the page cache: Linux 6.5 does")
    files.write(BLOCK, 0, [aligned(data)])
    room = pages(LARGE)
    for direct, cached in ((1, 0), (1, LARGE), (1, LARGE)):
        room[:] = bytes(LARGE)
        assert files.read(BLOCK, 0, [room]) == LARGE
        assert room == data
        assert calls.reads == direct
        assert calls.cached(descriptor, position, LARGE) == cached


def test_a_file_system_without_direct_access_is_asked_once(tmp_path: Path) -> None:
    calls = Refusing()
    files = opened(tmp_path / "blocks", calls)
    data = random.Random(1).randbytes(LARGE)
    for at in (0, LARGE):
        files.write(BLOCK, at, [aligned(data)])
        room = pages(LARGE)
        assert files.read(BLOCK, at, [room]) == LARGE
        assert room == data
    assert calls.asked == 1
    files.close()


def test_nothing_is_direct_where_that_is_switched_off(
    disk: Callable[[FileCalls], BlockFiles]
) -> None:
    calls = Counting(direct_from=0)
    files = disk(calls)
    files.write(BLOCK, 0, [aligned(bytes(LARGE))])
    evict(files)
    assert files.read(BLOCK, 0, [pages(LARGE)]) == LARGE
    assert not calls.direct


def test_threads_write_and_read_their_own_blocks(
    disk: Callable[[FileCalls], BlockFiles]
) -> None:
    files = disk(Counting())
    wrong: list[int] = []

    def work(number: int) -> None:
        block = Block(BLOCK.size_class, number % 2)  # the first two lie in the step of the fixture
        offset = number // 2 * 4 * LARGE
        for turn in range(10):
            data = random.Random(100 * number + turn).randbytes(2 * LARGE)
            files.write(block, offset, [memoryview(data)])
            room = pages(2 * LARGE)
            if files.read(block, offset, [room]) != len(room) or room != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
