"""Regions of files that are fetched whole, and given to the kernel before it asks.

Layer: shell. Which ones, the core says (client/core/read_around.py). A region is read as any other
bytes and stored into the kernel's pages (FUSE_NOTIFY_STORE), by threads of its own, as the kernel
holds pages locked that it waits for. A read that comes meanwhile waits for the fetch, and where
the file's samples are dense so does the one that brought it about, instead of being asked for by
itself. A read only ever waits for a region that a thread has turned to, so for its being read and
never behind a region that is being stored: that may wait for pages which are locked until this very
read is answered, or others that were left to its thread (`gathering`).

What is stored must not be older than what the kernel was told of, and must not lie over what
somebody here has written. So a file that is open for writing here, or whose pages have twins, is
left alone, and a fetch is void once its file was `disturbed`: it was opened anew after a change, or
to write; its attributes went to the kernel with a change; or its pages were taken back. Whoever
disturbs waits while a piece is stored, and then nothing is stored any more. That wait has a bound,
since the pages of a piece may be locked until other requests are answered; after it, what has been
stored is taken away again.

The guard is over the tables; the lock of a fetch is over storing it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from luciole.client.core.read_around import ReadAround
from luciole.client.fuse.direct.memory import Buffer, Pool
from luciole.client.fuse.direct.twins import Twins
from luciole.client.operations import Operations
from luciole.errors import FsError
from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("fuse")
THREADS_MAX = 4
QUEUE_MAX = 64  # regions that wait; more are not fetched
WAIT_S = 1.0
PIECE_BYTES = 256 * 1024  # stored at once
MEMORY_LOOK_S = 1.0


class Pages(Protocol):
    """The kernel's pages of one mount."""

    def store(self, inode_id: int, offset: int, data: bytes | memoryview) -> bool:
        """They hold these bytes."""

    def invalidate_inode(self, inode_id: int, offset: int = 0, length: int = 0) -> bool:
        """They are gone."""


class Fetch:
    """One region on its way."""

    def __init__(self, inode_id: int, handle: int, offset: int, end: int) -> None:
        self.inode_id = inode_id
        self.handle = handle
        self.offset = offset
        self.end = end
        self.void = False
        self.started = False  # a thread reads it, or is about to and has nothing else to do
        self.lock = threading.Lock()
        self.come = threading.Event()  # it was read, or will not be
        self.data: memoryview | None = None

    def is_void(self) -> bool:
        """Whether the kernel is not to have it; that may change at any time."""
        return self.void

    def part(self, offset: int, size: int) -> memoryview | None:
        """Those bytes once they are there; None: they are to be asked for."""
        if not self.started or offset + size > self.end:
            return None
        if not self.come.wait(WAIT_S) or self.void or self.data is None:
            return None
        begin = offset - self.offset
        found = self.data[begin : begin + size]
        return found if len(found) == size else None


def memory_available() -> int:
    """Bytes that the kernel could give to pages of files (proc_meminfo(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


class Around:
    """The regions of one mount's files that are being fetched."""

    def __init__(
        self, operations: Operations, pages: Pages, twins: Twins, region_bytes: int,
        *, available: Callable[[], int] = memory_available,
    ) -> None:
        """Args: region_bytes: a multiple of the page size; 0: nothing is fetched."""
        self._operations = operations
        self._pages = pages
        self._twins = twins
        self._size = region_bytes
        self._core = ReadAround(region_bytes)
        self._available = available
        self._room = 0, 0.0  # bytes available, when that was looked up
        self._pool = Pool(max(region_bytes, 1))
        self._guard = threading.Lock()
        self._queue: deque[Fetch] = deque()
        self._threads = 0
        self._under_way: dict[int, list[Fetch]] = {}

    def asked(self, inode_id: int, handle: int, offset: int, size: int) -> Fetch | None:
        """The kernel asked for bytes of a file. Waits for nothing.

        Returns the fetch that will bring them, where that is worth waiting for.
        """
        if 2 * size >= self._size:
            return None
        with self._guard:
            wanted = self._core.asked(inode_id, offset, size)
        if (wanted is None or self._twins.keeps(inode_id)
                or not self._fits(handle, wanted.begin)):
            return None
        with self._guard:
            if len(self._queue) == QUEUE_MAX:
                return None
            fetch = Fetch(inode_id, handle, wanted.begin, wanted.begin + self._size)
            self._under_way.setdefault(inode_id, []).append(fetch)
            self._queue.append(fetch)
            if self._threads == THREADS_MAX:
                return None
            self._threads += 1
            fetch.started = True  # whoever ends leaves no fetch behind, so this thread is for it
        trio.lowlevel.start_thread_soon(self._run, lambda outcome: outcome.unwrap())
        return fetch if wanted.dense else None

    def _fits(self, handle: int, begin: int) -> bool:
        """Whether the file is there from `begin` on, and the kernel could keep all of it."""
        try:
            length = self._operations.file_to_read(handle).length
        except FsError:
            return False
        now = time.monotonic()
        available, looked = self._room
        if now - looked >= MEMORY_LOOK_S:
            available = self._available()
            self._room = available, now
        return begin < length <= available // 2

    def covering(self, inode_id: int, offset: int, size: int) -> Fetch | None:
        """A fetch under way that will bring those bytes."""
        if inode_id not in self._under_way:
            return None
        with self._guard:
            return next((fetch for fetch in self._under_way.get(inode_id, ())
                         if fetch.offset <= offset and offset + size <= fetch.end
                         and not fetch.void), None)

    def disturbed(self, inode_id: int) -> None:
        """What was fetched of a file until now is not to be given to the kernel any more."""
        if inode_id not in self._under_way:
            return
        with self._guard:
            fetches = list(self._under_way.get(inode_id, ()))
        for fetch in fetches:
            fetch.void = True
            if fetch.lock.acquire(timeout=WAIT_S):
                fetch.lock.release()

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._queue:
                    self._threads -= 1
                    return
                fetch = self._queue.popleft()
                fetch.started = True
            try:
                self._carry_out(fetch)
            except (FsError, OSError) as failure:
                log.info("region_not_fetched", inode_id=fetch.inode_id, error=str(failure))
            finally:
                fetch.come.set()
                with self._guard:
                    others = self._under_way[fetch.inode_id]
                    others.remove(fetch)
                    if not others:
                        del self._under_way[fetch.inode_id]

    def _carry_out(self, fetch: Fetch) -> None:
        file = self._operations.file_to_read(fetch.handle)
        if any(handle.writable for handle in list(file.handles.values())):
            return
        buffer: Buffer = self._pool.take()
        data = drive(file.read(fetch.offset, fetch.end - fetch.offset, buffer.payload))
        if self._twins.keeps(fetch.inode_id):
            return
        fetch.data = data
        fetch.come.set()
        for begin in range(0, len(data), PIECE_BYTES):
            if not self._store(fetch, begin, data[begin : begin + PIECE_BYTES]):
                return

    def _store(self, fetch: Fetch, begin: int, piece: memoryview) -> bool:
        """Gives the kernel a piece; False: it is not to have it."""
        with fetch.lock:
            stored = not fetch.is_void() and self._pages.store(
                fetch.inode_id, fetch.offset + begin, piece)
        if stored and fetch.is_void():  # whoever disturbed may have given up waiting
            self._pages.invalidate_inode(fetch.inode_id, fetch.offset + begin, len(piece))
        return stored
