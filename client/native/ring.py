"""A ring: reads and writes that are under way while the program does something else.

Layer: shell. What is prepared goes at `submit` to the ring's threads, several reads at
once; completions come in whatever order. At most `depth` operations are under way or wait to be
fetched by `wait`: a program that fetches nothing gets BUSY, so memory is bounded.

The lock guards the queues and counts, and is never held over I/O.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from luciole.client.batch_reads import read_many
from luciole.client.native.batches import as_bytes, write_many
from luciole.client.native.file import Data, File, Writable
from luciole.client.session import Client
from luciole.errors import FsError, Kind
from luciole.runtime import drive

THREADS_MAX = 8
# What one thread asks for at once. Nodes on this machine get it with one doorbell each, and their
# work side by side; in smaller parts threads wait for each other, here and there.
READS_MAX = 64
BYTES_MAX = 16 * 1024 * 1024


class Completion(NamedTuple):
    """An operation that has ended."""

    tag: object
    result: int | FsError  # bytes, fewer than asked for at the end of a file


class _Operation(NamedTuple):
    is_read: bool
    handle: int
    offset: int
    view: memoryview
    tag: object


class Ring:
    """Made by `FileSystem.ring`; a context manager. Any thread may use it.

    Args:
        depth: operations under way or not fetched, at most.
    """

    def __init__(self, client: Client, depth: int) -> None:
        if depth < 1:
            raise FsError(Kind.INVALID_ARGUMENT, f"a ring has a depth of at least 1, not {depth}")
        self._client = client
        self._depth = depth
        self._guard = threading.Lock()
        self._submitted = threading.Condition(self._guard)
        self._ended = threading.Condition(self._guard)
        self._prepared: list[_Operation] = []
        self._queue: deque[_Operation] = deque()
        self._done: list[Completion] = []
        self._open = 0  # prepared, under way or not fetched
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def read(self, file: File, offset: int, view: Writable, tag: object) -> None:
        """Prepares to fill `view` from `offset` of a file. Raises FsError BUSY when it is full."""
        self._prepare(_Operation(True, file.handle, offset, as_bytes(view), tag))

    def write(self, file: File, offset: int, view: Data, tag: object) -> None:
        """Prepares to write `view`, which stays as it is until completion. Raises FsError BUSY."""
        self._prepare(_Operation(False, file.handle, offset, as_bytes(view), tag))

    def _prepare(self, operation: _Operation) -> None:
        with self._guard:
            if self._closed:
                raise FsError(Kind.NO_SESSION, "the ring is closed")
            if self._open == self._depth:
                raise FsError(Kind.BUSY, f"{self._depth} operations are under way or were not "
                              "fetched: wait for some, or make a deeper ring")
            self._open += 1
            self._prepared.append(operation)

    def submit(self) -> int:
        """Starts what is prepared; returns how many operations that were."""
        with self._guard:
            prepared, self._prepared = self._prepared, []
            self._queue += prepared
            batches = len(_batches(prepared))
            wanted = min(THREADS_MAX, self._depth, len(self._threads) + max(
                0, batches - self._idle))
            while len(self._threads) < wanted:
                thread = threading.Thread(target=self._work, name="luciole ring", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._submitted.notify(batches)
        return len(prepared)

    def wait(self, minimum: int = 1, timeout: float | None = None) -> list[Completion]:
        """What has ended: at least `minimum` operations, or fewer after `timeout` seconds.

        Never more than are under way are waited for; each of them ends by its own deadline.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._guard:
            while len(self._done) < min(minimum, self._open - len(self._prepared)):
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._ended.wait(left)
            done, self._done = self._done, []
            self._open -= len(done)
        return done

    def _work(self) -> None:
        while True:
            with self._guard:
                self._idle += 1
                while not self._queue and not self._closed:
                    self._submitted.wait()
                self._idle -= 1
                if not self._queue:
                    return
                batch = _take(self._queue)
            results = self._carry_out(batch)
            with self._guard:
                self._done += [Completion(operation.tag, result)
                               for operation, result in zip(batch, results, strict=True)]
                self._ended.notify_all()

    def _carry_out(self, batch: Sequence[_Operation]) -> Sequence[int | FsError]:
        what = [(operation.handle, operation.offset, operation.view) for operation in batch]
        try:
            if batch[0].is_read:
                return drive(read_many(self._client.operations, what))
            return drive(write_many(self._client, what))
        except Exception as error:
            # Whoever waits must hear of a bug here, too.
            failure = error if isinstance(error, FsError) else FsError(
                Kind.INTERNAL, f"the ring broke: {error!r}")
            return [failure] * len(batch)

    def close(self) -> None:
        """Waits for what is under way and ends the threads; idempotent."""
        with self._guard:
            self._closed = True
            self._open -= len(self._prepared)
            self._prepared = []
            self._submitted.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take(queue: deque[_Operation]) -> list[_Operation]:
    """The next operation, with some of those that follow if they are all reads."""
    batch = [queue.popleft()]
    size = len(batch[0].view)
    while batch[0].is_read and queue and queue[0].is_read and len(batch) < READS_MAX:
        size += len(queue[0].view)
        if size > BYTES_MAX:
            break
        batch.append(queue.popleft())
    return batch


def _batches(operations: Sequence[_Operation]) -> list[list[_Operation]]:
    rest, found = deque(operations), []
    while rest:
        found.append(_take(rest))
    return found
