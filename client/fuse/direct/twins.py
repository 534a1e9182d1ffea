"""Twins of the kernel's pages, so that of a mapped page only what was stored into it is written.

Layer: shell. Two mounts may map one page and store into it under different locks. The kernel
writes pages back whole, and would take the other's bytes back to what they were here. So for files
that are open for reading and writing a copy of each page is kept as the kernel last got it from
here or handed it in: the twin. What comes back from a mapping is compared with it, and only the
bytes that differ are written. Source: multiple-writer protocol of TreadMarks (Keleher et al.,
1994).

Invariant: a twin is what the kernel's page held when it was clean, or there is none. The kernel
orders requests about one page (it is locked while it is read, write-protected while it is written
back), so it is enough that a twin changes before the answer leaves. Where the kernel may pass its
pages by (O_DIRECT, O_APPEND) the twins go. Without a twin a page is written whole.

Bounds: the first `FILE_PAGES` pages of a file; `PAGES_MAX` pages of a mount, of which those go
that were used longest ago; and `FILES_MAX` files. The lock guards the tables.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict

from luciole.client.fuse.direct.protocol import PAGE

FILE_PAGES = 1024
PAGES_MAX = 4096
FILES_MAX = 4096
_DIFFERENT = re.compile(rb"[^\0]+")


def passes_pages(flags: int) -> bool:
    """Whether the kernel may read and write past its pages through a file with these open flags."""
    return bool(flags & (os.O_DIRECT | os.O_APPEND))


class Twins:
    """What the kernel's pages of some files held when they were last in step with this program."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: OrderedDict[int, set[int]] = OrderedDict()  # the pages that have twins
        self._pages: OrderedDict[tuple[int, int], bytearray] = OrderedDict()

    def begin(self, inode_id: int) -> bool:
        """Keeps twins of a file from now on; returns whether the kernel has to drop its pages."""
        with self._guard:
            known = inode_id in self._files
            self._files.setdefault(inode_id, set())
            self._files.move_to_end(inode_id)
            if len(self._files) > FILES_MAX:
                oldest, indices = self._files.popitem(last=False)
                for index in indices:
                    del self._pages[oldest, index]
        return not known

    def keeps(self, inode_id: int) -> bool:
        """Whether it keeps twins of a file."""
        return inode_id in self._files

    def given(self, inode_id: int, offset: int, data: memoryview, size: int) -> None:
        """The kernel gets `data`, and zeros up to `size` bytes, into its pages from `offset` on."""
        if inode_id not in self._files or offset >= FILE_PAGES * PAGE or offset % PAGE:
            return
        with self._guard:
            for start in range(0, size, PAGE):
                part = bytes(data[start : start + PAGE])
                self._keep(inode_id, (offset + start) // PAGE, bytearray(part.ljust(PAGE, b"\0")))

    def _keep(self, inode_id: int, index: int, page: bytearray) -> None:
        indices = self._files.get(inode_id)  # it may have gone meanwhile
        if indices is None or index >= FILE_PAGES:
            return
        indices.add(index)
        self._pages[inode_id, index] = page
        self._pages.move_to_end((inode_id, index))
        if len(self._pages) > PAGES_MAX:
            (oldest, index), _ = self._pages.popitem(last=False)
            self._files[oldest].remove(index)

    def taken(self, inode_id: int, offset: int, data: memoryview) -> None:
        """The kernel's pages hold `data` at `offset`, and so does the file now."""
        if inode_id not in self._files or offset >= FILE_PAGES * PAGE:
            return
        with self._guard:
            for index, begin, end, start in _parts(offset, len(data)):
                twin = self._pages.get((inode_id, index))
                if twin is not None:
                    twin[begin:end] = data[start : start + end - begin]
                    self._pages.move_to_end((inode_id, index))
                elif end - begin == PAGE:
                    self._keep(inode_id, index, bytearray(data[start : start + PAGE]))

    def differences(self, inode_id: int, offset: int, data: memoryview) -> list[tuple[int, int]]:
        """Which bytes of a write-back at `offset` were stored here: [begin, end) within `data`.

        Where there is no twin, all of them.
        """
        found: list[tuple[int, int]] = []
        for index, begin, end, start in _parts(offset, len(data)):
            with self._guard:
                twin = self._pages.get((inode_id, index))
                known = None if twin is None else bytes(twin[begin:end])
            runs = [(0, end - begin)] if known is None else _runs(
                known, bytes(data[start : start + end - begin]))
            for first, last in runs:
                if found and found[-1][1] == start + first:
                    found[-1] = found[-1][0], start + last
                else:
                    found.append((start + first, start + last))
        return found

    def forget(self, inode_id: int, offset: int, size: int) -> None:
        """The kernel may have pages there that differ from what was given."""
        with self._guard:
            indices = self._files.get(inode_id, set())
            for index in [index for index in indices if _overlap(index, offset, offset + size)]:
                indices.remove(index)
                del self._pages[inode_id, index]

    def zero(self, inode_id: int, offset: int, size: int) -> None:
        """The kernel makes that range of its pages zeros, or drops them."""
        with self._guard:
            for index in self._files.get(inode_id, ()):
                if _overlap(index, offset, offset + size):
                    begin = max(0, offset - index * PAGE)
                    end = min(PAGE, offset + size - index * PAGE)
                    self._pages[inode_id, index][begin:end] = bytes(end - begin)


def _overlap(index: int, begin: int, end: int) -> bool:
    return begin < (index + 1) * PAGE and index * PAGE < end


def _parts(offset: int, size: int) -> list[tuple[int, int, int, int]]:
    """The pages of a range: (index, begin and end within the page, begin within the range)."""
    found = []
    position = 0
    while position < size:
        index, begin = divmod(offset + position, PAGE)
        end = min(PAGE, begin + size - position)
        found.append((index, begin, end, position))
        position += end - begin
    return found


def _runs(one: bytes, other: bytes) -> list[tuple[int, int]]:
    """Where two strings of equal length differ."""
    if one == other:
        return []
    apart = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return [found.span() for found in _DIFFERENT.finditer(apart.to_bytes(len(one), "little"))]
