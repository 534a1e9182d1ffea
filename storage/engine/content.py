"""Reads and copies the content of a version, wherever its pieces lie.

Layer: shell of the engine, over a `BlockDisk`. The content is cut at multiples of 64 KiB; a piece
lies in the version's block at its own offset, or, if it was patched, at the begin of a block of
class 0 (records.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luciole.checksum import BLOCK_SIZE
from luciole.errors import FsError
from luciole.proto.services import FileRange
from luciole.storage.engine.interface import Located, ReadOutcome
from luciole.storage.engine.ports import BlockDisk
from luciole.storage.engine.records import Block, StoredVersion

PATCHES_MAX = 16


class Place(NamedTuple):
    """A run of content bytes that lie together: [begin, end) of it at `offset` of `block`."""

    begin: int
    end: int
    block: Block
    offset: int


def patches_allowed(pieces: int) -> int:
    """How many of a chunk's pieces may be patched: its block holds at least one still."""
    return min(PATCHES_MAX, pieces - 1)


def places(version: StoredVersion, begin: int, end: int) -> Iterator[Place]:
    """Where content [begin, end) lies, in order. The version has a block."""
    assert version.block is not None
    for index, number in version.patches:
        start, stop = index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE
        if stop <= begin or start >= end:
            continue
        if begin < start:
            yield Place(begin, start, version.block, begin)
            begin = start
        piece_end = min(stop, end)
        yield Place(begin, piece_end, Block(0, number), begin - start)
        begin = piece_end
    if begin < end:
        yield Place(begin, end, version.block, begin)


def place_of(version: StoredVersion, position: int) -> Place:
    """Where one byte of the content lies."""
    return next(places(version, position, position + 1))


def read_content(
    disk: BlockDisk, version: StoredVersion, begin: int, views: Sequence[memoryview]
) -> int:
    """Fills `views` end to end from byte `begin`. Returns bytes read: fewer at a file's end."""
    assert version.block is not None
    if not version.patches:
        return disk.read(version.block, begin, views)
    count = 0
    for place in places(version, begin, begin + sum(map(len, views))):
        size = place.end - place.begin
        step = disk.read(place.block, place.offset, cut_views(views, count, size))
        count += step
        if step < size:
            break
    return count


def locate_content(
    disk: BlockDisk, version: StoredVersion, checksums: Sequence[int], offset: int, size: int
) -> Located | None:
    """Where `size` bytes from `offset` lie, short at the end; None: they are to be read."""
    found = _whole_pieces(version, checksums, offset, size)
    if found is None:
        return None
    end, wanted = found
    ranges: list[FileRange] = []
    for place in places(version, offset, end):
        cached = disk.locate_cached(place.block, place.offset, place.end - place.begin)
        if cached is None:
            return None
        ranges.append(cached)
    return Located(end - offset, version.number, wanted, ranges)


def read_unverified(
    disk: BlockDisk, version: StoredVersion, checksums: Sequence[int], offset: int,
    room: memoryview,
) -> ReadOutcome | None:
    """Fills `room` from `offset`, short at the end, and compares nothing; None: it does not go."""
    found = _whole_pieces(version, checksums, offset, len(room))
    if found is None:
        return None
    end, wanted = found
    try:
        count = read_content(disk, version, offset, [room[: end - offset]])
    except FsError:
        return None
    if count < end - offset:
        return None
    return ReadOutcome(count, version.number, tuple(wanted))


def _whole_pieces(
    version: StoredVersion, checksums: Sequence[int], offset: int, size: int
) -> tuple[int, Sequence[int]] | None:
    """Where `size` bytes from `offset` end in the content, and their checksums as stored.

    Only whole pieces, the last one of the content perhaps short, have `checksums` of their own.
    """
    end = min(offset + size, version.length)
    whole = not offset % BLOCK_SIZE and (not end % BLOCK_SIZE or end == version.length)
    if not whole or end - offset < BLOCK_SIZE or version.block is None:
        return None
    return end, checksums[offset // BLOCK_SIZE : -(-end // BLOCK_SIZE)]


def copy_content(
    disk: BlockDisk, version: StoredVersion, target: Block, begin: int, end: int
) -> None:
    """Copies content [begin, end), unread, to its offset in the block `target`."""
    if begin < end:
        for place in places(version, begin, end):
            size = place.end - place.begin
            disk.copy(place.block, place.offset, target, place.begin, size)


def cut_views(views: Sequence[memoryview], begin: int, size: int) -> list[memoryview]:
    """The bytes [begin, begin + size) of `views`, taken end to end."""
    found = []
    for view in views:
        piece = view[max(0, begin) : max(0, begin + size)]
        if piece:
            found.append(piece)
        begin -= len(view)
    return found
