"""What a target's block files ask of the operating system: each call a labelled I/O point.

Layer: shell of the engine, at its bottom. Everything that changes a block file or a directory goes
through here, so that a test can stand at each call and cut the power there (tests/storage/cuts.py).
The metadata store is the one other thing that writes: its points are its own two (store.py).

Methods raise OSError, which blocks.py and directory.py turn into FsError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

_PUNCH_KEEP_SIZE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_COPY_BUFFER_BYTES = 1024 * 1024
DIRECT_FROM_BYTES = 256 * 1024
_VIEWS_MAX = 1024  # IOV_MAX of Linux
_libc = ctypes.CDLL(None, use_errno=True)
_quick = ctypes.PyDLL(None)  # keeps the interpreter's lock: giving it away takes longer
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_quick.syscall.argtypes = [
    ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
_CACHESTAT = 451  # on every architecture


class _Range(ctypes.Structure):
    """`struct cachestat_range`, linux/mman.h."""

    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cached(ctypes.Structure):
    """`struct cachestat`: pages that are there, dirty, being written, evicted, lately evicted."""

    _fields_ = (("pages", ctypes.c_uint64), ("others", ctypes.c_uint64 * 4))


class FileCalls:
    """The calls of Linux. Offsets and counts are in bytes.

    Args:
        direct_from: reads and writes of at least so many bytes may go past the page cache; 0: none.
    """

    def __init__(self, direct_from: int = DIRECT_FROM_BYTES) -> None:
        self.direct_from = direct_from

    def make_directory(self, path: Path) -> None:
        """Makes a directory and its parents unless it is there."""
        path.mkdir(parents=True, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Makes the entries of a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open(self, path: Path) -> int:
        """Opens a file for reading and writing; makes an empty one if there is none."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def lock(self, path: Path) -> int:
        """Opens a file (made if there is none) that nobody else may lock until it is closed.

        Raises BlockingIOError if somebody has it.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def open_direct(self, path: Path) -> int:
        """Opens a file that exists for reading and writing past the page cache."""
        return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        """Closes a file."""
        os.close(descriptor)

    def read(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        """Fills `views`. Returns bytes read, 0 at the end."""
        return os.preadv(descriptor, views, position)

    def cached(self, descriptor: int, position: int, count: int) -> int:
        """How many of these bytes are in the page cache: cachestat(2); 0 before Linux 6.5."""
        asked, found = _Range(position, count), _Cached()
        done = _quick.syscall(_CACHESTAT, descriptor, ctypes.byref(asked), ctypes.byref(found), 0)
        return 0 if done else min(count, int(found.pages) * mmap.PAGESIZE)

    def expect(self, descriptor: int, position: int, count: int) -> None:
        """Says that these bytes will be read soon: a hint to the kernel."""
        os.posix_fadvise(descriptor, position, count, os.POSIX_FADV_WILLNEED)

    def write(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        """Writes `views`. Returns bytes written, perhaps fewer."""
        return os.pwritev(descriptor, views, position)

    def copy(self, source: int, target: int, source_at: int, target_at: int, count: int) -> int:
        """Copies up to `count` bytes inside the kernel, or through a buffer where it cannot."""
        try:
            return os.copy_file_range(source, target, count, source_at, target_at)
        except OSError as failure:
            if failure.errno not in _NO_COPY_RANGE:
                raise
            chunk = os.pread(source, min(count, _COPY_BUFFER_BYTES), source_at)
            return os.pwrite(target, chunk, target_at) if chunk else 0

    def allocate(self, descriptor: int, position: int, count: int) -> None:
        """Takes room on the disk for these bytes, which then read as zeros unless written."""
        os.posix_fallocate(descriptor, position, count)

    def punch(self, descriptor: int, position: int, count: int) -> None:
        """Gives the room of these bytes back, where the file system knows holes."""
        _libc.fallocate(descriptor, _PUNCH_KEEP_SIZE, position, count)

    def shorten(self, descriptor: int, size: int) -> None:
        """Cuts what a file has beyond `size`."""
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Makes what was written to a file durable."""
        os.fdatasync(descriptor)


def read_all(
    calls: FileCalls,
    descriptor: int,
    views: Sequence[memoryview],
    position: int,
    count: int = 0,
) -> int:
    """Fills `views` end to end from `position`; the first `count` bytes are there already.

    Returns the bytes that are there in the end, fewer only at the file's end.
    """
    total = sum(map(len, views))
    if not count:
        count = calls.read(descriptor, views[:_VIEWS_MAX], position)
    while count < total:
        step = calls.read(descriptor, _rest(views, count), position + count)
        if step == 0:
            break
        count += step
    return count


def write_all(
    calls: FileCalls,
    descriptor: int,
    views: Sequence[memoryview],
    position: int,
    count: int = 0,
) -> None:
    """Writes `views` end to end from `position` on; the first `count` bytes are there already."""
    total = sum(map(len, views))
    while count < total:
        count += calls.write(descriptor, _rest(views, count), position + count)


def _rest(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of `views` after their first `done` bytes, as far as one call takes it."""
    left = []
    for view in views:
        if done < len(view):
            left.append(view[done:])
        done = max(0, done - len(view))
    return left[:_VIEWS_MAX]
