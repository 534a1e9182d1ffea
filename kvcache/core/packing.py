"""Batches as they travel: keys end to end, numbers packed.

Layer: pure. Used by both sides, so that they cannot differ.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from luciole.errors import FsError, Kind, require

KEY_BYTES_MIN = 8
KEY_BYTES_MAX = 64
KEYS_MAX = 32_768  # of one message


def pack_keys(keys: Sequence[bytes]) -> tuple[int, bytes]:
    """(size of a key, all keys end to end). Raises FsError INVALID_ARGUMENT if sizes differ."""
    size = len(keys[0]) if keys else KEY_BYTES_MIN
    packed = b"".join(keys)
    check_keys(size, packed)
    require(len(set(map(len, keys))) <= 1, Kind.INVALID_ARGUMENT,
            "the keys of one call differ in size: hash them to one size")
    return size, packed


def check_keys(size: int, packed: bytes) -> int:
    """How many keys there are. Raises FsError INVALID_ARGUMENT."""
    require(KEY_BYTES_MIN <= size <= KEY_BYTES_MAX, Kind.INVALID_ARGUMENT,
            f"keys of {size} bytes: {KEY_BYTES_MIN} to {KEY_BYTES_MAX} are possible, so hash them")
    count, rest = divmod(len(packed), size)
    require(rest == 0, Kind.INVALID_ARGUMENT, f"{len(packed)} bytes are no whole keys of {size}")
    require(count <= KEYS_MAX, Kind.INVALID_ARGUMENT,
            f"{count} keys are too many for one call: {KEYS_MAX} are possible")
    return count


def split_keys(size: int, packed: bytes) -> list[bytes]:
    """The inverse of `pack_keys`. Raises FsError INVALID_ARGUMENT."""
    check_keys(size, packed)
    return [packed[at : at + size] for at in range(0, len(packed), size)]


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """32-bit numbers, little-endian, end to end."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack_numbers(packed: bytes) -> tuple[int, ...]:
    """The inverse of `pack_numbers`. Raises FsError INVALID_ARGUMENT."""
    if len(packed) % 4:
        raise FsError(Kind.INVALID_ARGUMENT, f"{len(packed)} bytes are no whole 32-bit numbers")
    return struct.unpack(f"<{len(packed) // 4}I", packed)
