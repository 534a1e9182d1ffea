"""What stands on a volume beside the blocks: volume, slab and block headers, and the mark.

Layer: pure. All numbers little-endian; each structure ends or begins with a CRC32C of the rest, so
that torn ones are none. docs/data-layout.md has the tables. A block's header carries the *token* of
its slab, a random number that is new whenever the slab is given to a size class: bytes of a cached
block can look like a header, and cannot know the token.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from luciole.checksum import crc32c
from luciole.kvcache.core.slots import HEADER_FIXED

FORMAT = 1
VOLUME_MAGIC = b"LKVV"
MARK_MAGIC = b"LKVM"
SLAB_MAGIC = b"LKVS"
BLOCK_MAGIC = b"LKVB"
ERASED = bytes(4)

_VOLUME = struct.Struct("<4sIQ64s")  # magic, format, bytes of a slab, cluster id
_MARK = struct.Struct("<4sQ36s")  # magic, sequence, boot id
_SLAB = struct.Struct("<4sIQ")  # magic, class, token
_BLOCK = struct.Struct("<QQQIIH")  # token, sequence, created, namespace, length, bytes of key
_CHECKSUM = struct.Struct("<I")
_KEY_AT = 8 + _BLOCK.size
VOLUME_BYTES = _VOLUME.size + 4
MARK_BYTES = _MARK.size + 4
SLAB_BYTES = _SLAB.size + 4


class BlockHeader(NamedTuple):
    """What is known of a block from the disk alone."""

    token: int
    sequence: int  # grows with every block written to the volume
    created_ns: int  # since 1970
    namespace_id: int
    length: int
    key: bytes
    checksums: bytes  # CRC32C of each 64 KiB, packed


def encode_block(header: BlockHeader) -> bytes:
    """Magic, CRC32C of the rest, fields, key; checksums at byte 128."""
    body = _BLOCK.pack(
        header.token, header.sequence, header.created_ns, header.namespace_id, header.length,
        len(header.key)) + header.key
    body = body.ljust(HEADER_FIXED - 8, b"\0") + header.checksums
    return BLOCK_MAGIC + _CHECKSUM.pack(crc32c(body)) + body


def decode_block(data: memoryview, token: int) -> BlockHeader | None:
    """The header at the begin of `data`; None if there is none under this token."""
    if data[:4] != BLOCK_MAGIC:
        return None
    fields = _BLOCK.unpack_from(data, 8)
    found, sequence, created_ns, namespace_id, length, key_size = fields
    end = HEADER_FIXED + 4 * -(-length // 65536)
    if found != token or end > len(data) or _KEY_AT + key_size > HEADER_FIXED:
        return None
    if crc32c(data[8:end]) != _CHECKSUM.unpack_from(data, 4)[0]:
        return None
    key = bytes(data[_KEY_AT : _KEY_AT + key_size])
    checksums = bytes(data[HEADER_FIXED:end])
    return BlockHeader(token, sequence, created_ns, namespace_id, length, key, checksums)


def checksums_of(
    data: memoryview, token: int, namespace_id: int, key: bytes, length: int
) -> tuple[int, ...] | None:
    """As `decode_block`, for the header of a known block: its checksums, None if it is another's.

    Every read goes through here, so it builds nothing but them.
    """
    if data[:4] != BLOCK_MAGIC:
        return None
    found, _, _, owner, size, key_size = _BLOCK.unpack_from(data, 8)
    pieces = -(-length // 65536)
    end = HEADER_FIXED + 4 * pieces
    if (found, owner, size, key_size) != (token, namespace_id, length, len(key)) \
            or end > len(data) or data[_KEY_AT : _KEY_AT + key_size] != key \
            or crc32c(data[8:end]) != _CHECKSUM.unpack_from(data, 4)[0]:
        return None
    return struct.unpack_from(f"<{pieces}I", data, HEADER_FIXED)


def encode_slab(data_bytes: int, token: int) -> bytes:
    """A slab's header."""
    return _sealed(_SLAB.pack(SLAB_MAGIC, data_bytes, token))


def decode_slab(data: bytes) -> tuple[int, int] | None:
    """(class, token) of a slab; None if it was never given to one."""
    if len(data) < SLAB_BYTES or not _is_sealed(data[:SLAB_BYTES], SLAB_MAGIC):
        return None
    _, data_bytes, token = _SLAB.unpack_from(data)
    return data_bytes, token


def encode_volume(slab_bytes: int, cluster_id: str) -> bytes:
    """The file `volume`."""
    return _sealed(_VOLUME.pack(VOLUME_MAGIC, FORMAT, slab_bytes, cluster_id.encode()))


def decode_volume(data: bytes) -> tuple[int, int, str] | None:
    """(format, bytes of a slab, cluster id); None if it was never finished."""
    if len(data) != VOLUME_BYTES or not _is_sealed(data, VOLUME_MAGIC):
        return None
    _, number, slab_bytes, cluster_id = _VOLUME.unpack_from(data)
    return number, slab_bytes, cluster_id.rstrip(b"\0").decode()


def encode_mark(sequence: int, boot_id: str) -> bytes:
    """The file `mark`: every block up to `sequence` is durable; written while `boot_id` ran."""
    return _sealed(_MARK.pack(MARK_MAGIC, sequence, boot_id.encode()[:36]))


def decode_mark(data: bytes) -> tuple[int, str]:
    """(sequence, boot id); (0, "") if there is no whole one, so that all blocks are verified."""
    if len(data) != MARK_BYTES or not _is_sealed(data, MARK_MAGIC):
        return 0, ""
    _, sequence, boot_id = _MARK.unpack_from(data)
    return sequence, boot_id.rstrip(b"\0").decode()


def _sealed(body: bytes) -> bytes:
    return body + _CHECKSUM.pack(crc32c(body))


def _is_sealed(data: bytes, magic: bytes) -> bool:
    return data[:4] == magic and crc32c(data[:-4]) == _CHECKSUM.unpack(data[-4:])[0]
