"""CRC32C, cut at 64 KiB blocks of a chunk, as data travels and is stored.

CRC32C (Castagnoli) is computed by the `crc32c` package in hardware. A running value continues:
crc(a + b) = crc(b, crc(a)). The interpreter's lock is kept meanwhile: a block takes 3 microseconds,
while giving the lock away and getting it back among busy threads takes ten times that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from crc32c import crc32c as _crc32c

BLOCK_SIZE = 64 * 1024

# crc32c(data, value=0): CRC32C of `data`, continued from `value`. Small messages are
# checked several times each, and a wrapper in Python would cost as much as the work.
crc32c: Callable[..., int] = partial(_crc32c, gil_release_mode=0)


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
    if not offset % BLOCK_SIZE:  # as large reads and writes mostly do
        return [crc32c(data[start : start + BLOCK_SIZE])
                for start in range(0, len(data), BLOCK_SIZE)]
    return [crc32c(data[start:end]) for start, end in cut_at_blocks(offset, len(data))]
