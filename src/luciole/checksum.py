"""CRC32C, cut at 64 KiB blocks of a chunk, as data travels and is stored.

CRC32C (Castagnoli) is computed by the `crc32c` package in hardware, without the GIL for large
buffers. A running value continues: crc(a + b) = crc(b, crc(a)).
"""

from __future__ import annotations

from collections.abc import Callable

from crc32c import crc32c as _crc32c

BLOCK_SIZE = 64 * 1024

# crc32c(data, value=0): CRC32C of `data`, continued from `value`. The package's own function:
# small messages are checked several times each, and a wrapper would cost as much as the work.
crc32c: Callable[..., int] = _crc32c


def cut_at_blocks(offset: int, length: int) -> list[tuple[int, int]]:
    """Cuts [offset, offset + length) at multiples of BLOCK_SIZE: (start, end) relative to offset.

    Args:
        offset: first byte within the chunk.
        length: number of bytes, may be 0.
    """
    pieces = []
    position = 0
    while position < length:
        step = min(BLOCK_SIZE - (offset + position) % BLOCK_SIZE, length - position)
        pieces.append((position, position + step))
        position += step
    return pieces


def block_checksums(offset: int, data: memoryview) -> list[int]:
    """CRC32C of each piece of `data`, which lies at `offset` of its chunk."""
    return [crc32c(data[start:end]) for start, end in cut_at_blocks(offset, len(data))]
