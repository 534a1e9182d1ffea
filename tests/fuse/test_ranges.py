"""Ranges of files on real mounts: room, holes, copies, appends of two mounts, blocks, limits."""

from __future__ import annotations

import errno
import mmap
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.tests.fuse.memory_cluster import CHUNK
from luciole.tests.fuse.mounted import mounted, needs_fuse
from luciole.tests.model.exerciser import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

pytestmark = [pytest.mark.mount, needs_fuse]
BLOCK = 64 * 1024
LENGTH_MAX = (1 << 63) - 1
COLLAPSE_RANGE, INSERT_RANGE = 0x08, 0x20


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with (tempfile.TemporaryDirectory(prefix="luciole-test-") as made,
          mounted("direct", Path(made))):
        yield Path(made)


@pytest.fixture
def file(place: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    name = re.sub(r"\W", "_", str(request.node.name))
    number = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield number
    os.close(number)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        call(*arguments)
    assert caught.value.errno == number


def taken(file: int) -> int:
    """Bytes of blocks, as reported by now."""
    os.fsync(file)
    return os.fstat(file).st_blocks * 512


def test_a_punched_chunk_takes_no_room(file: int) -> None:
    os.pwrite(file, b"x" * 3 * CHUNK, 0)
    assert taken(file) == 3 * CHUNK
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, CHUNK, CHUNK)
    assert os.fstat(file).st_blocks * 512 == 2 * CHUNK
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, 100, 50)
    content = os.pread(file, 4 * CHUNK, 0)
    assert content == b"x" * 100 + bytes(50) + b"x" * (CHUNK - 150) + bytes(CHUNK) + b"x" * CHUNK
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, 0, LENGTH_MAX)
    assert os.fstat(file).st_size == 3 * CHUNK
    assert taken(file) == 0


