"""`LmdbRecords`: ordered records with long keys, on LMDB, whose keys have at most 511 bytes.

Layer: kernel. A shorter key is stored as it is. Longer keys that share their first 511 bytes are
stored together, as a sorted list under those bytes. Such keys are rare, so that the list is
short; and because only its key has 511 bytes, LMDB's order is the order of the records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import lmdb
import msgspec

BUCKET_BYTES = 511

_Bucket = list[tuple[bytes, bytes]]  # (rest of the key, value), sorted

_decode = msgspec.msgpack.Decoder(_Bucket).decode


class LmdbRecords:
    """The records as an LMDB transaction, begun with their database as default, sees them."""

    def __init__(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        if 0 < len(key) < BUCKET_BYTES:
            return self._transaction.get(key)
        rest = key[BUCKET_BYTES:]
        bucket = self._bucket(key[:BUCKET_BYTES])
        index = bisect_left(bucket, (rest, b""))
        return bucket[index][1] if index < len(bucket) and bucket[index][0] == rest else None

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record."""
        if len(key) < BUCKET_BYTES:
            self._transaction.put(key, value)
        else:
            rest = key[BUCKET_BYTES:]
            kept = [item for item in self._bucket(key[:BUCKET_BYTES]) if item[0] != rest]
            self._put_bucket(key[:BUCKET_BYTES], sorted([*kept, (rest, value)]))

    def clear(self, key: bytes) -> None:
        """Removes a record if it is there."""
        if len(key) < BUCKET_BYTES:
            self._transaction.delete(key)
        else:
            self._clear_in_bucket(key[:BUCKET_BYTES], key, key + b"\0")

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes all records with begin <= key < end."""
        buckets: list[bytes] = []
        with self._transaction.cursor() as cursor:
            cursor.set_range(begin[:BUCKET_BYTES])
            # The key is empty once the cursor is past the last record.
            while (key := cursor.key()) and key < end:
                if len(key) == BUCKET_BYTES:
                    buckets.append(key)
                    cursor.next()
                else:
                    cursor.delete()
        for key in buckets:
            self._clear_in_bucket(key, begin, end)

    def scan(self, begin: bytes, end: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key < end in order, or in reverse."""
        with self._transaction.cursor() as cursor:
            stored = _backward(cursor, begin, end) if reverse else _forward(cursor, begin, end)
            for key, value in stored:
                if len(key) < BUCKET_BYTES:
                    yield key, value
                    continue
                bucket = _decode(value)
                for rest, long_value in reversed(bucket) if reverse else bucket:
                    if begin <= key + rest < end:
                        yield key + rest, long_value

    def _bucket(self, key: bytes) -> _Bucket:
        data = self._transaction.get(key) if len(key) == BUCKET_BYTES else None
        return [] if data is None else _decode(data)

    def _put_bucket(self, key: bytes, bucket: _Bucket) -> None:
        if bucket:
            self._transaction.put(key, msgspec.msgpack.encode(bucket))
        else:
            self._transaction.delete(key)

    def _clear_in_bucket(self, key: bytes, begin: bytes, end: bytes) -> None:
        bucket = self._bucket(key)
        kept = [item for item in bucket if not begin <= key + item[0] < end]
        if len(kept) < len(bucket):
            self._put_bucket(key, kept)


def _forward(cursor: lmdb.Cursor[bytes], begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Stored pairs from the first that may hold a key >= begin."""
    if cursor.set_range(begin[:BUCKET_BYTES]):
        for key, value in cursor.iternext():
            if key >= end:
                return
            yield key, value


def _backward(
    cursor: lmdb.Cursor[bytes], begin: bytes, end: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Stored pairs, backwards, from the last that may hold a key < end."""
    bound = end[:BUCKET_BYTES]
    if not cursor.set_range(bound):
        found = cursor.last()
    elif len(end) > BUCKET_BYTES and cursor.key() == bound:
        found = True  # this list may hold keys on both sides of the end
    else:
        found = cursor.prev()
    if found:
        for key, value in cursor.iterprev():
            if key < begin[:BUCKET_BYTES]:
                return
            yield key, value
