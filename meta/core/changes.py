"""The feed of changes: what caches of other clients have to forget.

Layer: pure. Every transaction that changes what a client may have cached also appends one record to
the feed: the inodes whose attributes or contents changed, the names that lead elsewhere now, and
who did it. What changed is read off the keys that the transaction writes, so no operation can
forget to tell. Records are ordered by the store's commit versions; servers wait for new ones by
watching a counter, and clients wait for their server (`MetaService.watch`).

Records older than `KEEP_NS` are trimmed; who comes later forgets everything it has cached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from luciole.kv.interface import KeyValue, KeyValueStore, Transaction, key_after, prefix_end
from luciole.meta.core import schema
from luciole.proto import meta_pb2

T = TypeVar("T")
KEEP_NS = 120 * 10**9
PAGE = 256
STAMP_BYTES = 10
NOTHING = bytes(STAMP_BYTES)  # before every stamp
COUNTER = schema.CHANGE_COUNT
# Inode records, and what is folded into the attributes of directories.
_INODE_PREFIXES = {
    schema.INODE, schema.DIRECTORY_TIMES, schema.DIRECTORY_SUBDIRECTORIES}


class NotingTransaction:
    """A `Transaction` that remembers which cached things it changes."""

    def __init__(self, inner: Transaction) -> None:
        self._inner = inner
        self._change = meta_pb2.Change()
        self._inodes: set[int] = set()
        self.get = inner.get
        self.get_many = inner.get_many
        self.get_range = inner.get_range
        self.set_versionstamped_key = inner.set_versionstamped_key
        self.add_read_conflict = inner.add_read_conflict
        self.add_write_conflict = inner.add_write_conflict
        self.commit = inner.commit

    def _note(self, key: bytes) -> None:
        kind = key[:4]
        if kind in _INODE_PREFIXES:
            self._inodes.add(schema.inode_id_of(key))
        elif kind == schema.DENTRY:
            self._change.entries.add(parent=schema.inode_id_of(key), name=key[12:])
        elif kind == schema.IDEMPOTENCY:
            self._change.client_id = key[4:20]

    def set(self, key: bytes, value: bytes) -> None:
        """As of `Transaction`."""
        self._note(key)
        self._inner.set(key, value)

    def clear(self, key: bytes) -> None:
        """As of `Transaction`."""
        self._note(key)
        self._inner.clear(key)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """As of `Transaction`. Nothing that clients cache is cleared by ranges."""
        self._inner.clear_range(begin, end)

    def add(self, key: bytes, delta: int) -> None:
        """As of `Transaction`."""
        self._note(key)
        self._inner.add(key, delta)

    def append(self, now_ns: int) -> None:
        """Writes the record, if anything changed."""
        if not self._inodes and not self._change.entries:
            return
        self._change.inode_ids.extend(sorted(self._inodes))
        self._change.time_ns = now_ns
        self._inner.set_versionstamped_key(schema.CHANGE, b"", schema.encode(self._change))
        self._inner.add(schema.CHANGE_COUNT, 1)


class NotingStore:
    """A `KeyValueStore` whose every transaction tells what it changed."""

    def __init__(self, inner: KeyValueStore, now_ns: Callable[[], int]) -> None:
        self._inner = inner
        self._now_ns = now_ns
        self.watch = inner.watch
        self.flush = inner.flush

    def transaction(self) -> Transaction:
        """Begins a transaction that tells nothing: for reading."""
        return self._inner.transaction()

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """As of `KeyValueStore`."""
        async def noted(txn: Transaction) -> T:
            noting = NotingTransaction(txn)
            result = await body(noting)
            noting.append(self._now_ns())
            return result

        return await self._inner.run(noted)

    def close(self) -> None:
        """As of `KeyValueStore`."""
        self._inner.close()


async def newest(txn: Transaction) -> bytes:
    """The stamp of the last record; empty when there is none."""
    rows = await txn.get_range(
        schema.CHANGE, prefix_end(schema.CHANGE), limit=1, reverse=True, snapshot=True)
    if rows:
        return _stamp(rows[0])
    return await txn.get(schema.CHANGE_TRIMMED, snapshot=True) or b""


async def page_behind(
    txn: Transaction, after: bytes
) -> tuple[list[meta_pb2.Change], bytes, bytes | None]:
    """Records behind a stamp, the stamp to go on with, and the counter to watch for more.

    An empty list with another stamp than `after` means that records in between were trimmed, or
    that the record of `after` was lost, with the store's last commits, by a power loss.
    """
    trimmed = await txn.get(schema.CHANGE_TRIMMED, snapshot=True) or b""
    counter = await txn.get(schema.CHANGE_COUNT, snapshot=True)
    gone = after > max(trimmed, NOTHING) and await txn.get(
        schema.CHANGE + after, snapshot=True) is None
    if after < trimmed or gone:
        return [], await newest(txn) or NOTHING, counter
    begin = key_after(schema.CHANGE + after) if after else schema.CHANGE
    rows = await txn.get_range(begin, prefix_end(schema.CHANGE), limit=PAGE, snapshot=True)
    found = [schema.decode(row.value, meta_pb2.Change, repr(row.key)) for row in rows]
    return found, _stamp(rows[-1]) if rows else after, counter


async def trim(txn: Transaction, before_ns: int) -> int:
    """Removes one page of records made before `before_ns`; returns how many."""
    rows = await txn.get_range(
        schema.CHANGE, prefix_end(schema.CHANGE), limit=PAGE, snapshot=True)
    old = [row for row in rows
           if schema.decode(row.value, meta_pb2.Change, repr(row.key)).time_ns < before_ns]
    if old:
        txn.clear_range(schema.CHANGE, key_after(old[-1].key))
        txn.set(schema.CHANGE_TRIMMED, _stamp(old[-1]))
    return len(old)


def _stamp(row: KeyValue) -> bytes:
    return row.key[len(schema.CHANGE):][:STAMP_BYTES]
