"""`OptimisticTransaction`: the transaction of the memory and the embedded engine.

Layer: kernel. It records what was read and buffers what was written; an engine gives it two
things, a snapshot at the first read and a place to hand the commit to. FoundationDB's rules: the
read version is that of the first read, so a read conflict range added to a transaction that read
nothing cannot fail it; reading one's own write is no read of the store; five seconds after the
first read the transaction is too old to read or to commit what it read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from luciole.clock import Clock
from luciole.errors import FsError, Kind, require
from luciole.kv import limits
from luciole.kv.buffer import Untouched, WriteBuffer, add_number
from luciole.kv.interface import TRANSACTION_SECONDS_MAX, KeyValue, key_after
from luciole.kv.ranges import KeyRange


class Snapshot(Protocol):
    """A store as of one version."""

    @property
    def version(self) -> int:
        """The last commit that it shows."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def scan(self, begin: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key < end in order, or in reverse."""

    def close(self) -> None:
        """Gives up what it holds. Harmless when repeated."""


class CommitRequest(NamedTuple):
    """What an engine has to judge and to apply."""

    read_version: int
    reads: list[KeyRange]
    buffer: WriteBuffer
    size: int  # bytes, as the limit counts them


class OptimisticTransaction:
    """See `luciole.kv.interface.Transaction`."""

    def __init__(
        self,
        clock: Clock,
        open_snapshot: Callable[[], Snapshot],
        submit: Callable[[CommitRequest], None],
    ) -> None:
        self._clock = clock
        self._open_snapshot = open_snapshot
        self._submit = submit
        self._snapshot: Snapshot | None = None
        self._expires = 0.0
        self._ended = False
        self._buffer = WriteBuffer()
        # A dictionary keeps the order of reads, which a set would not.
        self._read_keys: dict[bytes, None] = {}
        self._read_ranges: list[KeyRange] = []

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """The value, or None. Raises FsError KV_TOO_OLD after five seconds."""
        if key >= limits.KEYS_END:
            limits.check_read(key)
        entry = self._buffer.find(key) if self._buffer.dirty else Untouched.YES
        if entry is None or isinstance(entry, bytes):
            return entry
        shown = self._snapshot
        if shown is None or self._clock.now() > self._expires:
            shown = self._current()
        value = shown.get(key)
        if not snapshot:
            self._read_keys[key] = None
        return add_number(value, entry) if isinstance(entry, int) else value

    async def get_many(self, keys: list[bytes], *, snapshot: bool = False) -> list[bytes | None]:
        """The values in the order of `keys`."""
        return [await self.get(key, snapshot=snapshot) for key in keys]

    async def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """Records with begin <= key < end in order (or in reverse), at most `limit` (0: all)."""
        limits.check_range(begin, end)
        require(limit >= 0, Kind.INVALID_ARGUMENT, "a limit is not negative", str(limit))
        self._buffer.refuse_unreadable(begin, end)
        records: Iterable[tuple[bytes, bytes]]
        records = self._current().scan(begin, end, reverse=reverse)
        if self._buffer.dirty:
            records = self._buffer.overlay(records, begin, end, reverse=reverse)
        found = [KeyValue(*record) for record in islice(records, limit or None)]
        if not snapshot:
            # A full answer depends on nothing beyond its last record.
            if limit and len(found) == limit:
                last = found[-1].key
                begin, end = (last, end) if reverse else (begin, key_after(last))
            self._read_ranges.append((begin, end))
        return found

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record. Raises FsError KV_TOO_LARGE beyond the limits."""
        limits.check_record(key, value)
        if self._ended:
            self._writable()
        self._buffer.set(key, value)

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
        self._writable().add(key, delta)

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Writes under prefix + 10-byte commit version + suffix: unique, in commit order."""
        limits.check_stamped(prefix, suffix, value)
        self._writable().set_stamped(prefix, suffix, value)

    def add_read_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes the commit fail if another wrote into the range since the first read."""
        limits.check_range(begin, end)
        self._read_ranges.append((begin, end))

    def add_write_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes transactions that read the range meanwhile fail, as if it were written."""
        limits.check_range(begin, end)
        self._writable().add_conflict(begin, end)

    async def commit(self) -> None:
        """Makes all writes durable at once, or raises; the transaction is over either way."""
        buffer = self._writable()
        version = self._snapshot.version if self._snapshot is not None else None
        self.close()
        if not buffer.dirty:
            return
        # What read nothing at a version has nothing that could have changed since.
        reads = [] if version is None else self._reads()
        size = buffer.size() + sum([len(begin) + len(end) for begin, end in reads])
        limits.check_transaction(size)
        if reads:
            self._refuse_old()
        self._submit(CommitRequest(version or 0, reads, buffer, size))

    def close(self) -> None:
        """Gives up the snapshot and ends the transaction without an effect. May be repeated."""
        self._ended = True
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def _current(self) -> Snapshot:
        if self._snapshot is None:
            self._writable()
            self._expires = self._clock.now() + TRANSACTION_SECONDS_MAX
            self._snapshot = self._open_snapshot()
            return self._snapshot
        if self._clock.now() > self._expires:
            self._refuse_old()
        return self._snapshot

    def _writable(self) -> WriteBuffer:
        if self._ended:
            raise FsError(Kind.INVALID_ARGUMENT, "the transaction is over: begin another")
        return self._buffer

    def _refuse_old(self) -> None:
        if self._clock.now() > self._expires:
            self.close()
            raise FsError(
                Kind.KV_TOO_OLD, f"more than {TRANSACTION_SECONDS_MAX:g} s since its first read"
            )

    def _reads(self) -> list[KeyRange]:
        return self._read_ranges + [(key, key + b"\0") for key in self._read_keys]
