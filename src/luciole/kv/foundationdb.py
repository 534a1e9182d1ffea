"""`FoundationDbStore`: the engine for a cluster, on the official binding.

Layer: kernel. The binding is imported when a store is opened, since it loads libfdb_c, which comes
from FoundationDB's own packages. A future of the binding is waited for on a thread by blocking,
under trio by a callback: the callback runs on FoundationDB's network thread and does nothing but
hand over. Error numbers and options: FoundationDB developer guide and "Error codes"; retries are
left to its `on_error`. Every transaction has a time limit, which `on_error` does not start anew,
so that nothing waits for ever and `run` ends after ten seconds.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar, cast

import trio

from luciole.errors import FsError, Kind, require
from luciole.kv import limits
from luciole.kv.interface import KeyValue, Transaction, key_after
from luciole.kv.retry import RUN_SECONDS_MAX

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

API_VERSION = 730
INSTALL = (
    "install the package foundationdb of the cluster's release (the extra luciole[fdb]) and"
    " FoundationDB's client package, which has libfdb_c"
)

_TIMED_OUT = 1031
_KINDS = {
    1004: Kind.DEADLINE_EXCEEDED,  # timed_out
    1007: Kind.KV_TOO_OLD,  # transaction_too_old
    1020: Kind.KV_CONFLICT,  # not_committed
    1021: Kind.KV_MAYBE_COMMITTED,  # commit_unknown_result
    1025: Kind.UNAVAILABLE,  # transaction_cancelled
    _TIMED_OUT: Kind.DEADLINE_EXCEEDED,  # transaction_timed_out
    1036: Kind.INVALID_ARGUMENT,  # accessed_unreadable
    1039: Kind.KV_MAYBE_COMMITTED,  # cluster_version_changed
    2004: Kind.INVALID_ARGUMENT,  # key_outside_legal_range
    2005: Kind.INVALID_ARGUMENT,  # inverted_range
    2101: Kind.KV_TOO_LARGE,  # transaction_too_large
    2102: Kind.KV_TOO_LARGE,  # key_too_large
    2103: Kind.KV_TOO_LARGE,  # value_too_large
}
# For errors that did not come from the binding: the body may raise what a commit raises.
_CODES = {Kind.KV_TOO_OLD: 1007, Kind.KV_CONFLICT: 1020, Kind.KV_MAYBE_COMMITTED: 1021}
# A commit that was cut short may have been committed all the same.
_UNKNOWN_AT_COMMIT = frozenset({Kind.DEADLINE_EXCEEDED, Kind.UNAVAILABLE})


class _Future(Protocol[T_co]):
    def wait(self) -> T_co: ...
    def cancel(self) -> None: ...
    def is_ready(self) -> bool: ...
    def on_ready(self, callback: Callable[[object], None]) -> None: ...


class _Value(Protocol):
    @property
    def value(self) -> bytes | None: ...


class _Record(Protocol):
    key: bytes
    value: bytes


class _Reader(Protocol):
    def get(self, key: bytes) -> _Future[_Value]: ...
    def _get_range(  # noqa: PLR0917 - the binding's own signature
        self,
        begin: object,
        end: object,
        limit: int,
        streaming_mode: int,
        iteration: int,
        reverse: bool,
    ) -> _Future[tuple[list[_Record], int, int]]: ...


class _Options(Protocol):
    def set_timeout(self, milliseconds: int) -> None: ...


class _Transaction(_Reader, Protocol):
    snapshot: _Reader
    options: _Options

    def set(self, key: bytes, value: bytes) -> None: ...
    def clear(self, key: bytes) -> None: ...
    def clear_range(self, begin: bytes, end: bytes) -> None: ...
    def add(self, key: bytes, operand: bytes) -> None: ...
    def set_versionstamped_key(self, key: bytes, value: bytes) -> None: ...
    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None: ...
    def add_write_conflict_range(self, begin: bytes, end: bytes) -> None: ...
    def commit(self) -> _Future[None]: ...
    def watch(self, key: bytes) -> _Future[None]: ...
    def on_error(self, code: int) -> _Future[None]: ...
    def cancel(self) -> None: ...


class _Database(Protocol):
    def create_transaction(self) -> _Transaction: ...


class _StreamingMode(Protocol):
    want_all: int
    exact: int


class _KeySelector(Protocol):
    def first_greater_or_equal(self, key: bytes) -> object: ...


class _Binding(Protocol):
    """What is used of the module `fdb` once its API version is chosen."""

    FDBError: type[Exception]
    StreamingMode: _StreamingMode
    KeySelector: _KeySelector

    def open(self, cluster_file: str) -> _Database: ...


def load_binding(api_version: int) -> _Binding:
    """The module `fdb`. Raises FsError CONFIG_INVALID when it or its library cannot be used."""
    try:
        import fdb  # noqa: PLC0415 - an optional dependency
    except ImportError as failure:
        raise FsError(
            Kind.CONFIG_INVALID, f"the package foundationdb is missing: {INSTALL}"
        ) from failure
    try:
        fdb.api_version(api_version)
    # The binding raises bare exceptions, and the loader its own, for a library that does not fit.
    except Exception as failure:
        raise FsError(
            Kind.CONFIG_INVALID,
            f"FoundationDB cannot be used with API version {api_version}: {failure} {INSTALL}",
        ) from failure
    return cast(_Binding, fdb)


class FoundationDbStore:
    """See `luciole.kv.interface.KeyValueStore`."""

    def __init__(
        self,
        cluster_file: str,
        *,
        bridge: Literal["thread", "trio"],
        api_version: int = API_VERSION,
        timeout: float = RUN_SECONDS_MAX,
    ) -> None:
        """Opens the cluster that the file names; that it answers shows at the first transaction.

        `bridge` says where transactions run: on plain threads or under trio. `timeout` in seconds
        bounds a transaction with all its retries.
        """
        self._binding = load_binding(api_version)
        self._wait: _Wait = _wait_on_thread if bridge == "thread" else _wait_under_trio
        self._wait_at_most = _ready_on_thread if bridge == "thread" else _ready_under_trio
        self._timeout = timeout
        self._open: list[_Database] = []
        try:
            self._open.append(self._binding.open(cluster_file))
        except self._binding.FDBError as failure:
            raise FsError(Kind.CONFIG_INVALID, str(failure), cluster_file) from failure

    def transaction(self) -> FoundationDbTransaction:
        """Begins a transaction; its snapshot is taken at its first read."""
        require(bool(self._open), Kind.UNAVAILABLE, "the key-value store is closed")
        inner = self._open[0].create_transaction()
        inner.options.set_timeout(int(self._timeout * 1000))
        return FoundationDbTransaction(self._binding, self._wait, inner)

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `body` in a transaction and commits, again when FoundationDB says so."""
        transaction = self.transaction()
        while True:
            try:
                result = await body(transaction)
                await transaction.commit()
                return result
            except FsError as failure:
                transaction = await transaction.again(failure)

    async def watch(self, key: bytes, seen: bytes | None, timeout: float) -> bytes | None:
        """The newest value once it is not `seen` any more, or after `timeout` seconds.

        FoundationDB's own watch, begun by the transaction that reads the value: its future is
        ready when the value is another one.
        """

        async def look(txn: Transaction) -> tuple[bytes | None, _Future[None] | None]:
            assert isinstance(txn, FoundationDbTransaction)
            value = await txn.get(key)
            return value, txn.begin_watch(key) if value == seen else None

        value, changed = await self.run(look)
        if changed is None:
            return value
        try:
            await self._wait_at_most(changed, timeout)
        finally:
            changed.cancel()
        return await self.run(lambda txn: txn.get(key))

    async def flush(self) -> None:
        """FoundationDB's commits are durable when they return."""

    def close(self) -> None:
        """Lets go of the cluster. The network thread of the binding ends with the process."""
        self._open.clear()


