"""Write-behind: neighbouring small writes leave as whole chunks, several at a time.

Layer: shell. One buffer per open inode. A write that continues the last one is copied into the
buffer (the one copy that the client makes); a write that covers its chunk to the end while the
buffer is empty is sent from the caller's own memory. Sends run in the background, bounded by
`limit` bytes, never two of one chunk at once, so that a later write cannot be overtaken. What a
background send could not do is raised by the next call that waits: flush, fsync, close, read.

Concurrency: calls on one buffer are serialised by its owner (client/files.py), except `idle`, which
anyone may ask. Background sends may be threads; the lock guards what they share with the owner,
`_in_flight` and `_failure`, and is never held over a wait.

Memory: a read-only view is the buffer's to keep until its send has ended, and nobody changes what
is behind it meanwhile. A view that may be written is copied before `write` returns.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

from luciole.errors import FsError
from luciole.runtime import Runtime

Send = Callable[[int, memoryview], Awaitable[None]]
Spawn = Callable[[Callable[[], Awaitable[None]]], None]
WAIT_S = 600.0  # sends end by their own deadline long before


class WriteBuffer:
    """Collects writes of one inode."""

    def __init__(
        self, runtime: Runtime, send: Send, *, chunk_size: int, limit: int, spawn: Spawn | None
    ) -> None:
        self._send = send
        self._chunk_size = chunk_size
        self._limit = max(limit, chunk_size)
        self._spawn = spawn
        self._signal = runtime.signal()
        self._start = 0
        self._held = bytearray()
        self._leaving = False  # bytes are neither held nor in flight, but wait to be
        self._guard = threading.Lock()
        self._in_flight: dict[int, int] = {}  # chunk index -> bytes
        self._failure: FsError | None = None

    @property
    def idle(self) -> bool:
        """Whether everything written so far has left."""
        # In the order in which bytes pass through the three.
        return not self._held and not self._leaving and not self._in_flight

    async def write(self, offset: int, data: memoryview) -> None:
        """Takes bytes of any length. Raises FsError of an earlier send."""
        self._raise_failure()
        position = 0
        while position < len(data):
            at = offset + position
            if self._held and at != self._start + len(self._held):
                await self._push()
            room = self._chunk_size - at % self._chunk_size
            part = data[position : position + room]
            if not self._held and len(part) == room and data.readonly:
                await self._launch(at, part)
            else:
                if not self._held:
                    self._start = at
                self._held += part
                if len(part) == room:
                    await self._push()
            position += len(part)

    async def drain(self) -> None:
        """Returns when everything has been acknowledged. Raises FsError of any send."""
        await self._push()
        await self._wait(lambda: not self._in_flight)
        self._raise_failure()

    async def _push(self) -> None:
        if self._held:
            self._leaving = True
            try:
                held, self._held = self._held, bytearray()
                await self._launch(self._start, memoryview(held))
            finally:
                self._leaving = False

    async def _launch(self, offset: int, data: memoryview) -> None:
        chunk = offset // self._chunk_size
        await self._wait(lambda: self._has_room(chunk, len(data)))
        with self._guard:
            self._in_flight[chunk] = len(data)

        async def run() -> None:
            try:
                await self._send(offset, data)
            except FsError as failure:
                with self._guard:
                    self._failure = failure
            finally:
                with self._guard:
                    del self._in_flight[chunk]
                self._signal.notify()

        if self._spawn is None:
            await run()
            self._raise_failure()
        else:
            self._spawn(run)

    def _has_room(self, chunk: int, size: int) -> bool:
        with self._guard:
            return (chunk not in self._in_flight
                    and sum(self._in_flight.values()) + size <= self._limit)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while True:
            seen = self._signal.count  # before looking, so that no wake-up is lost
            if ready():
                return
            await self._signal.wait(seen, WAIT_S)

    def keep(self, failure: FsError) -> None:
        """The next call that waits raises this: whoever got it is not the one who wrote."""
        with self._guard:
            self._failure = failure

    def _raise_failure(self) -> None:
        with self._guard:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
