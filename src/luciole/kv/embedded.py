"""`EmbeddedStore`: the engine for one machine, on LMDB.

Layer: kernel. Usable by many threads and by several processes at once. A commit that returned
survives the death of all of them; with durability "power" it also survives the loss of power, and
with "process" it does so after the next `flush`, which comes by itself every `sync_seconds`
(`lmdb_checkpoints`). A power loss takes commits from the end only, also those of other processes.

Reads come from an LMDB read transaction, which is a snapshot and waits for nobody. Commits are
grouped (`group_commit`); a batch takes LMDB's one writer lock, has each request judged by
`ConflictHistory`, and applies those that pass. With "power" it then waits for one checkpoint; what
it wrote is seen by others a moment before it is durable.

Invariants: the log has an entry, the keys written, for each version in floor < version <= newest,
committed with the records themselves; so the history of a process, brought up to date under the
writer lock, knows the commits of all others. All requests of a batch share its version; the two
bytes after it in a versionstamp tell them apart.

The writer lock is waited for without a bound of our own: a process holds it for one batch, and
LMDB frees it when its holder dies.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import lmdb

from luciole.boot import boot_id as boot_id_now
from luciole.errors import FsError, Kind
from luciole.kv.group_commit import GroupCommit, Outcome
from luciole.kv.history import ConflictHistory
from luciole.kv.interface import TRANSACTION_SECONDS_MAX, Transaction
from luciole.kv.lmdb_environment import MAP_BYTES, State, translate, translated
from luciole.kv.lmdb_opening import open_durably
from luciole.kv.lmdb_records import BUCKET_BYTES, LmdbRecords
from luciole.kv.lmdb_watch import LmdbWatches
from luciole.kv.ranges import RangeSet
from luciole.kv.retry import run_transaction
from luciole.kv.transaction import CommitRequest, OptimisticTransaction
from luciole.runtime import Runtime

Durability = Literal["process", "power"]
T = TypeVar("T")

# Five seconds of three thousand batches a second.
LOG_VERSIONS_MAX = 16_384
LOG_BYTES_MAX = 32 << 20
BATCHES_PER_READER_CHECK = 1024
SYNC_SECONDS = 1.0


class Statistics(NamedTuple):
    """Counts since the store was opened by this process."""

    commits: int = 0  # that succeeded and wrote something
    refused: int = 0  # that ended in an error
    batches: int = 0  # written


class EmbeddedStore:
    """See `luciole.kv.interface.KeyValueStore`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        runtime: Runtime,
        *,
        map_bytes: int = MAP_BYTES,
        log_versions_max: int = LOG_VERSIONS_MAX,
        durability: Durability = "power",
        sync_seconds: float = SYNC_SECONDS,
        boot_id: str | None = None,
    ) -> None:
        """Opens or makes the store in the directory `path`.

        Args:
            path: the directory; it is made if it is missing.
            runtime: of threads.
            map_bytes: bounds the size; the same in every process.
            log_versions_max: commits that are remembered to judge transactions by.
            durability: what a commit has survived when it returns: "power" the loss of power,
                "process" the death of every process. Each process may choose.
            sync_seconds: how long a commit may stay unflushed.
            boot_id: differs at each start of the machine; None: the kernel's.

        Raises FsError CONFIG_INVALID when the directory is not a store that this program can write.
        """
        self._path = os.fspath(path)
        self._runtime = runtime
        self._log_versions_max = log_versions_max
        self._waits = durability == "power"
        boot = boot_id_now() if boot_id is None else boot_id
        self._environment, self._checkpoints = open_durably(self._path, map_bytes, boot)
        self._watches = LmdbWatches(self._path, self._environment, runtime)
        self._history = ConflictHistory(self._open_version())
        self._statistics = Statistics()
        self._closed = False
        self._committers = GroupCommit(self._write)
        self._checkpoints.start(sync_seconds)

    def transaction(self) -> OptimisticTransaction:
        """Begins a transaction; its snapshot is taken at its first read."""
        clock = self._runtime.clock
        return OptimisticTransaction(clock, self._open_snapshot, self._committers.submit)

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `body` in a transaction and commits, again on conflict, at most for 10 seconds."""
        return await run_transaction(self._runtime, self.transaction, body)

    async def watch(self, key: bytes, seen: bytes | None, timeout: float) -> bytes | None:
        """The newest value once it is not `seen` any more, or after `timeout` seconds.

        Blocks the thread (ThreadRuntime).
        """
        self._watches.start()
        return await self._watches.waiting.wait(key, seen, timeout, lambda: self._newest(key))

    def _newest(self, key: bytes) -> bytes | None:
        snapshot = self._open_snapshot()
        try:
            return snapshot.get(key)
        finally:
            snapshot.close()

    async def flush(self) -> None:
        """Returns when all that was committed before survives a power loss. Blocks the thread."""
        self._checkpoints.flush()

    def statistics(self) -> Statistics:
        """Counts of this process."""
        return self._statistics

    def close(self) -> None:
        """Waits for commits under way, flushes, gives up the files. Open transactions fail."""
        if self._closed:
            return
        self._closed = True
        self._committers.close()
        self._watches.close()
        self._checkpoints.close()
        self._environment.handle.close()

    def _open_version(self) -> int:
        with translated(self._path), self._environment.handle.begin() as transaction:
            return self._environment.load_state(transaction).version

    def _open_snapshot(self) -> _LmdbSnapshot:
        environment = self._environment
        with translated(self._path):
            try:
                transaction = environment.handle.begin(db=environment.records)
            except lmdb.ReadersFullError:
                environment.handle.reader_check()
                transaction = environment.handle.begin(db=environment.records)
            version = environment.load_state(transaction).version
        return _LmdbSnapshot(transaction, version, self._path)

    def _write(
        self, requests: Sequence[CommitRequest], *, again: bool = False
    ) -> Sequence[Outcome]:
        try:
            outcomes = self._write_batch(requests)
        except FsError as failure:
            if failure.kind == Kind.NO_SPACE and not again:
                # What was freed since the last checkpoint can be used after the next. And one
                # that is too much for the disk must not fail those that are not.
                self._checkpoints.flush()
                return [self._write([request], again=True)[0] for request in requests]
            outcomes = [FsError(failure.kind, failure.message, failure.subject) for _ in requests]
        refused = len(outcomes) - outcomes.count(None)
        commits, refused_before, batches = self._statistics
        committed = len(requests) - refused
        self._statistics = Statistics(
            commits + committed, refused_before + refused, batches + (committed > 0)
        )
        if batches % BATCHES_PER_READER_CHECK == 0:
            # The snapshot of a reader that was killed keeps pages from being used again.
            self._environment.handle.reader_check()
        return outcomes

    def _write_batch(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        """Judges and applies a batch in one LMDB transaction."""
        environment = self._environment
        self._checkpoints.check()
        with translated(self._path):
            transaction = environment.handle.begin(db=environment.records, write=True)
            try:
                state = self._catch_up(transaction)
                version = state.version + 1
                outcomes, written = self._apply(transaction, version, requests)
                if not written:
                    transaction.abort()
                    return outcomes
                together = written[0] if len(written) == 1 else RangeSet(
                    each for ranges in written for each in ranges)
                self._append_log(transaction, state, together)
                _commit(transaction, self._path)
            except BaseException:
                transaction.abort()
                raise
        self._history.record(version, self._runtime.clock.now(), together)
        self._checkpoints.note_commit()
        if self._waits:
            self._make_durable()
        self._watches.ring(version, together)
        return outcomes

    def _make_durable(self) -> None:
        try:
            self._checkpoints.flush()
        except FsError as failure:
            raise FsError(Kind.KV_MAYBE_COMMITTED, str(failure), self._path) from failure

    def _catch_up(self, transaction: lmdb.Transaction[bytes]) -> State:
        """Learns what other processes committed since; returns the newest state."""
        state = self._environment.load_state(transaction)
        now = self._runtime.clock.now()
        self._history.forget(before=now - TRANSACTION_SECONDS_MAX, floor=state.floor)
        for version in range(self._history.newest + 1, state.version + 1):
            entry = transaction.get(_log_key(version), db=self._environment.log)
            assert entry is not None, "the log has every version above its floor"
            self._history.record(version, now, RangeSet.decode(entry))
        return state

    def _apply(
        self,
        transaction: lmdb.Transaction[bytes],
        version: int,
        requests: Sequence[CommitRequest],
    ) -> tuple[list[Outcome], list[RangeSet]]:
        """Returns the outcome of each request, and what those wrote that passed."""
        sink = LmdbRecords(transaction)
        outcomes: list[Outcome] = []
        written: list[RangeSet] = []
        for order, request in enumerate(requests):
            try:
                self._history.check(request.read_version, request.reads, written)
            except FsError as refusal:
                outcomes.append(refusal)
                continue
            stamp = version.to_bytes(8, "big") + order.to_bytes(2, "big")
            request.buffer.apply(sink, stamp)
            written.append(request.buffer.written(stamp))
            outcomes.append(None)
        return outcomes, written

    def _append_log(
        self, transaction: lmdb.Transaction[bytes], state: State, written: RangeSet
    ) -> None:
        """Adds a version to the log, drops the oldest beyond its bounds, stores the new state."""
        log = self._environment.log
        entry = written.encode()
        version, floor, log_bytes = state.version + 1, state.floor, state.log_bytes + len(entry)
        transaction.put(_log_key(version), entry, append=True, db=log)
        while version - floor > self._log_versions_max or log_bytes > LOG_BYTES_MAX:
            floor += 1
            dropped = transaction.pop(_log_key(floor), db=log)
            log_bytes -= len(dropped or b"")
        self._environment.store_state(transaction, State(version, floor, log_bytes))


class _LmdbSnapshot:
    """An LMDB read transaction and the version that it shows."""

    def __init__(self, transaction: lmdb.Transaction[bytes], version: int, path: str) -> None:
        self.version = version
        self._path = path
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        try:
            if 0 < len(key) < BUCKET_BYTES:
                return self._transaction.get(key)
            return LmdbRecords(self._transaction).get(key)
        except lmdb.Error as failure:
            raise translate(failure, self._path) from failure

    def scan(self, begin: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        with translated(self._path):
            yield from LmdbRecords(self._transaction).scan(begin, end, reverse=reverse)

    def close(self) -> None:
        self._transaction.abort()


def _log_key(version: int) -> bytes:
    return version.to_bytes(8, "big")


def _commit(transaction: lmdb.Transaction[bytes], path: str) -> None:
    """Makes the transaction durable; after a disk error nobody can know whether it is."""
    try:
        transaction.commit()
    except lmdb.Error as failure:
        error = translate(failure, path)
        if error.kind == Kind.DISK_FAILED:
            error = FsError(Kind.KV_MAYBE_COMMITTED, f"the disk failed at commit: {failure}", path)
        raise error from failure
