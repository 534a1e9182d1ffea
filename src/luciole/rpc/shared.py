"""Shared memory as a payload: what a request says of bytes that do not travel.

Layer: shell. On a Unix socket a caller shows its regions to the server once per connection: a
REGION frame with the file, answered with the region's number. From then on a request may carry, in
place of its payload, a table of where the payload lies and where the reply's parts are wanted
(little-endian):

    offset size
     0      4  n, pieces of the request's payload, in order
     4      4  m, rooms for the parts of the reply, in order
     8     16  each: region (4), length (4), offset in the region (8)

The server trusts none of it. A file must be sealed against shrinking (else a caller could have the
server killed by SIGBUS), regions are bounded in number and size, and each piece is checked before
it is touched. What a request carries is copied once, before anything looks at it: the caller could
change bytes between their verification and their use. Rooms are written in place.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from collections.abc import Sequence

from luciole.errors import FsError, Kind
from luciole.rpc.at_once import room_of
from luciole.rpc.frame import corrupt
from luciole.rpc.interface import PAYLOAD_BYTES_MAX, Arena
from luciole.rpc.memory import PAGE, map_file

REGIONS_MAX = 64  # per connection
REGION_BYTES_MAX = 64 << 30  # per connection, all together: address space, no memory
PIECES_MAX = 4096
_COUNTS = struct.Struct("<II")
_PIECE = struct.Struct("<IIQ")
NUMBER = struct.Struct("<I")


def encode_table(payload: Sequence[int], rooms: Sequence[int]) -> bytes:
    """The table of a request: region, length and offset of each piece, one after another."""
    counts = len(payload) // 3, len(rooms) // 3
    return struct.pack("<II" + "IIQ" * sum(counts), *counts, *payload, *rooms)


# A peer shows the same region over each of its connections, and page tables cost. While a mapping
# lives, no other file has its number.
_known: weakref.WeakValueDictionary[tuple[int, int, int], memoryview]
_known = weakref.WeakValueDictionary()
_guard = threading.Lock()


def _map_once(file: int, facts: os.stat_result) -> memoryview:
    """A file, mapped; the mapping of before if there is one. Raises OSError."""
    key = facts.st_dev, facts.st_ino, facts.st_size
    with _guard:
        mapped = _known.get(key)
        if mapped is None:
            _, mapped = map_file(file, facts.st_size)
            _known[key] = mapped
    return mapped


class Shown:
    """The regions that one peer has shown over one connection, mapped."""

    def __init__(self) -> None:
        self._regions: list[memoryview] = []
        self._bytes = 0

    def add(self, files: Sequence[int]) -> int:
        """Maps the one file that was passed, closes it and returns the region's number.

        Raises FsError INVALID_ARGUMENT.
        """
        try:
            if len(files) != 1:
                raise FsError(Kind.INVALID_ARGUMENT, f"a region is one file; {len(files)} came")
            self._regions.append(self._map(files[0]))
        finally:
            for file in files:
                os.close(file)
        return len(self._regions) - 1

    def _map(self, file: int) -> memoryview:
        try:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
            facts = os.fstat(file)
        except OSError as failure:
            raise FsError(Kind.INVALID_ARGUMENT, "a region must be a memfd") from failure
        if not seals & fcntl.F_SEAL_SHRINK:
            raise FsError(Kind.INVALID_ARGUMENT, "the region's file could shrink: seal it first")
        if facts.st_blksize != PAGE or not facts.st_size:
            raise FsError(Kind.INVALID_ARGUMENT, "a region has some bytes, of ordinary pages")
        if len(self._regions) == REGIONS_MAX or self._bytes + facts.st_size > REGION_BYTES_MAX:
            raise FsError(
                Kind.INVALID_ARGUMENT,
                f"more than {REGIONS_MAX} regions or {REGION_BYTES_MAX} bytes on one connection: "
                "use fewer and larger buffers",
            )
        try:
            mapped = _map_once(file, facts)
        except OSError as failure:
            raise FsError(
                Kind.INVALID_ARGUMENT, f"the region cannot be mapped: {failure}"
            ) from failure
        self._bytes += facts.st_size
        return mapped

    def resolve(self, table: memoryview, arena: Arena) -> tuple[memoryview, list[memoryview]]:
        """The payload of a request, copied into `arena`, and its rooms, in place.

        Raises FsError CORRUPT_FRAME or INVALID_ARGUMENT.
        """
        if len(table) < _COUNTS.size:
            raise corrupt("a table of pieces is cut short")
        count, rooms = _COUNTS.unpack_from(table)
        if count + rooms > PIECES_MAX or len(table) != _COUNTS.size + (count + rooms) * _PIECE.size:
            raise corrupt(f"{count} + {rooms} pieces in a table of {len(table)} bytes")
        views = self._views(table[_COUNTS.size :])
        total = sum(map(len, views[:count]))
        if total > PAYLOAD_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"a payload of {total} bytes is too large")
        payload = arena.take(total)
        position = 0
        for view in views[:count]:
            payload[position : position + len(view)] = view
            position += len(view)
        return payload.toreadonly(), views[count:]

    def room(self, table: memoryview) -> memoryview | None:
        """The one room of a request without a payload; None: it is for `resolve`."""
        found = room_of(table)
        if found is None:
            return None
        number, offset, size = found
        if number >= len(self._regions):
            return None
        region = self._regions[number]
        return region[offset : offset + size] if offset + size <= len(region) else None

    def _views(self, pieces: memoryview) -> list[memoryview]:
        views: list[memoryview] = []
        regions = self._regions
        sizes = list(map(len, regions))
        for number, length, offset in _PIECE.iter_unpack(pieces):
            if number >= len(sizes) or offset + length > sizes[number]:
                raise FsError(
                    Kind.INVALID_ARGUMENT,
                    f"{length} bytes at {offset} lie outside region {number}",
                )
            views.append(regions[number][offset : offset + length])
        return views
