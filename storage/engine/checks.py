"""What every engine demands of its arguments, and the verification of incoming bytes.

Layer: pure. Nothing is written before both functions have passed.
"""

from __future__ import annotations

from luciole.checksum import BLOCK_SIZE, crc32c, cut_at_blocks
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.storage.engine.interface import (
    CHUNK_ID_SIZE,
    CHUNK_SIZE_MAX,
    CHUNK_SIZE_MIN,
    Update,
)

WRITE = int(storage_pb2.WRITE)
TRUNCATE = int(storage_pb2.TRUNCATE)
REPLACE = int(storage_pb2.REPLACE)
REMOVE = int(storage_pb2.REMOVE)
PUNCH = int(storage_pb2.PUNCH)

CLIENT_ID_MAX = 64


def check_chunk_id(chunk_id: bytes) -> None:
    """Raises INVALID_ARGUMENT unless it has 16 bytes."""
    if len(chunk_id) != CHUNK_ID_SIZE:
        _refuse(chunk_id, f"a chunk id has {CHUNK_ID_SIZE} bytes, not {len(chunk_id)}")


def check_update(chunk_id: bytes, version: int, update: Update, data: memoryview) -> None:
    """Raises INVALID_ARGUMENT unless the update can be carried out on a chunk of its size."""
    check_chunk_id(chunk_id)
    size = update.chunk_size
    if not 0 < version < 1 << 64:
        _refuse(chunk_id, f"version {version} is not between 1 and 2^64 - 1")
    sized = not size & (size - 1) and CHUNK_SIZE_MIN <= size <= CHUNK_SIZE_MAX
    if update.kind != REMOVE and not sized:
        _refuse(chunk_id, f"chunk size {size} is not a power of two from 64 KiB to 64 MiB")
    if update.kind not in (WRITE, TRUNCATE, REPLACE, REMOVE, PUNCH):
        _refuse(chunk_id, f"update kind {update.kind} is unknown")
    if update.offset < 0 or update.length < 0:
        _refuse(chunk_id, f"negative range: offset {update.offset}, length {update.length}")
    if update.kind not in (WRITE, PUNCH) and update.offset:
        _refuse(chunk_id, f"only writes and punches have an offset, and this has {update.offset}")
    if update.offset + update.length > size:
        end = update.offset + update.length
        _refuse(chunk_id, f"the update ends at {end}, beyond the chunk size {size}")
    carried = update.length if update.kind in (WRITE, REPLACE) else 0
    if len(data) != carried:
        _refuse(chunk_id, f"the update carries {len(data)} bytes and needs {carried}")
    if update.tag is not None and not 0 < len(update.tag.client_id) <= CLIENT_ID_MAX:
        _refuse(chunk_id, f"a client id has 1 to {CLIENT_ID_MAX} bytes")


def verify_data(chunk_id: bytes, update: Update, data: memoryview) -> None:
    """Verifies `data` against `update.checksums`.

    Raises FsError INVALID_ARGUMENT if their number is wrong, CHECKSUM_MISMATCH naming the chunk
    and the first block that differs.
    """
    pieces = cut_at_blocks(update.offset, len(data))
    if len(pieces) != len(update.checksums):
        count = len(update.checksums)
        _refuse(chunk_id, f"{count} checksums came for {len(pieces)} pieces of 64 KiB blocks")
    for (start, end), checksum in zip(pieces, update.checksums, strict=True):
        if crc32c(data[start:end]) != checksum:
            block = (update.offset + start) // BLOCK_SIZE
            raise mismatch(chunk_id, block, "the bytes received differ from their checksum")


def mismatch(chunk_id: bytes, block: int, what: str) -> FsError:
    """A CHECKSUM_MISMATCH that names chunk and block."""
    return FsError(Kind.CHECKSUM_MISMATCH, f"block {block} of the chunk: {what}", chunk_id.hex())


def not_found(chunk_id: bytes, what: str) -> FsError:
    """A CHUNK_NOT_FOUND."""
    return FsError(Kind.CHUNK_NOT_FOUND, what, chunk_id.hex())


def _refuse(chunk_id: bytes, why: str) -> None:
    raise FsError(Kind.INVALID_ARGUMENT, why, chunk_id.hex())
