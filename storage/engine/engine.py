"""`BlockEngine`: a target's chunks, on whatever disk of blocks and map of records it is given.

Layer: shell. Every mutating call first writes bytes where no recorded version has any
(staging.py) and then changes the records in one atomic batch; so the death of the process at any
moment leaves each call done or not done. What a power loss leaves is in recovery.py.

Different chunks may be worked on at once by any number of threads; the caller serialises writers
of one chunk. Readers of a chunk need no lock: a read that finds other bytes than its checksums
say looks whether the record has changed meanwhile, and then reads anew. No lock is held over data
I/O; `_records_lock` is held over the write of a batch to the kernel, a few microseconds.

Space: a fresh block is refused with NO_SPACE when the target's quota is reached or the disk has
less than `reserve` free; commits, removals and reads go on, from what the reserve holds back. A
call that finds no space first flushes and trims, if that could help.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec.structs import replace

from luciole.checksum import BLOCK_SIZE, crc32c
from luciole.errors import FsError, Kind
from luciole.group_flush import GroupFlush
from luciole.storage.engine import recovery
from luciole.storage.engine.allocator import Allocator
from luciole.storage.engine.blockmath import block_end, block_start, class_bytes
from luciole.storage.engine.checks import (
    check_chunk_id,
    check_update,
    mismatch,
    not_found,
    verify_data,
)
from luciole.storage.engine.clean import Clean, CleanChunks
from luciole.storage.engine.content import locate_content, place_of, read_content, read_unverified
from luciole.storage.engine.interface import (
    Applied,
    ChannelKey,
    ChunkState,
    CleanRead,
    Located,
    ReadOutcome,
    Space,
    Update,
    Version,
)
from luciole.storage.engine.ports import Batch, BlockDisk, RecordStore
from luciole.storage.engine.records import (
    APPLIED_PREFIX,
    FLOOR_KEY,
    NO_RECORD,
    SESSION_KEY,
    Block,
    Record,
    Session,
    StoredVersion,
    applied_key,
    channel_of,
    chunk_key,
    decode_applied,
    decode_floor,
    decode_record,
    encode_applied,
    encode_floor,
    encode_record,
    encode_session,
    state_of,
    undo_key,
)
from luciole.storage.engine.staging import Stager

Durability = Literal["power", "process"]
REMOVE_BATCH_MAX = 1000
CLEAN_BYTES = 64 << 20  # verified pieces in memory
_READ_ATTEMPTS = 16
_AFTER_CHUNKS = b"d"
_AFTER_APPLIED = b"e"


class _Scratch(threading.local):
    """Room of each thread for the parts of edge blocks that a reader did not ask for."""

    def __init__(self) -> None:
        self.head = memoryview(bytearray(BLOCK_SIZE))
        self.tail = memoryview(bytearray(BLOCK_SIZE))


class BlockEngine:
    """`ChunkEngine` on a disk of blocks and a store of records, which stay the caller's to close.

    Args:
        store: its records.
        disk: its blocks.
        durability: "power": a mutating call returns when its effect survives a power loss;
            "process": when it survives the death of every process, and `sync` does the rest.
        quota: bytes of blocks that it may use; None: the disk is the bound.
        reserve: bytes of the disk that it leaves free.
        boot_id: differs at each start of the machine.
        content_id: made with the target.
    """

    def __init__(
        self,
        store: RecordStore,
        disk: BlockDisk,
        *,
        durability: Durability,
        quota: int | None,
        reserve: int,
        boot_id: str = "",
        content_id: int = 0,
    ) -> None:
        self._store = store
        self._disk = disk
        self._power = durability == "power"
        self._quota = quota
        self._reserve = reserve
        self._records_lock = threading.Lock()
        self._scratch = _Scratch()
        self._closed = False
        self._boot_id = boot_id
        self._content_id = content_id
        self._recover()

    def _recover(self) -> None:
        """Starts from what the store and the disk hold. No other call may be under way."""
        self._clean = CleanChunks(CLEAN_BYTES)
        recovery.settle_last_epoch(self._store, self._disk)
        self._doubtful = recovery.lost_power(self._store, self._boot_id)
        self._note_session(safe=self._power)
        self._flush = GroupFlush(self._flush_once)
        self._epoch = 1
        self._touched: set[bytes] = set()  # chunks with an undo record of this epoch
        self._removed_up_to = decode_floor(self._store.get(FLOOR_KEY))
        self._chunks = 0
        self._allocator = Allocator(self._quota)
        self._allocator.restore(self._held_blocks())
        self._disk.resume(self._allocator.ends())
        self._stager = Stager(self._disk, self._allocate, self._allocator.give_back)
        self.trim()

    def _note_session(self, *, safe: bool) -> None:
        batch = Batch()
        batch.put(SESSION_KEY, encode_session(Session(self._boot_id, safe, self._doubtful)))
        self._store.write(batch)
        self._store.sync()

    @property
    def doubtful(self) -> bool:
        """See ChunkEngine."""
        return self._doubtful

    def trust(self) -> None:
        """See ChunkEngine."""
        if self._doubtful:
            self._doubtful = False
            self._note_session(safe=self._power)

    @property
    def content_id(self) -> int:
        """See ChunkEngine."""
        return self._content_id

    @property
    def removed_up_to(self) -> int:
        """See ChunkEngine."""
        return self._removed_up_to

    def _held_blocks(self) -> Iterator[Block]:
        for record in recovery.all_records(self._store):
            self._chunks += 1
            yield from record.blocks()

    async def state(self, chunk_id: bytes) -> ChunkState | None:
        """See ChunkEngine."""
        check_chunk_id(chunk_id)
        value = self._store.get(chunk_key(chunk_id))
        return None if value is None else state_of(chunk_id, decode_record(value))

    async def read(
        self, chunk_id: bytes, offset: int, buffer: memoryview, *, pending: bool = False
    ) -> ReadOutcome:
        """See ChunkEngine."""
        check_chunk_id(chunk_id)
        if offset < 0:
            raise FsError(Kind.INVALID_ARGUMENT, f"negative offset {offset}", chunk_id.hex())
        key = chunk_key(chunk_id)
        value = self._store.get(key)
        for _ in range(_READ_ATTEMPTS):
            try:
                return self._read_once(chunk_id, value, offset, buffer, pending)
            except FsError as failure:
                if failure.kind != Kind.CHECKSUM_MISMATCH:
                    raise
                # The block may have been freed and used again since the record was looked up.
                newer = self._store.get(key)
                if newer == value:
                    raise
                value = newer
        raise FsError(Kind.BUSY, "the chunk changed again and again while it was read")

    def read_clean(
        self, reads: Sequence[CleanRead], rooms: Sequence[memoryview]
    ) -> list[int | None]:
        """See ChunkEngine."""
        counts: list[int | None] = []
        known = self._clean.get
        for (chunk_id, offset, size), room in zip(reads, rooms, strict=True):
            clean = known(chunk_id) or self._look_up(chunk_id)
            if clean is None:
                counts.append(None)
                continue
            start = offset % BLOCK_SIZE
            if start + size <= BLOCK_SIZE and 0 < size <= clean.length - offset:
                piece = clean.pieces[offset // BLOCK_SIZE]
                if piece is not None:  # so most small reads end
                    room[:] = piece[start : start + size]
                    counts.append(size)
                    continue
            counts.append(self._read_pieces(chunk_id, clean, offset, room))
        return counts

    def locate_clean(self, chunk_id: bytes, offset: int, size: int) -> Located | None:
        """See ChunkEngine."""
        clean = self._clean.get(chunk_id) or self._look_up(chunk_id)
        if clean is None:
            return None
        return locate_content(self._disk, clean.version, clean.checksums, offset, size)

    async def read_unverified(
        self, chunk_id: bytes, offset: int, room: memoryview
    ) -> ReadOutcome | None:
        """See ChunkEngine."""
        clean = self._clean.get(chunk_id) or self._look_up(chunk_id)
        return None if clean is None else read_unverified(
            self._disk, clean.version, clean.checksums, offset, room)

    def _read_pieces(
        self, chunk_id: bytes, clean: Clean, offset: int, room: memoryview
    ) -> int | None:
        """Fills `room` from as many pieces as it takes; returns how many bytes, or None."""
        size = len(room)
        end = min(offset + size, clean.length)
        if end <= offset:
            return 0
        if size >= BLOCK_SIZE:
            try:
                return self._read_version(chunk_id, clean.version, offset, room).length
            except FsError:
                return None
        position = offset
        while position < end:
            index = position // BLOCK_SIZE
            piece = clean.pieces[index] or self._load(chunk_id, clean, index)
            if piece is None:
                return None
            start = index * BLOCK_SIZE
            stop = min(end, start + BLOCK_SIZE)
            room[position - offset : stop - offset] = piece[position - start : stop - start]
            position = stop
        return end - offset

    def _look_up(self, chunk_id: bytes) -> Clean | None:
        changes = self._clean.changes
        value = self._store.get(chunk_key(chunk_id))
        record = decode_record(value or b"")
        version = record.committed
        if version is None or version.removed or record.pending is not None:
            return None
        clean = Clean(version)
        self._clean.add(chunk_id, clean, changes)
        return clean

    def _load(self, chunk_id: bytes, clean: Clean, index: int) -> memoryview | None:
        """Reads and verifies one piece, for use until this thread's next one; None if it cannot be.

        It is kept if it is wanted again. Memory for it, used for the first time, may cost several
        times what reading it from the page cache does, so what is wanted once is not worth it.
        """
        start = index * BLOCK_SIZE
        size = min(BLOCK_SIZE, clean.length - start)
        piece = self._scratch.head[:size]
        try:
            if read_content(self._disk, clean.version, start, [piece]) < size:
                return None
        except FsError:
            return None
        if crc32c(piece) != clean.checksums[index]:
            return None
        if clean.is_wanted_again(index):
            piece = memoryview(bytes(piece))
            self._clean.keep(chunk_id, clean, index, piece)
        return piece

    async def stage(
        self, chunk_id: bytes, version: int, update: Update, data: memoryview
    ) -> Version:
        """See ChunkEngine. Which bytes are written where: staging.py."""
        check_update(chunk_id, version, update, data)
        verify_data(chunk_id, update, data)
        value = self._store.get(chunk_key(chunk_id))
        old = decode_record(value or b"")
        committed = old.committed
        pending = self._stager.stage(chunk_id, version, committed, update, data)
        if committed is not None and committed.block == pending.block:
            committed = replace(committed, written=pending.written)
        self._record(chunk_id, value, old, Record(committed, pending))
        self._make_durable()
        return pending.public()

    async def commit(self, chunk_id: bytes, version: int) -> Version:
        """See ChunkEngine."""
        check_chunk_id(chunk_id)
        value = self._store.get(chunk_key(chunk_id))
        old = decode_record(value or b"")
        pending = old.pending
        if pending is None or pending.number != version:
            if old.committed is not None and old.committed.number == version:
                return old.committed.public()
            raise not_found(chunk_id, f"version {version} is neither pending nor committed")
        new = NO_RECORD if pending.removed else Record(pending, None)
        self._record(chunk_id, value, old, new, applied=pending)
        self._make_durable()
        return pending.public()

    async def repair(self, chunk_id: bytes, version: int, data: memoryview) -> None:
        """See ChunkEngine."""
        check_chunk_id(chunk_id)
        value = self._store.get(chunk_key(chunk_id))
        old = decode_record(value or b"")
        committed, pending = old.committed, old.pending
        if committed is not None and committed.number == version:
            new = Record(self._stager.rewrite(chunk_id, committed, data), pending)
        elif pending is not None and pending.number == version and not pending.removed:
            new = Record(committed, self._stager.rewrite(chunk_id, pending, data))
        else:
            raise not_found(chunk_id, f"version {version} is neither pending nor committed")
        self._record(chunk_id, value, old, new)
        self._make_durable()

    async def abandon(self, chunk_id: bytes) -> None:
        """See ChunkEngine."""
        check_chunk_id(chunk_id)
        value = self._store.get(chunk_key(chunk_id))
        old = decode_record(value or b"")
        if old.pending is not None:
            self._record(chunk_id, value, old, Record(old.committed, None))
            self._make_durable()

    async def applied(self, client_id: bytes, channel: int) -> Applied | None:
        """See ChunkEngine."""
        value = self._store.get(applied_key(client_id, channel))
        return None if value is None else decode_applied(value)

    async def list_applied(
        self, after: ChannelKey | None, limit: int
    ) -> tuple[Sequence[tuple[ChannelKey, Applied]], bool]:
        """See ChunkEngine."""
        begin = APPLIED_PREFIX if after is None else applied_key(*after) + b"\0"
        found: list[tuple[ChannelKey, Applied]] = []
        for key, value in self._store.scan(begin, _AFTER_APPLIED):
            if len(found) == limit:
                return found, True
            found.append((channel_of(key), decode_applied(value)))
        return found, False

    async def adopt_applied(self, known: Sequence[tuple[ChannelKey, Applied]]) -> None:
        """See ChunkEngine."""
        batch = Batch()
        with self._records_lock:
            for (client_id, channel), applied in known:
                self._note_applied(batch, applied_key(client_id, channel), applied)
            self._store.write(batch)
        self._make_durable()

    async def list(
        self, begin: bytes, end: bytes | None, limit: int
    ) -> tuple[Sequence[ChunkState], bool]:
        """See ChunkEngine."""
        found: list[ChunkState] = []
        stop = _AFTER_CHUNKS if end is None else chunk_key(end)
        for key, value in self._store.scan(chunk_key(begin), stop):
            if len(found) == limit:
                return found, True
            found.append(state_of(key[1:], decode_record(value)))
        return found, False

    async def remove_range(self, begin: bytes, end: bytes, limit: int) -> tuple[int, bool]:
        """See ChunkEngine. One batch, of at most 1000 chunks whatever the limit."""
        doomed: list[tuple[bytes, bytes]] = []
        more = False
        for key, value in self._store.scan(chunk_key(begin), chunk_key(end)):
            if len(doomed) == min(limit, REMOVE_BATCH_MAX):
                more = True
                break
            doomed.append((key[1:], value))
        if doomed:
            batch = Batch()
            blocks: list[Block] = []
            for chunk_id, value in doomed:
                batch.delete(chunk_key(chunk_id))
                blocks.extend(decode_record(value).blocks())
            with self._records_lock:
                for chunk_id, value in doomed:
                    self._keep_undo(batch, chunk_id, value)
                self._write(batch, [chunk_id for chunk_id, _ in doomed], blocks)
                self._chunks -= len(doomed)
            self._make_durable()
        return len(doomed), more

    async def sync(self) -> None:
        """See ChunkEngine."""
        self._flush.wait()

    async def space(self) -> Space:
        """See ChunkEngine. `free` is what new blocks may take."""
        size, free = self._disk.space()
        used = self._allocator.used
        capacity, available = size, max(0, free - self._reserve)
        if self._quota is not None:
            capacity = min(capacity, self._quota)
            available = min(available, max(0, self._quota - used))
        return Space(capacity, available, used, self._chunks)

    def trim(self) -> None:
        """Gives the room of all free blocks back to the disk: one hole for each run of them.

        Called at open and when space runs out.
        """
        self._make_holes(self._allocator.take_free())

    async def release_idle(self) -> None:
        """See ChunkEngine."""
        self._make_holes(self._allocator.take_idle())

    def _make_holes(self, taken: Sequence[Sequence[int]]) -> None:
        for size_class, numbers in enumerate(taken):
            begin = 0
            for position in range(1, len(numbers) + 1):
                if position == len(numbers) or numbers[position] != numbers[position - 1] + 1:
                    self._disk.punch(size_class, numbers[begin], position - begin)
                    begin = position
            self._allocator.add_holes(size_class, numbers)

    def close(self) -> None:
        """See ChunkEngine. Idempotent."""
        if not self._closed:
            self._closed = True
            self._flush.wait()
            self._note_session(safe=True)

    def _read_once(
        self, chunk_id: bytes, value: bytes | None, offset: int, buffer: memoryview, pending: bool
    ) -> ReadOutcome:
        """Reads whole 64 KiB blocks: what was not asked for goes into scratch memory."""
        record = decode_record(value or b"")
        version = record.pending if pending else record.committed
        if version is None or version.removed:
            raise not_found(chunk_id, f"it has no {'pending' if pending else 'committed'} version")
        return self._read_version(chunk_id, version, offset, buffer)

    def _read_version(
        self, chunk_id: bytes, version: StoredVersion, offset: int, buffer: memoryview
    ) -> ReadOutcome:
        end = min(offset + len(buffer), version.length)
        if end <= offset or version.block is None:
            return ReadOutcome(0, version.number, ())
        start = block_start(offset)
        stop = min(block_end(end), version.length)
        head = self._scratch.head[: offset - start]
        tail = self._scratch.tail[: stop - end]
        wanted = buffer[: end - offset]
        count = read_content(self._disk, version, start, [head, wanted, tail])
        if count < stop - start:
            raise mismatch(chunk_id, (start + count) // BLOCK_SIZE, "the block file is too short")
        stored = version.block_checksums()
        checksums: list[int] = []
        position = offset
        while position < end:
            number = position // BLOCK_SIZE
            piece_end = min((number + 1) * BLOCK_SIZE, end)
            piece = wanted[position - offset : piece_end - offset]
            checksum = whole = crc32c(piece)
            before = head if position == offset else _NOTHING
            after = tail if piece_end == end else _NOTHING
            if before or after:
                whole = crc32c(after, crc32c(piece, crc32c(before)))
            if whole != stored[number]:
                where = self._disk.where(place_of(version, position).block)
                raise mismatch(chunk_id, number, f"stored bytes rotted in {where}")
            checksums.append(checksum)
            position = piece_end
        return ReadOutcome(end - offset, version.number, tuple(checksums))

    def _record(
        self,
        chunk_id: bytes,
        old_value: bytes | None,
        old: Record,
        new: Record,
        applied: StoredVersion | None = None,
    ) -> None:
        """Puts `new` in the place of `old`, in one batch with everything that follows from it."""
        batch = Batch()
        exists = new.committed is not None or new.pending is not None
        if exists:
            batch.put(chunk_key(chunk_id), encode_record(new))
        else:
            batch.delete(chunk_key(chunk_id))
        freed = old.blocks() - new.blocks()
        with self._records_lock:
            if applied is not None:
                self._keep_applied(batch, chunk_id, applied, old.committed)
            if applied is not None and applied.removed and applied.number > self._removed_up_to:
                self._removed_up_to = applied.number
                batch.put(FLOOR_KEY, encode_floor(applied.number))
            self._keep_undo(batch, chunk_id, old_value or b"")
            self._write(batch, (chunk_id,), freed)
            self._chunks += exists - (old_value is not None)

    def _keep_applied(
        self, batch: Batch, chunk_id: bytes, version: StoredVersion, before: StoredVersion | None
    ) -> None:
        """Notes the channel's update, unless a later one is known: resync brings old ones."""
        if version.tag is not None:
            client_id, channel, sequence = version.tag
            self._note_applied(batch, applied_key(client_id, channel), Applied(
                sequence, chunk_id, version.number, version.length,
                before.length if before else 0))

    def _note_applied(self, batch: Batch, key: bytes, applied: Applied) -> None:
        known = self._store.get(key)
        if known is None or decode_applied(known).sequence <= applied.sequence:
            batch.put(key, encode_applied(applied))

    def _keep_undo(self, batch: Batch, chunk_id: bytes, old_value: bytes) -> None:
        if chunk_id not in self._touched:
            batch.put(undo_key(self._epoch, chunk_id), old_value)

    def _write(self, batch: Batch, chunk_ids: Sequence[bytes], freed: Iterable[Block]) -> None:
        """Under `_records_lock`: the batch, its epoch and the waiting of blocks are one step."""
        self._store.write(batch)
        self._clean.forget(chunk_ids)
        self._touched.update(chunk_ids)
        self._allocator.retire(freed)

    def _make_durable(self) -> None:
        if self._power:
            self._flush.wait()

    def _flush_once(self) -> None:
        """Ends an epoch: bytes first, then the records that tell of them."""
        with self._records_lock:
            epoch, touched = self._epoch, self._touched
            self._epoch += 1
            self._touched = set()
            waiting = self._allocator.begin_flush()
        self._disk.flush()
        self._store.sync()
        batch = Batch()
        for chunk_id in touched:
            batch.delete(undo_key(epoch, chunk_id))
        self._store.write(batch)
        self._allocator.end_flush(waiting)

    def _allocate(self, size_class: int) -> Block:
        try:
            return self._take_block(size_class)
        except FsError as failure:
            if failure.kind != Kind.NO_SPACE or not self._allocator.reclaimable():
                raise
        # Blocks that wait need two flushes; those of other classes become room of the disk.
        self._flush.wait()
        self._flush.wait()
        self.trim()
        return self._take_block(size_class)

    def _take_block(self, size_class: int) -> Block:
        _, free = self._disk.space()
        if free < self._reserve // 2:
            raise FsError(
                Kind.NO_SPACE,
                f"the disk has {free} bytes free, less than half of its reserve of "
                f"{self._reserve}: remove data or add disks",
            )
        room = free - class_bytes(size_class) >= self._reserve
        block, hole = self._allocator.allocate(size_class, fresh=room)
        try:
            self._disk.prepare(block, hole=hole)
        except FsError:
            self._allocator.give_back(block, hole=True)
            raise
        return block


_NOTHING = memoryview(b"")
