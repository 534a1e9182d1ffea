"""Large writes and first reads go past the page cache.

Layer: shell of the engine. A chunk that was just written is rarely the next to be read, and most
large reads of a cold chunk are part of a scan. The page cache costs either more than the disk does:
pages are taken, filled, kept and thrown out again. What goes directly uses the same memory over and
over. The page cache stays coherent: the kernel writes and drops its pages of what is written
directly, and writes those that are read directly (open(2), O_DIRECT).

*Reads.* What is in the page cache is read from there. The first large read of anything else goes
past it, the second one through it: only what is wanted again is worth pages. That is the
probationary queue of 2Q (Johnson and Shasha, VLDB 1994), of names alone.

The disk asks for whole pages at whole pages, in the file and in memory. What is written from
elsewhere in memory is copied to a page first, and what is read to elsewhere goes through the page
cache; so does what fills no page at the end. A file system that knows no direct access says so at
the first one, and is not asked again.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from luciole.rpc.interface import pages
from luciole.rpc.memory import address_of
from luciole.storage.engine.calls import FileCalls

PAGE = 4096
STEP_BYTES = 1024 * 1024  # copied and written at a time
SPARE_MAX = 8  # buffers that are kept
READ_ONCE_MAX = 16384  # places that are remembered
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)

FileKey = tuple[int, int]  # size class, file number
Place = tuple[FileKey, int]


class DirectFiles:
    """Direct access to the block files of one target, from any thread.

    Args:
        calls: how the operating system is called; its `direct_from` says what is large.
        path_of: where a file is.
    """

    def __init__(self, calls: FileCalls, path_of: Callable[[FileKey], Path]) -> None:
        self._calls = calls
        self._path_of = path_of
        self._descriptors: dict[FileKey, int] = {}
        self._spare: list[memoryview] = []
        self._possible = calls.direct_from > 0
        self._read_once: OrderedDict[Place, None] = OrderedDict()

    def read(
        self, file: FileKey, cached: int, views: Sequence[memoryview], position: int
    ) -> int:
        """Reads directly what is not in the page cache and was not read lately.

        Args:
            file: one that exists.
            cached: a descriptor of it, through the page cache.
            views: end to end where the bytes go.
            position: of the first byte in the file.

        Returns how many bytes were read, perhaps 0; the rest is for the page cache. Raises OSError.
        """
        total = sum(map(len, views))
        if not self._possible or total < self._calls.direct_from or position % PAGE or any(
                len(view) % PAGE or address_of(view) % PAGE for view in views if view):
            return 0
        if 2 * self._calls.cached(cached, position, total) >= total:
            return 0
        if not self._is_first(file, position):
            return 0
        try:
            return self._calls.read(self._descriptor(file), views, position)
        except OSError as failure:
            self._refused(failure)
            return 0

    def _is_first(self, file: FileKey, position: int) -> bool:
        """Whether this place was not read directly lately; it is from now on."""
        place = (file, position)
        if self._read_once.pop(place, place) is None:
            return False
        self._read_once[place] = None
        if len(self._read_once) > READ_ONCE_MAX:
            self._read_once.popitem(last=False)
        return True

    def write(self, file: FileKey, views: Sequence[memoryview], position: int) -> int:
        """Writes as much of `views` as goes directly; returns how many bytes that is, perhaps 0.

        Args:
            file: one that exists.
            views: end to end what is to be written.
            position: of the first byte in the file.

        Raises OSError.
        """
        total = sum(map(len, views))
        if not self._possible or total < self._calls.direct_from or position % PAGE:
            return 0
        try:
            descriptor = self._descriptor(file)
            if len(views) == 1 and address_of(views[0]) % PAGE == 0:
                whole = views[0][: total - total % PAGE]
                return self._calls.write(descriptor, [whole], position) // PAGE * PAGE
            return self._write_copied(descriptor, views, total, position)
        except OSError as failure:
            self._refused(failure)
            return 0

    def close(self) -> None:
        """Closes its files."""
        while self._descriptors:
            _, descriptor = self._descriptors.popitem()
            self._calls.close(descriptor)

    def _refused(self, failure: OSError) -> None:
        """Notes that the file system knows no direct access; raises any other failure."""
        if failure.errno not in _REFUSALS:
            raise failure
        self._possible = False

    def _write_copied(
        self, descriptor: int, views: Sequence[memoryview], total: int, position: int
    ) -> int:
        room = self._take()
        try:
            source = iter(views)
            view = next(source)
            done = 0
            while total - done >= PAGE:
                wanted = min(STEP_BYTES, (total - done) // PAGE * PAGE)
                filled = 0
                while filled < wanted:
                    view = view or next(source)
                    size = min(len(view), wanted - filled)
                    room[filled : filled + size] = view[:size]
                    view = view[size:]
                    filled += size
                count = self._calls.write(descriptor, [room[:wanted]], position + done)
                done += count // PAGE * PAGE
                if count < wanted:
                    break
            return done
        finally:
            if len(self._spare) < SPARE_MAX:
                self._spare.append(room)

    def _take(self) -> memoryview:
        try:
            return self._spare.pop()
        except IndexError:
            return pages(STEP_BYTES)

    def _descriptor(self, file: FileKey) -> int:
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            made = self._calls.open_direct(self._path_of(file))
            descriptor = self._descriptors.setdefault(file, made)
            if descriptor != made:
                self._calls.close(made)  # another thread was first
        return descriptor
