"""Arithmetic of chunks: size classes, and block checksums as content grows.

Layer: pure. A chunk's content is cut at multiples of 64 KiB; each piece, the last one perhaps
short, has a CRC32C. A list of checksums always describes exactly `length` bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from luciole.checksum import BLOCK_SIZE, crc32c, cut_at_blocks

SIZE_CLASSES = 11  # 64 KiB << 0 … 64 KiB << 10 = 64 MiB
ZEROS = bytes(BLOCK_SIZE)
ZERO_BLOCK_CHECKSUM = crc32c(ZEROS)


def class_for(length: int) -> int:
    """The smallest size class that holds `length` bytes, 1 <= length <= 64 MiB."""
    return max(0, (length - 1).bit_length() - 16)


def class_bytes(size_class: int) -> int:
    """Bytes of one block of a class."""
    return BLOCK_SIZE << size_class


def block_start(offset: int) -> int:
    """The begin of the 64 KiB block that `offset` lies in."""
    return offset - offset % BLOCK_SIZE


def block_end(offset: int) -> int:
    """The least multiple of 64 KiB that is not below `offset`."""
    return -(-offset // BLOCK_SIZE) * BLOCK_SIZE


def pack(checksums: Sequence[int]) -> bytes:
    """Little-endian 32-bit numbers, one after another: how checksums are stored."""
    return struct.pack(f"<{len(checksums)}I", *checksums)


def unpack(packed: bytes) -> list[int]:
    """The inverse of `pack`."""
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


def append_zeros(checksums: list[int], length: int, count: int) -> None:
    """Extends the checksums of `length` bytes by those of `count` zero bytes after them."""
    for start, end in cut_at_blocks(length, count):
        size = end - start
        if (length + start) % BLOCK_SIZE:
            checksums[-1] = crc32c(memoryview(ZEROS)[:size], checksums[-1])
        elif size == BLOCK_SIZE:
            checksums.append(ZERO_BLOCK_CHECKSUM)
        else:
            checksums.append(crc32c(memoryview(ZEROS)[:size]))


def append_data(
    checksums: list[int], length: int, data: memoryview, verified: Sequence[int]
) -> None:
    """Extends the checksums of `length` bytes by those of `data` after them.

    Args:
        checksums: one per block, changed in place.
        length: bytes that they describe.
        data: the bytes that follow.
        verified: checksums of `data`, cut at multiples of 64 KiB of the chunk. They become the
            stored ones where a piece begins a block; where it continues one, the stored CRC
            continues over the piece.
    """
    for (start, end), checksum in zip(cut_at_blocks(length, len(data)), verified, strict=True):
        if (length + start) % BLOCK_SIZE:
            checksums[-1] = crc32c(data[start:end], checksums[-1])
        else:
            checksums.append(checksum)
