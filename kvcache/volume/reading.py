"""Blocks out of a volume: read, compared with key and checksums, cut to what is asked for.

Layer: shell. Every byte that leaves was verified here, where it then lies: in the reader's own
memory if the transport reaches it. What travels is verified once more by who receives it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from luciole.checksum import BLOCK_SIZE, block_checksums
from luciole.errors import FsError, Kind
from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.slots import Slot, header_room
from luciole.kvcache.volume.headers import checksums_of
from luciole.kvcache.volume.volume import DAMAGED, OTHER_SIZE, PRESENT, Volume

READ_BYTES_MAX = 64 * 1024 * 1024
HEAD_BYTES = 4096  # headers of all blocks up to this much come into a buffer of the thread
Room = Callable[[int, int], memoryview]  # index and size of a block -> where its bytes go
_thread = threading.local()  # one for each connection


class Blocks(NamedTuple):
    """What was read: a status for each key, and for each that is there its bytes."""

    statuses: bytes
    lengths: list[int]
    checksums: list[int]
    views: list[memoryview]


class _Range(NamedTuple):
    """Which bytes of each block are wanted."""

    offset: int
    length: int  # 0: to the end

    def of(self, block_length: int) -> tuple[int, int]:
        """(begin, end) within a block, empty if it is shorter."""
        begin = min(self.offset, block_length)
        return begin, min(begin + self.length, block_length) if self.length else block_length


def new_room(index: int, size: int) -> memoryview:
    """A room of its own for each block."""
    return memoryview(bytearray(size))


def read_blocks(
    volume: Volume, namespace_id: int, keys: Sequence[bytes], offset: int = 0, length: int = 0,
    *, room: Room = new_room,
) -> Blocks:
    """Reads blocks, or the same part of each, into rooms.

    A room holds the 64 KiB pieces that a part touches. It may refuse (FsError INVALID_ARGUMENT):
    the block is OTHER_SIZE then. Raises FsError INVALID_ARGUMENT if all are more than
    READ_BYTES_MAX, DISK_FAILED.
    """
    wanted = _Range(offset, length)
    entries = volume.lookup(namespace_id, keys)
    _check_total(entries, wanted)
    statuses = bytearray(len(keys))
    result = Blocks(b"", [], [], [])
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        begin, end = wanted.of(entry.length)
        first = begin - begin % BLOCK_SIZE
        last = min(-(-end // BLOCK_SIZE) * BLOCK_SIZE, entry.length)
        try:
            view = room(index, last - first)
        except FsError as failure:
            if failure.kind != Kind.INVALID_ARGUMENT:
                raise
            statuses[index] = OTHER_SIZE
            continue
        checksums = _read_verified(volume, namespace_id, entry, first, view)
        if checksums is None:
            statuses[index] = DAMAGED if volume.damaged(namespace_id, entry) else 0
            continue
        if last - first != end - begin:
            view = view[begin - first : end - first]
            checksums = block_checksums(begin, view)
        statuses[index] = PRESENT
        result.lengths.append(len(view))
        result.checksums.extend(checksums)
        result.views.append(view)
    return result._replace(statuses=bytes(statuses))


def _check_total(entries: Sequence[Entry[Slot] | None], wanted: _Range) -> None:
    total = 0
    for entry in entries:
        if entry is not None:
            begin, end = wanted.of(entry.length)
            total += end - begin
    if total > READ_BYTES_MAX:
        raise FsError(Kind.INVALID_ARGUMENT, f"these blocks have {total} bytes, more than the "
                      f"{READ_BYTES_MAX} of one call: ask for fewer")


def is_intact(volume: Volume, namespace_id: int, entry: Entry[Slot]) -> bool:
    """Whether the header on the disk is this entry's."""
    return _header(volume, namespace_id, entry, None) is not None


def _header(
    volume: Volume, namespace_id: int, entry: Entry[Slot], behind: memoryview | None
) -> tuple[int, ...] | None:
    """Reads an entry's header, and the bytes behind it. The block's checksums, if it is whole."""
    place = entry.place
    data_bytes = volume.slots.slabs[place.slab].data_bytes
    if data_bytes == 0:
        return None  # the slab was emptied meanwhile
    head = _head(header_room(data_bytes))
    views = [head] if behind is None else [head, behind]
    if not volume.disk.read(volume.slots.position(place), views):
        return None
    return checksums_of(head, volume.tokens[place.slab], namespace_id, entry.key, entry.length)


def _read_verified(
    volume: Volume, namespace_id: int, entry: Entry[Slot], begin: int, view: memoryview
) -> list[int] | None:
    """Fills `view` with the pieces of a block from `begin` on; their checksums, None if damaged."""
    stored = _header(volume, namespace_id, entry, view if begin == 0 else None)
    if stored is None:
        return None
    if begin:
        room = header_room(volume.slots.slabs[entry.place.slab].data_bytes)
        if not volume.disk.read(volume.slots.position(entry.place) + room + begin, [view]):
            return None
    first = begin // BLOCK_SIZE
    expected = list(stored[first : first + -(-len(view) // BLOCK_SIZE)])
    return expected if block_checksums(begin, view) == expected else None


def _head(size: int) -> memoryview:
    """Memory for a header, used again for the next one."""
    if size > HEAD_BYTES:
        return memoryview(bytearray(size))
    kept: memoryview | None = getattr(_thread, "head", None)
    if kept is None:
        kept = _thread.head = memoryview(bytearray(HEAD_BYTES))
    return kept[:size]
