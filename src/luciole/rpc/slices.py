"""Memory of a service that others may be lent: slices of a few large regions.

Layer: shell. What a service receives it often sends on, to the next replica of a chain; so that the
next one can reach it in place, it lies in a region. A region for each connection would be more than
one connection may show, and a descriptor each; so there are few, and whoever needs memory takes a
slice: whole pages, from a page on. The pages of a slice go back to the system when its last view is
gone; its place is used again. A region without any slice is closed, unless it is the only one.

Invariants: no two slices overlap. A slice that was taken away from peers (`Region.lend_no_more`)
is not used again, and its region ends with its last slice. The lock guards shelves; slices come
back without it, as a view may end at any allocation, also under the lock.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from typing import NamedTuple

from luciole.errors import FsError
from luciole.rpc.interface import pages
from luciole.rpc.memory import PAGE, Region

REGION_BYTES = 64 << 20  # address space: pages are made when they are written
REGIONS_MAX = 32  # half of what a connection may show, as some were closed and are shown still
_BYTE = ctypes.c_char


class Extents:
    """The free parts of [0, size): in order, never touching each other."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)]  # begin, end

    def take(self, size: int) -> int | None:
        """The begin of the first `size` that are free in a row, or None."""
        for index, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[index : index + 1] = [(begin + size, end)] * (begin + size < end)
                return begin
        return None

    def give(self, begin: int, size: int) -> None:
        """These are free again."""
        end = begin + size
        before = [part for part in self._free if part[1] < begin]
        behind = [part for part in self._free if part[0] > end]
        touching = self._free[len(before) : len(self._free) - len(behind)]
        begin = min([begin, *(part[0] for part in touching)])
        end = max([end, *(part[1] for part in touching)])
        self._free = [*before, (begin, end), *behind]


class _Shelf:
    """A region and what of it is free."""

    def __init__(self) -> None:
        self.region = Region(REGION_BYTES)
        self.free = Extents(REGION_BYTES)
        self.slices = 0  # that somebody has


class _Return(NamedTuple):
    """A slice that nobody has any more."""

    shelf: _Shelf
    offset: int
    size: int


class Slices:
    """Gives memory that can be lent, as long as there is some."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._shelves: list[_Shelf] = []
        self._returned: deque[_Return] = deque()

    def take(self, size: int) -> memoryview:
        """`size` bytes, more than none, from a page on: nobody else's while a view of them lives.

        They are zeros, unless a network card keeps pages. Beyond what the regions hold it is
        ordinary memory, which travels when it is sent. Raises OSError if there is none.
        """
        whole = -(-size // PAGE) * PAGE
        with self._guard:
            self._put_back()
            place = self._place(whole)
        self._tidy()
        if place is None:
            return pages(size)
        memory = (_BYTE * size).from_address(place.shelf.region.address + place.offset)
        weakref.finalize(memory, self._ended, place).atexit = False
        return memoryview(memory).cast("B")

    @property
    def regions(self) -> int:
        """How many there are now."""
        return len(self._shelves)

    def _place(self, size: int) -> _Return | None:
        if size > REGION_BYTES:
            return None
        for shelf in self._shelves:
            offset = shelf.free.take(size)
            if offset is not None:
                shelf.slices += 1
                return _Return(shelf, offset, size)
        if len(self._shelves) == REGIONS_MAX:
            return None
        try:
            made = _Shelf()
        except FsError:  # no descriptor, no memory: bytes can travel
            return None
        self._shelves.append(made)
        return self._place(size)

    def _ended(self, place: _Return) -> None:
        """The last view of a slice is gone."""
        self._returned.append(place)
        self._tidy()

    def _tidy(self) -> None:
        """Puts back what came. Whoever has the lock meanwhile does so when it lets go."""
        while self._returned and self._guard.acquire(blocking=False):
            try:
                self._put_back()
            finally:
                self._guard.release()

    def _put_back(self) -> None:
        while self._returned:
            shelf, offset, size = self._returned.popleft()
            shelf.slices -= 1
            if not shelf.region.lent_no_more(offset, size):
                shelf.region.give_back(offset, size)
                shelf.free.give(offset, size)
            if not shelf.slices and (len(self._shelves) > 1 or shelf.region.has_lost):
                self._shelves.remove(shelf)
                shelf.region.close()
