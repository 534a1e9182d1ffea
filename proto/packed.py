"""The records of `ReadPacked`: many small reads as a few bytes each.

Layer: pure. A read is 24 bytes, big-endian: chunk id (16), offset in the chunk (4), length (4).
What the service answers for each is 4 bytes, little-endian: how many bytes it read, short where the
chunk ends, or NOT_READ: it is to be asked by `Read`.
"""

from __future__ import annotations

import struct

from luciole.proto import storage_pb2

READ = struct.Struct(">16sII")
CHUNK_READ = struct.Struct(">B3xQIII")  # the same, of a file: kind, inode id, chunk index, ...
NOT_READ = 0xFFFFFFFF


def pack_numbers(numbers: list[int]) -> bytes:
    """32-bit numbers, one after another."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack_numbers(data: bytes) -> tuple[int, ...]:
    """The inverse of `pack_numbers`; a rest of less than four bytes is ignored."""
    return struct.unpack_from(f"<{len(data) // 4}I", data)


def single_read(chain_id: int, version: int) -> bytes:
    """A serialised ReadPackedRequest of one read, but for its record, which ends it."""
    return storage_pb2.ReadPackedRequest(batches=[storage_pb2.PackedReads(
        chain=storage_pb2.VersionedChain(chain_id=chain_id, version=version),
        records=bytes(READ.size))]).SerializeToString()[: -READ.size]
