"""What a target does with its last epoch when it opens: how much of it is really there?

Layer: shell of the engine. An *epoch* is the time between two flushes. The first time that an
epoch changes a chunk's record, the record as it was goes into the same batch as undo record; a
flush that ended removes those of its epoch. After the death of the process alone every current
record is true. After a power loss the metadata of a change may be on disk and its bytes not: so
for each chunk that has undo records, the newest version of its record whose bytes verify is
taken; the one of the last flush always does, because its blocks are not written again before
(allocator.py, "waiting", and records.py, the invariant).
"""

from __future__ import annotations

from collections.abc import Iterator

from luciole.checksum import BLOCK_SIZE, crc32c
from luciole.errors import FsError
from luciole.storage.engine.content import read_content
from luciole.storage.engine.ports import Batch, BlockDisk, RecordStore
from luciole.storage.engine.records import (
    APPLIED_PREFIX,
    CHUNK_PREFIX,
    SESSION_KEY,
    UNDO_PREFIX,
    Record,
    StoredVersion,
    chunk_key,
    decode_applied,
    decode_record,
    decode_session,
)

_PREFIX_ENDS = {prefix: bytes([prefix[0] + 1]) for prefix in (b"c", b"d", b"u")}


def settle_last_epoch(store: RecordStore, disk: BlockDisk) -> int:
    """Resolves all undo records and makes the outcome durable. Returns chunks set back."""
    older: dict[bytes, list[bytes]] = {}
    batch = Batch()
    for key, value in store.scan(UNDO_PREFIX, _PREFIX_ENDS[UNDO_PREFIX]):
        older.setdefault(key[9:], []).append(value)
        batch.delete(key)
    if not older:
        return 0
    set_back: dict[bytes, int] = {}
    for chunk_id, values in older.items():
        current = store.get(chunk_key(chunk_id)) or b""
        # Keys sort by epoch, so the newest undo record is the last.
        chosen = _newest_intact(disk, [current, *reversed(values)])
        if chosen == current:
            continue
        record = decode_record(chosen)
        set_back[chunk_id] = record.committed.number if record.committed else 0
        if chosen:
            batch.put(chunk_key(chunk_id), chosen)
        else:
            batch.delete(chunk_key(chunk_id))
    _forget_applied(store, batch, set_back)
    disk.flush(everything=True)
    store.write(batch)
    store.sync()
    return len(set_back)


def lost_power(store: RecordStore, boot_id: str) -> bool:
    """Whether updates that were acknowledged may be gone: with durability "process" a restart of
    the machine takes what no flush had reached. A doubt lasts until it is ended explicitly."""
    value = store.get(SESSION_KEY)
    if value is None:
        return False
    session = decode_session(value)
    return session.doubtful or (not session.safe and session.boot_id != boot_id)


def all_records(store: RecordStore) -> Iterator[Record]:
    """Every chunk record, in order of chunk id."""
    for _, value in store.scan(CHUNK_PREFIX, _PREFIX_ENDS[CHUNK_PREFIX]):
        yield decode_record(value)


def _forget_applied(store: RecordStore, batch: Batch, set_back: dict[bytes, int]) -> None:
    """A channel whose last update is gone must be able to send it again."""
    if not set_back:
        return
    for key, value in store.scan(APPLIED_PREFIX, _PREFIX_ENDS[APPLIED_PREFIX]):
        applied = decode_applied(value)
        if applied.version > set_back.get(applied.chunk_id, applied.version):
            batch.delete(key)


def _newest_intact(disk: BlockDisk, values: list[bytes]) -> bytes:
    """The first record whose bytes verify; if none does, the first: readers will be told."""
    for value in values:
        record = decode_record(value)
        if all(_intact(disk, version) for version in (record.committed, record.pending)):
            return value
    return values[0]


def _intact(disk: BlockDisk, version: StoredVersion | None) -> bool:
    if version is None or version.block is None:
        return True
    view = memoryview(bytearray(version.length))
    try:
        if read_content(disk, version, 0, [view]) < version.length:
            return False
    except FsError:
        return False
    return all(
        crc32c(view[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]) == checksum
        for number, checksum in enumerate(version.block_checksums())
    )