class FoundationDbTransaction:
    """See `luciole.kv.interface.Transaction`."""

    def __init__(self, binding: _Binding, wait: _Wait, inner: _Transaction) -> None:
        self._binding = binding
        self._wait = wait
        self._inner = inner  # kept until the futures are done: they fail when it is collected
        self._ended = False

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """The value, or None. Raises FsError KV_TOO_OLD after five seconds."""
        return (await self.get_many([key], snapshot=snapshot))[0]

    async def get_many(self, keys: list[bytes], *, snapshot: bool = False) -> list[bytes | None]:
        """The values in the order of `keys`, asked for all at once."""
        for key in keys:
            limits.check_read(key)
        reader = self._reader(snapshot)
        futures = [reader.get(key) for key in keys]
        return [(await self._result(future)).value for future in futures]

    async def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """Records with begin <= key < end in order (or in reverse), at most `limit` (0: all).

        Pages as the binding's own iterator does, which cannot be used since it blocks.
        """
        limits.check_range(begin, end)
        require(limit >= 0, Kind.INVALID_ARGUMENT, "a limit is not negative", str(limit))
        reader = self._reader(snapshot)
        selector = self._binding.KeySelector.first_greater_or_equal
        modes = self._binding.StreamingMode
        found: list[KeyValue] = []
        page = 1
        while True:
            future = reader._get_range(
                selector(begin),
                selector(end),
                limit - len(found) if limit else 0,
                modes.exact if limit else modes.want_all,
                page,
                reverse,
            )
            records, _, more = await self._result(future)
            found += [KeyValue(record.key, record.value) for record in records]
            if not more or not records or len(found) == limit:
                return found
            begin, end = (begin, found[-1].key) if reverse else (key_after(found[-1].key), end)
            page += 1

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record. Raises FsError KV_TOO_LARGE beyond the limits."""
        limits.check_record(key, value)
        self._writable().set(key, value)

    def clear(self, key: bytes) -> None:
        """Removes a record if it is there."""
        limits.check_key(key)
        self._writable().clear(key)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes all records with begin <= key < end."""
        limits.check_range(begin, end)
        self._writable().clear_range(begin, end)

    def add(self, key: bytes, delta: int) -> None:
        """Adds to a little-endian signed 64-bit number without reading it: no conflict."""
        limits.check_key(key)
        limits.check_delta(delta)
        self._writable().add(key, struct.pack("<q", delta))

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Writes under prefix + 10-byte commit version + suffix: unique, in commit order."""
        limits.check_stamped(prefix, suffix, value)
        # The binding wants to be told, in the last four bytes, where the version goes.
        offset = struct.pack("<I", len(prefix))
        key = prefix + b"\xff" * limits.STAMP_BYTES + suffix + offset
        self._writable().set_versionstamped_key(key, value)

    def add_read_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes the commit fail if another wrote into the range since the first read."""
        limits.check_range(begin, end)
        self._writable().add_read_conflict_range(begin, end)

    def add_write_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes transactions that read the range meanwhile fail, as if it were written."""
        limits.check_range(begin, end)
        self._writable().add_write_conflict_range(begin, end)

    async def commit(self) -> None:
        """Makes all writes durable at once, or raises; the transaction is over either way."""
        inner = self._writable()
        self._ended = True
        try:
            await self._result(inner.commit())
        except FsError as failure:
            if failure.kind in _UNKNOWN_AT_COMMIT:
                failure.kind = Kind.KV_MAYBE_COMMITTED
            raise

    def begin_watch(self, key: bytes) -> _Future[None]:
        """Ready when the value is another one than this transaction sees; begins at the commit."""
        return self._writable().watch(key)

    async def again(self, failure: FsError) -> FoundationDbTransaction:
        """Waits as FoundationDB advises; returns the transaction begun anew, or raises `failure`.

        It stays ended after the time limit, and after every error that a retry cannot help.
        """
        cause = failure.__cause__
        if isinstance(cause, self._binding.FDBError):
            code = getattr(cause, "code", None)
        else:
            code = _CODES.get(failure.kind)
        if code is None:
            raise failure
        try:
            await self._wait(self._inner.on_error(code))
        except self._binding.FDBError:
            raise failure from cause
        return FoundationDbTransaction(self._binding, self._wait, self._inner)

    def _reader(self, snapshot: bool) -> _Reader:
        inner = self._writable()
        return inner.snapshot if snapshot else inner

    def _writable(self) -> _Transaction:
        require(not self._ended, Kind.INVALID_ARGUMENT, "the transaction is over: begin another")
        return self._inner

    async def _result(self, future: _Future[T]) -> T:
        try:
            return await self._wait(future)
        except self._binding.FDBError as failure:
            code = int(getattr(failure, "code", 0))
            raise FsError(
                _KINDS.get(code, Kind.UNAVAILABLE), f"FoundationDB: {failure}"
            ) from failure


class _Wait(Protocol):
    async def __call__(self, future: _Future[T], /) -> T: ...


async def _wait_on_thread(future: _Future[T]) -> T:
    return future.wait()


async def _ready_on_thread(future: _Future[None], timeout: float) -> None:
    """Blocks until the future is ready, or failed, or `timeout` seconds have passed."""
    ready = threading.Event()
    future.on_ready(lambda _: ready.set())
    ready.wait(timeout)


async def _ready_under_trio(future: _Future[None], timeout: float) -> None:
    """Suspends until the future is ready, or failed, or `timeout` seconds have passed."""
    ready = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hand_over(_: object) -> None:
        try:
            token.run_sync_soon(ready.set)
        except trio.RunFinishedError:
            return  # nobody waits any more

    future.on_ready(hand_over)
    with trio.move_on_after(timeout):
        await ready.wait()


async def _wait_under_trio(future: _Future[T]) -> T:
    """Suspends the task until the network thread says that the future is ready."""
    if not future.is_ready():
        ready = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def hand_over(_: object) -> None:
            try:
                token.run_sync_soon(ready.set)
            except trio.RunFinishedError:
                return  # nobody waits any more

        future.on_ready(hand_over)
        try:
            await ready.wait()
        except trio.Cancelled:
            future.cancel()
            raise
    return future.wait()
