"""Where the bytes of a file lie.

Layer: pure. Chunk `i` of a file covers [i * chunk_size, (i + 1) * chunk_size) and lies on chain
`table[(seed + i mod stripe) mod len(table)]`. A chunk id is 16 bytes: kind (0: file), three zero
bytes, inode id and chunk index, both big-endian, so that the chunks of a file are one range in
order on every target.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from luciole.errors import FsError, Kind
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, mgmtd_pb2

_CHUNK_ID = struct.Struct(">B3xQI")
KIND_FILE = 0
BLOCK_MIN = 64 * 1024


class Piece(NamedTuple):
    """The part of an I/O that falls into one chunk."""

    chunk: int  # index of the chunk in the file
    offset: int  # first byte within the chunk
    length: int
    position: int  # where the part begins within the I/O


def chunk_id(inode_id: int, index: int) -> bytes:
    """The 16-byte id of a file's chunk."""
    return _CHUNK_ID.pack(KIND_FILE, inode_id, index)


def parse_chunk_id(identity: bytes) -> tuple[int, int]:
    """(inode id, chunk index) of a file's chunk."""
    _, inode_id, index = _CHUNK_ID.unpack(identity)
    return inode_id, index


def allocated_bytes(length: int) -> int:
    """What a chunk of this length takes on a disk: a power of two, 64 KiB at least.

    Patches and versions that wait to be freed come on top of it for a while.
    """
    return max(BLOCK_MIN, 1 << (length - 1).bit_length()) if length else 0


def chunks_from(inode_id: int, index: int) -> tuple[bytes, bytes]:
    """[begin, end) of a file's chunks from `index` on."""
    end = _CHUNK_ID.pack(KIND_FILE, inode_id, CHUNKS_PER_FILE_MAX) + b"\0"
    if index > CHUNKS_PER_FILE_MAX:
        return end, end
    return chunk_id(inode_id, index), end


def file_bytes_max(layout: meta_pb2.Layout) -> int:
    """The greatest length of a file with this layout."""
    return layout.chunk_size * CHUNKS_PER_FILE_MAX


def check_size(end: int, layout: meta_pb2.Layout) -> None:
    """Raises FsError FILE_TOO_LARGE for a length beyond the last chunk that an id can name."""
    if end > file_bytes_max(layout):
        raise FsError(Kind.FILE_TOO_LARGE, f"a file with chunks of {layout.chunk_size} bytes "
                      f"has at most {file_bytes_max(layout)} bytes")


def cut(offset: int, length: int, layout: meta_pb2.Layout) -> list[Piece]:
    """Cuts [offset, offset + length) of a file at chunk boundaries.

    Raises FsError FILE_TOO_LARGE beyond the last chunk that an id can name.
    """
    check_size(offset + length, layout)
    pieces = []
    position = 0
    while position < length:
        index, start = divmod(offset + position, layout.chunk_size)
        step = min(layout.chunk_size - start, length - position)
        pieces.append(Piece(index, start, step, position))
        position += step
    return pieces


def chain_of(layout: meta_pb2.Layout, table: mgmtd_pb2.ChainTable, index: int) -> int:
    """The chain that holds chunk `index`."""
    chains = table.chain_ids
    return chains[(layout.seed + index % layout.stripe) % len(chains)]


def chains_of(layout: meta_pb2.Layout, table: mgmtd_pb2.ChainTable) -> list[int]:
    """Every chain of the file's stripe, once, in order of the stripe."""
    return list(dict.fromkeys(
        chain_of(layout, table, index) for index in range(layout.stripe)))
