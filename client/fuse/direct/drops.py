"""Taking the kernel's pages of a file away, and showing others what was stored into them in order.

Layer: shell. A program that shares a mapping without locks relies on the order of its stores:
SQLite writes frames to its log, then entries of the index, and then the header at the index's
beginning, on which readers act at once. Pages lose that order. It is kept as far as it can be:

- Whatever else this mount has written is with the metadata service before stored bytes leave.
- What comes back while a file's pages are taken away is staged. The kernel hands pages in from
  the first to the last; they leave from the last byte to the first, neighbours at once. So when
  something becomes visible, all that lies behind it in the file is as new, and what is published
  by a header is there before it.

The kernel takes a staged page for written. So whatever it asks next of the file, but for reads, has
those leave first (`settle`): a write or a cut would come before them, a close take their handle.

Pages that the kernel writes back of itself (after half a minute, or at munmap and msync) leave
one by one, in its order.

The guard is over the table. A file is dropped under a lock, which comes before the guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from luciole.client.core.runs import Run
from luciole.client.fuse.direct.lengths import Lengths
from luciole.client.operations import Operations
from luciole.errors import FsError
from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("fuse")
LOCKS = 64  # files share them by their number
ATTRIBUTES_ONLY = -1


class Stored(NamedTuple):
    """Bytes that a process stored into a mapping, and the handle that the kernel names."""

    handle: int
    run: Run


class _Staging:
    """What came back of one file while its pages were taken away. The lock is over writing it."""

    def __init__(self) -> None:
        self.pieces: list[Stored] = []
        self.taken = 0  # of them, to be written
        self.written = 0
        self.lock = threading.Lock()


class Drops:
    """The files of one mount whose pages are being taken away."""

    def __init__(
        self, operations: Operations, invalidate: Callable[[int, int], bool],
        disturbed: Callable[[int], None] = lambda inode_id: None,
    ) -> None:
        """`invalidate` tells the kernel of an inode and of its pages from an offset on, or, with
        `ATTRIBUTES_ONLY`, of none; it returns whether the kernel knew the inode. Before that
        `disturbed` is called.
        """
        self._operations = operations
        self._tell = invalidate
        self._disturbed = disturbed
        self.lengths = Lengths()
        self._guard = threading.Lock()
        self._locks = [threading.Lock() for _ in range(LOCKS)]
        self._staged: dict[int, _Staging] = {}

    def drop(self, inode_id: int) -> None:
        """The kernel has no page of the file any more, and what was stored there is written.

        Not for a thread of those that serve writes: it waits for them.
        """
        if inode_id not in self._operations.open_files(mappable=True):
            self._invalidate(inode_id)
            return
        with self._locks[inode_id % LOCKS]:
            staging = _Staging()
            with self._guard:
                self._staged[inode_id] = staging
            try:
                self._invalidate(inode_id)
            finally:
                while not self._is_over(inode_id, staging):
                    try:
                        drive(self._write(inode_id, staging))
                    except FsError as failure:
                        log.warning("stores_lost", inode_id=inode_id, error=str(failure))

    def _is_over(self, inode_id: int, staging: _Staging) -> bool:
        """Ends the staging if all of it is on its way."""
        with self._guard:
            over = staging.written == len(staging.pieces)
            if over:
                del self._staged[inode_id]
            return over

    async def settle(self, inode_id: int) -> None:
        """What was staged of a file so far is written. Raises what its writes could not do."""
        staging = self._staged.get(inode_id)
        if staging is not None:
            await self._write(inode_id, staging)

    async def _write(self, inode_id: int, staging: _Staging) -> None:
        with staging.lock:
            with self._guard:
                pieces = staging.pieces[staging.taken :]
                staging.taken = len(staging.pieces)
            try:
                if pieces:
                    await self.show(inode_id, pieces)
            finally:
                staging.written = staging.taken

    def attributes_changed(self, inode_id: int) -> None:
        """The kernel asks for the attributes before it uses them again; it waits for nobody."""
        self._invalidate(inode_id, ATTRIBUTES_ONLY)

    def _invalidate(self, inode_id: int, offset: int = 0) -> None:
        self._disturbed(inode_id)
        self.lengths.invalidated(inode_id)
        if not self._tell(inode_id, offset):
            self.lengths.forget(inode_id)

    async def show(self, inode_id: int, pieces: list[Stored]) -> None:
        """Writes, the last first, after everything else of this mount. Raises FsError."""
        await self._operations.publish(but=inode_id)
        await self._operations.write_stored(
            inode_id, pieces[0].handle, [piece.run for piece in pieces])

    def stage(self, inode_id: int, pieces: list[Stored]) -> bool:
        """Keeps what a page came back with until all have; False if the file is not dropped."""
        with self._guard:
            staging = self._staged.get(inode_id)
            if staging is None:
                return False
            staging.pieces += pieces
            return True

    def staged(self, inode_id: int) -> list[Stored]:
        """What a read that begins now may not find on the chains."""
        if not self._staged:
            return []
        with self._guard:
            staging = self._staged.get(inode_id)
            return [] if staging is None else staging.pieces[staging.written :]


def lay_over(data: memoryview, offset: int, pieces: list[Stored]) -> None:
    """Puts into what was read at `offset` the bytes that were staged when the read began."""
    for _, run in pieces:
        begin = max(offset, run.offset)
        end = min(offset + len(data), run.end)
        if begin < end:
            data[begin - offset : end - offset] = run.data[begin - run.offset : end - run.offset]
