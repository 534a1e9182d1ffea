"""Blocks out of a volume: read, compared with key and checksums, cut to what is asked for.

Layer: shell. Every byte that leaves was verified here; the receiver verifies it once more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from luciole.checksum import BLOCK_SIZE, block_checksums
from luciole.errors import FsError, Kind
from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.packing import unpack_numbers
from luciole.kvcache.core.slots import Slot, header_room
from luciole.kvcache.volume.headers import decode_block
from luciole.kvcache.volume.volume import DAMAGED, PRESENT, Volume

READ_BYTES_MAX = 64 * 1024 * 1024
KEPT_BYTES_MAX = 16 * 1024 * 1024
_memory = threading.local()  # a buffer for each connection's thread, used again by its next request


class Blocks(NamedTuple):
    """What was read: a status for each key, and for each that is there its bytes."""

    statuses: bytes
    lengths: list[int]
    checksums: list[int]
    views: list[memoryview]  # valid until this thread reads again


class _Range(NamedTuple):
    """Which bytes of each block are wanted."""

    offset: int
    length: int  # 0: to the end

    def of(self, block_length: int) -> tuple[int, int]:
        """(begin, end) within a block, empty if it is shorter."""
        begin = min(self.offset, block_length)
        return begin, min(begin + self.length, block_length) if self.length else block_length


def read_blocks(
    volume: Volume, namespace_id: int, keys: Sequence[bytes], offset: int = 0, length: int = 0
) -> Blocks:
    """Reads blocks, or the same part of each.

    Raises FsError INVALID_ARGUMENT if that is more than READ_BYTES_MAX, DISK_FAILED.
    """
    wanted = _Range(offset, length)
    entries = volume.lookup(namespace_id, keys)
    total = 0
    for entry in entries:
        if entry is not None:
            begin, end = wanted.of(entry.length)
            total += _up(end) - _down(begin)
    if total > READ_BYTES_MAX:
        raise FsError(Kind.INVALID_ARGUMENT, f"these blocks have {total} bytes, more than the "
                      f"{READ_BYTES_MAX} of one call: ask for fewer")
    room = _room(total)
    statuses = bytearray(len(keys))
    result = Blocks(b"", [], [], [])
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        begin, end = wanted.of(entry.length)
        outer = _down(begin), min(_up(end), entry.length)
        view, room = room[: outer[1] - outer[0]], room[outer[1] - outer[0] :]
        checksums = _read_verified(volume, namespace_id, entry, outer, view)
        if checksums is None:
            statuses[index] = DAMAGED if volume.damaged(namespace_id, entry) else 0
            continue
        inner = view[begin - outer[0] : end - outer[0]]
        if outer != (begin, end):
            checksums = block_checksums(begin, inner)
        statuses[index] = PRESENT
        result.lengths.append(len(inner))
        result.checksums.extend(checksums)
        result.views.append(inner)
    return result._replace(statuses=bytes(statuses))


def is_intact(volume: Volume, namespace_id: int, entry: Entry[Slot]) -> bool:
    """Whether the header on the disk is this entry's."""
    return _header(volume, namespace_id, entry, []) is not None


def _header(
    volume: Volume, namespace_id: int, entry: Entry[Slot], behind: list[memoryview]
) -> tuple[int, ...] | None:
    """Reads an entry's header, and the bytes behind it. The block's checksums, if it is whole."""
    slab = volume.slots.slabs[entry.place.slab]
    if slab.data_bytes == 0:
        return None  # the slab was emptied meanwhile
    head = memoryview(bytearray(header_room(slab.data_bytes)))
    if not volume.disk.read(volume.slots.position(entry.place), [head, *behind]):
        return None
    header = decode_block(head, volume.tokens[entry.place.slab])
    if header is None or header.key != entry.key or header.length != entry.length \
            or header.namespace_id != namespace_id:
        return None
    return unpack_numbers(header.checksums)


def _read_verified(
    volume: Volume, namespace_id: int, entry: Entry[Slot], outer: tuple[int, int],
    view: memoryview,
) -> list[int] | None:
    """Fills `view` with the pieces [begin, end) of a block; their checksums, None if damaged."""
    begin, end = outer
    stored = _header(volume, namespace_id, entry, [view] if begin == 0 else [])
    if stored is None:
        return None
    if begin:
        room = header_room(volume.slots.slabs[entry.place.slab].data_bytes)
        if not volume.disk.read(volume.slots.position(entry.place) + room + begin, [view]):
            return None
    expected = list(stored[begin // BLOCK_SIZE : -(-end // BLOCK_SIZE)])
    return expected if block_checksums(begin, view) == expected else None


def _room(size: int) -> memoryview:
    """This thread's buffer. A large one is not kept."""
    kept: bytearray = getattr(_memory, "buffer", bytearray())
    if len(kept) < size:
        kept = bytearray(size)
        if size <= KEPT_BYTES_MAX:
            _memory.buffer = kept
    return memoryview(kept)[:size]


def _down(position: int) -> int:
    return position - position % BLOCK_SIZE


def _up(position: int) -> int:
    return -(-position // BLOCK_SIZE) * BLOCK_SIZE
