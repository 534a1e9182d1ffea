"""Memory that may be shown to peers: `Region`, and which region a buffer lies in.

Layer: shell. A region is a memfd, mapped. A server on the same host may map it too and use it in
place. Its seals keep anybody from changing its size: whoever maps a file that shrinks is killed by
SIGBUS.

Invariants: a region's address and size never change. Its memory lives as long as any view of it,
also after `close`; closed only means that transports know it no more. The table is guarded by its
lock; looking something up takes none.
"""

from __future__ import annotations

import bisect
import ctypes
import fcntl
import itertools
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from luciole.errors import FsError, Kind

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PAGE = mmap.PAGESIZE
_BYTE = ctypes.c_char
_numbers = itertools.count(1)
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                       ctypes.c_long]  # fmt: skip


def map_file(file: int, size: int) -> tuple[int, memoryview]:
    """Maps a whole file, shared, for as long as a view of it lives; returns address and view.

    Python's own mmap keeps a descriptor for each mapping. Raises OSError.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, file, 0)
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (_BYTE * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    return address, memoryview(memory).cast("B")


class Region:
    """`size` bytes, zeros at first; `view` is all of them, and numpy and torch take it as it is.

    Args:
        size: in bytes, at least 1.

    Raises FsError INVALID_ARGUMENT or NO_SPACE.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise FsError(Kind.INVALID_ARGUMENT, f"a buffer has at least one byte, not {size}")
        whole = -(-size // PAGE) * PAGE
        self.file = -1
        try:
            self.file = os.memfd_create("luciole", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.file, whole)
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, SEALS)
            self.address, memory = map_file(self.file, whole)
        except OSError as failure:
            if self.file >= 0:
                os.close(self.file)
            raise FsError(
                Kind.NO_SPACE, f"no shared memory of {size} bytes: {failure.strerror}"
            ) from failure
        self.size = whole
        self.view = memory[:size]
        self.number = next(_numbers)
        self._keeps_pages = False
        self._lost: list[tuple[int, int]] = []
        self._closers: list[Callable[[], None]] = []
        # Re-entrant: a collection may give pages back at any allocation, also under the lock.
        self._guard = threading.RLock()
        _table.add(self)
        self._ended = weakref.finalize(self, _end, self.address, self.file, self._closers)
        self._ended.atexit = False

    def close(self) -> None:
        """Transports forget it; its memory goes with the last view of it. Idempotent."""
        self.view = memoryview(b"")
        self._ended()

    @property
    def closed(self) -> bool:
        """Whether transports may not use it any more."""
        return not self._ended.alive

    def on_close(self, call: Callable[[], None]) -> None:
        """Has `call` run when the region is closed or collected: on any thread, under any lock."""
        self._closers.append(call)

    def give_back(self, offset: int, size: int) -> None:
        """Frees whole pages that nobody needs, and whose content is lost, unless it keeps pages."""
        with self._guard:  # a card must not be told of pages that go in this moment
            if not self._keeps_pages:
                _libc.madvise(self.address + offset, size, mmap.MADV_REMOVE)

    def keep_pages(self) -> None:
        """From now on its pages stay where they are: a network card knows their places."""
        with self._guard:
            self._keeps_pages = True

    def lend_no_more(self, offset: int, size: int) -> None:
        """Takes whole pages away from peers: a late one writes where nobody looks.

        The pages at this address are replaced by private ones of this process, of zeros, which
        are not lent again. Called when a peer that was given them did not answer.
        """
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        with self._guard:
            self._lost.append((offset, offset + size))
            done = _libc.mmap(self.address + offset, size, protection, flags, -1, 0)
        if done != self.address + offset:
            raise MemoryError(f"mmap: {os.strerror(ctypes.get_errno())}")

    @property
    def has_lost(self) -> bool:
        """Whether any byte of it was taken away from peers."""
        return bool(self._lost)

    def lent_no_more(self, offset: int, size: int) -> bool:
        """Whether some byte of a range was taken away from peers."""
        lost = self._lost
        return bool(lost) and any(a < offset + size and offset < b for a, b in lost)


class Place(NamedTuple):
    """Where a buffer lies."""

    region: Region
    offset: int


_Entry = tuple[int, "weakref.ref[Region]"]


class _Table:
    """The regions of this process by address."""

    def __init__(self) -> None:
        self._guard = threading.RLock()  # a collection may come at any allocation
        self._sorted: tuple[list[int], list[weakref.ref[Region]]] = ([], [])

    def add(self, region: Region) -> None:
        self._change(lambda known: [*known, (region.address, weakref.ref(region))])

    def remove(self, address: int) -> None:
        self._change(lambda known: [entry for entry in known if entry[0] != address])

    def _change(self, change: Callable[[list[_Entry]], list[_Entry]]) -> None:
        with self._guard:
            while True:
                before = self._sorted
                entries = sorted(
                    change(list(zip(*before, strict=True))), key=lambda entry: entry[0]
                )
                after = [entry[0] for entry in entries], [entry[1] for entry in entries]
                if self._sorted is before:  # else a region was collected meanwhile, on this thread
                    self._sorted = after
                    return

    def find(self, address: int, size: int) -> Place | None:
        addresses, regions = self._sorted
        at = bisect.bisect(addresses, address) - 1
        if at < 0:
            return None
        region = regions[at]()
        offset = address - addresses[at]
        if region is None or offset + size > region.size or region.lent_no_more(offset, size):
            return None
        return Place(region, offset)


_table = _Table()


def _end(address: int, file: int, closers: list[Callable[[], None]]) -> None:
    """A region is closed, or nobody knows it any more."""
    _table.remove(address)
    os.close(file)
    for call in closers:
        call()


class _RawBuffer(ctypes.Structure):
    """`Py_buffer` of the C API."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_RawBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_RawBuffer)]
_release_buffer.restype = None


# The byte that a writable, contiguous buffer begins with: its address is ctypes.addressof of it.
# Raises TypeError for another, ValueError for an empty one.
first_byte = _BYTE.from_buffer


def address_of(view: memoryview) -> int:
    """The address of a view's first byte. The view is contiguous and not empty."""
    if not view.readonly:
        return ctypes.addressof(first_byte(view))
    raw = _RawBuffer()
    _get_buffer(view, ctypes.byref(raw), 0)
    try:
        return raw.buf or 0
    finally:
        _release_buffer(ctypes.byref(raw))


def place_of(view: memoryview) -> Place | None:
    """Where a view lies; None: in no region, or not wholly in one."""
    if not view.nbytes or not view.contiguous:
        return None
    return _table.find(address_of(view), view.nbytes)
