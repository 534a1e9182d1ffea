"""Large writes go past the page cache.

Layer: shell of the engine. A chunk that was just written is rarely the next to be read, and the
page cache costs a large write more than the disk does: pages are taken, filled, kept and thrown
out again. A direct write leaves from memory that is used over and over. Reads stay in the page
cache, which is coherent: the kernel drops pages that are written directly (open(2), O_DIRECT).

The disk asks for whole pages at whole pages, in the file and in memory. What is not at a whole
page of memory is copied to one first; what fills no page at the end is left to an ordinary write.
A file system that knows no direct writes says so at the first one, and is not asked again.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from pathlib import Path

from luciole.rpc.memory import address_of
from luciole.storage.engine.calls import FileCalls

PAGE = 4096
STEP_BYTES = 1024 * 1024  # copied and written at a time
SPARE_MAX = 8  # buffers that are kept


class DirectWriter:
    """Direct writes to the block files of one target, from any thread.

    Args:
        calls: how the operating system is called; its `direct_from` says what is large.
    """

    def __init__(self, calls: FileCalls) -> None:
        self._calls = calls
        self._descriptors: dict[Path, int] = {}
        self._spare: list[memoryview] = []
        self._possible = calls.direct_from > 0

    def write(self, path: Path, views: Sequence[memoryview], position: int) -> int:
        """Writes as much of `views` as goes directly; returns how many bytes that is, perhaps 0.

        Args:
            path: of a file that exists.
            views: end to end what is to be written.
            position: of the first byte in the file.

        Raises OSError.
        """
        total = sum(map(len, views))
        if not self._possible or total < self._calls.direct_from or position % PAGE:
            return 0
        try:
            descriptor = self._descriptor(path)
            if len(views) == 1 and address_of(views[0]) % PAGE == 0:
                whole = views[0][: total - total % PAGE]
                return self._calls.write(descriptor, [whole], position) // PAGE * PAGE
            return self._write_copied(descriptor, views, total, position)
        except OSError as failure:
            if failure.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            self._possible = False
            return 0

    def close(self) -> None:
        """Closes its files."""
        while self._descriptors:
            _, descriptor = self._descriptors.popitem()
            self._calls.close(descriptor)

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
            return memoryview(mmap.mmap(-1, STEP_BYTES))

    def _descriptor(self, path: Path) -> int:
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            made = self._calls.open_direct(path)
            descriptor = self._descriptors.setdefault(path, made)
            if descriptor != made:
                self._calls.close(made)  # another thread was first
        return descriptor