def test_allocation_extends_and_zeroing_too(file: int) -> None:
    fallocate(file, 0, 0, CHUNK)
    assert os.fstat(file).st_size == CHUNK
    fallocate(file, KEEP_SIZE, 0, 5 * CHUNK)
    assert os.fstat(file).st_size == CHUNK
    os.pwrite(file, b"y" * CHUNK, 0)
    fallocate(file, ZERO_RANGE, CHUNK // 2, CHUNK)
    assert os.fstat(file).st_size == CHUNK + CHUNK // 2
    assert os.pread(file, 2 * CHUNK, 0) == b"y" * (CHUNK // 2) + bytes(CHUNK)
    refused(errno.ENOSPC, fallocate, file, 0, 0, 1 << 45)
    refused(errno.EOPNOTSUPP, fallocate, file, COLLAPSE_RANGE, 0, CHUNK)
    refused(errno.EOPNOTSUPP, fallocate, file, INSERT_RANGE, 0, CHUNK)


def test_holes_are_found(file: int) -> None:
    os.pwrite(file, b"x" * 10, 5 * CHUNK)
    os.pwrite(file, b"x" * CHUNK, 2 * CHUNK)
    os.ftruncate(file, 9 * CHUNK)
    assert os.lseek(file, 0, os.SEEK_DATA) == 2 * CHUNK
    assert os.lseek(file, 0, os.SEEK_HOLE) == 0
    assert os.lseek(file, 2 * CHUNK + 7, os.SEEK_DATA) == 2 * CHUNK + 7
    assert os.lseek(file, 2 * CHUNK, os.SEEK_HOLE) == 3 * CHUNK
    assert os.lseek(file, 3 * CHUNK, os.SEEK_DATA) == 5 * CHUNK
    assert os.lseek(file, 5 * CHUNK + 1, os.SEEK_HOLE) == 5 * CHUNK + 10
    refused(errno.ENXIO, os.lseek, file, 5 * CHUNK + 10, os.SEEK_DATA)
    refused(errno.ENXIO, os.lseek, file, 9 * CHUNK, os.SEEK_HOLE)
    os.ftruncate(file, 1 << 49)  # as many chunks as no list has room for
    refused(errno.ENXIO, os.lseek, file, 6 * CHUNK, os.SEEK_DATA)


@pytest.mark.parametrize(("source", "offset", "count"), [
    (0, 6 * CHUNK, 3 * CHUNK), (100, 4 * CHUNK + 100, 2 * CHUNK), (7, 4 * CHUNK, CHUNK + 11),
])
def test_ranges_are_copied(
    file: int, place: Path, source: int, offset: int, count: int
) -> None:
    content = os.urandom(2 * CHUNK) + bytes(CHUNK) + b"end"
    os.pwrite(file, content[: 2 * CHUNK], 0)
    os.pwrite(file, b"end", 3 * CHUNK)
    assert os.copy_file_range(file, file, count, source, offset) == count
    expected = content.ljust(offset, b"\0") + content[source : source + count]
    assert os.pread(file, 10 * CHUNK, 0) == expected
    refused(errno.EINVAL, os.copy_file_range, file, file, 200, 0, 100)
    other = place / f"other-{source}"
    with other.open("w+b", buffering=0) as target:
        assert os.copy_file_range(file, target.fileno(), len(expected) + 9, 0, 0) == len(expected)
        assert target.read() == expected


def test_blocks_tell_what_is_there(file: int, place: Path) -> None:
    assert taken(file) == 0
    os.pwrite(file, b"x", 0)
    assert taken(file) == 512  # beside the inode
    os.ftruncate(file, 0)
    os.pwrite(file, b"x" * 10_000, 0)
    assert taken(file) == BLOCK
    os.pwrite(file, b"x" * (BLOCK + 1), CHUNK)
    assert taken(file) == BLOCK + 2 * BLOCK
    os.pwrite(file, b"y" * BLOCK, CHUNK)
    assert taken(file) == 3 * BLOCK
    os.ftruncate(file, CHUNK + 1)
    assert taken(file) == 2 * BLOCK
    os.ftruncate(file, 1 << 45)
    assert taken(file) == 2 * BLOCK
    os.ftruncate(file, 0)
    assert taken(file) == 0


def test_beyond_the_greatest_file_it_says_so(file: int) -> None:
    refused(errno.EFBIG, os.ftruncate, file, LENGTH_MAX)
    refused(errno.EFBIG, os.pwrite, file, b"x", LENGTH_MAX - 1)
    refused(errno.EFBIG, fallocate, file, 0, LENGTH_MAX - 10, 10)
    refused(errno.EFBIG, fallocate, file, 0, LENGTH_MAX, 10)
    most = CHUNK * ((1 << 32) - 1)
    os.pwrite(file, b"x", most - 1)
    refused(errno.EFBIG, os.pwrite, file, b"x", most)
    assert os.fstat(file).st_size == most
    assert os.lseek(file, 0, os.SEEK_DATA) == most - CHUNK
    assert os.pread(file, 10, most - 1) == b"x"


def test_mappings_of_two_processes_are_one_file(file: int) -> None:
    os.ftruncate(file, 2 * CHUNK)
    code = ("import mmap,sys\n"
            "m=mmap.mmap(int(sys.argv[1]),0)\n"
            "p=mmap.mmap(int(sys.argv[1]),0,flags=mmap.MAP_PRIVATE)\n"
            "p[:5]=b'mine.'\n"
            "assert m[:5]==b'first', m[:5]\n"
            "m[300000:300006]=b'second'\n")
    with mmap.mmap(file, 0) as memory:
        memory[:5] = b"first"
        subprocess.run([sys.executable, "-c", code, str(file)], pass_fds=[file], check=True,
                       timeout=20)
        assert memory[300000:300006] == b"second"
        assert memory[:5] == b"first"
    assert os.pread(file, 5, 0) == b"first"
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(file, 6, 300000) == b"second"
