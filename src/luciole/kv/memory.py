"""`MemoryStore`: the engine of tests and of the simulator, with injected faults.

Layer: kernel. A multi-version store: every key has the values of recent commits, so that a
snapshot is nothing but a version number. Deterministic: no time but the runtime's clock, no
chance but its entropy, no order but that of keys. Threads may share it.

Invariant: of each key, the values that a snapshot at `history.floor` or later can see are kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeVar

from luciole.errors import FsError, Kind, require
from luciole.kv.history import ConflictHistory
from luciole.kv.interface import TRANSACTION_SECONDS_MAX, Transaction
from luciole.kv.retry import run_transaction
from luciole.kv.transaction import CommitRequest, OptimisticTransaction
from luciole.kv.watches import Watches
from luciole.runtime import Runtime

T = TypeVar("T")


class Faults(NamedTuple):
    """Probabilities, from 0 to 1, that a commit with writes ends in a fault."""

    conflict: float = 0.0  # KV_CONFLICT without a reason
    unknown_applied: float = 0.0  # KV_MAYBE_COMMITTED, and it was
    unknown_dropped: float = 0.0  # KV_MAYBE_COMMITTED, and it was not


NO_FAULTS = Faults()


class MemoryStore:
    """See `luciole.kv.interface.KeyValueStore`. `faults` may be replaced at any time."""

    def __init__(self, runtime: Runtime, faults: Faults = NO_FAULTS) -> None:
        self.faults = faults
        self._runtime = runtime
        self._guard = threading.RLock()
        self._watches = Watches(runtime)
        self._closed = False
        self._history = ConflictHistory()
        self._keys: list[bytes] = []
        self._values: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._removed: deque[tuple[int, bytes]] = deque()
        self._version = 0  # of the commit that is being applied

    def transaction(self) -> OptimisticTransaction:
        """Begins a transaction; its snapshot is taken at its first read."""
        return OptimisticTransaction(self._runtime.clock, self._open_snapshot, self._commit)

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `body` in a transaction and commits, again on conflict, at most for 10 seconds."""
        return await run_transaction(self._runtime, self.transaction, body)

    async def watch(self, key: bytes, seen: bytes | None, timeout: float) -> bytes | None:
        """The newest value once it is not `seen` any more, or after `timeout` seconds."""
        return await self._watches.wait(key, seen, timeout, lambda: self._open_snapshot().get(key))

    async def flush(self) -> None:
        """Nothing of it outlives its process."""

    def close(self) -> None:
        """Open transactions fail from now on."""
        self._closed = True
        self._watches.notify(None)

    # The newest state, to which a commit is applied (`buffer.Sink`); under the guard.

    def get(self, key: bytes) -> bytes | None:
        """The newest value."""
        return self.value_at(key, self._version)

    def set(self, key: bytes, value: bytes | None) -> None:
        """Adds a value of the commit being applied; None says that there is no record."""
        values = self._values.get(key)
        if values is None:
            values = self._values[key] = []
            insort(self._keys, key)
        # Nobody can read what was replaced before the floor.
        while len(values) > 1 and values[1][0] <= self._history.floor:
            values.pop(0)
        values.append((self._version, value))

    def clear(self, key: bytes) -> None:
        """Removes a record; its older values stay for snapshots."""
        if self.get(key) is not None:
            self.set(key, None)
            self._removed.append((self._version, key))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes records with begin <= key < end."""
        for key in self._keys[bisect_left(self._keys, begin) : bisect_left(self._keys, end)]:
            self.clear(key)

    # What snapshots read.

    def value_at(self, key: bytes, version: int) -> bytes | None:
        """The value that a snapshot of `version` sees."""
        with self._guard:
            self._refuse_closed()
            for written, value in reversed(self._values.get(key, ())):
                if written <= version:
                    return value
        return None

    def scan_at(
        self, begin: bytes, end: bytes, reverse: bool, version: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """The records that a snapshot of `version` sees. Others may commit between two of them."""
        while True:
            with self._guard:
                if reverse:
                    index = bisect_left(self._keys, end) - 1
                    key = end = self._keys[index] if index >= 0 else b""
                else:
                    index = bisect_left(self._keys, begin)
                    key = self._keys[index] if index < len(self._keys) else end
                    begin = key + b"\0"
                if not key or (key < begin if reverse else key >= end):
                    return
                value = self.value_at(key, version)
            if value is not None:
                yield key, value

    def _open_snapshot(self) -> _MemorySnapshot:
        with self._guard:
            self._refuse_closed()
            return _MemorySnapshot(self, self._history.newest)

    def _commit(self, request: CommitRequest) -> None:
        with self._guard:
            self._refuse_closed()
            if self._chance(self.faults.conflict):
                raise FsError(Kind.KV_CONFLICT, "an injected conflict")
            if self._chance(self.faults.unknown_dropped):
                raise FsError(Kind.KV_MAYBE_COMMITTED, "an injected fault: it was not")
            self._forget()
            self._history.check(request.read_version, request.reads)
            self._version = self._history.newest + 1
            stamp = self._version.to_bytes(8, "big") + bytes(2)
            request.buffer.apply(self, stamp)
            now = self._runtime.clock.now()
            written = request.buffer.written(stamp)
            self._history.record(self._version, now, written)
        self._watches.notify(written)
        if self._chance(self.faults.unknown_applied):
            raise FsError(Kind.KV_MAYBE_COMMITTED, "an injected fault: it was")

    def _forget(self) -> None:
        """Drops what no transaction younger than the limit can need."""
        self._history.forget(before=self._runtime.clock.now() - TRANSACTION_SECONDS_MAX)
        while self._removed and self._removed[0][0] <= self._history.floor:
            version, key = self._removed.popleft()
            values = self._values.get(key)
            if values is not None and values[-1] == (version, None):
                del self._values[key]
                del self._keys[bisect_right(self._keys, key) - 1]

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._runtime.entropy.uniform(0.0, 1.0) < probability

    def _refuse_closed(self) -> None:
        require(not self._closed, Kind.UNAVAILABLE, "the key-value store is closed")


class _MemorySnapshot:
    """A version of the store."""

    def __init__(self, store: MemoryStore, version: int) -> None:
        self._store = store
        self.version = version

    def get(self, key: bytes) -> bytes | None:
        return self._store.value_at(key, self.version)

    def scan(self, begin: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan_at(begin, end, reverse, self.version)

    def close(self) -> None:
        pass
