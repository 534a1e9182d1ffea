"""The keys and values of a target's metadata store, to the byte.

Layer: pure. Keys (one letter, then fields; numbers big-endian, so that they sort):

    "c" chunk_id[16]                  chunk record
    "d" client_id channel[u32]        last update that a channel committed ("dedup record")
    "m"                               marker: whose target this is
    "f"                               floor: the highest version of any removal
    "s"                               session: how the target was last opened and closed
    "u" epoch[u64] chunk_id[16]       undo record: the chunk record at the begin of the epoch

Values: one byte 0x01, the version of the encoding, then MessagePack:

    chunk record  [committed | nil, pending | nil]
      version     [number, length, removed, tag | nil, block | nil, written, checksums, patches]
      tag         [client_id (bin), channel, sequence]
      block       [size_class, number]: docstring of blocks.py
      written     bytes of the block that were ever written, by this or another version
      checksums   bin: CRC32C of each 64 KiB of the content, u32 little-endian
      patches     [[index, number], ...] by index: the 64 KiB of the content that begin at
                  index * 64 KiB lie in block `number` of class 0, and what `block` has at their
                  place is not of this version
    dedup record  [sequence, chunk_id (bin), version, length, length_before]
    marker        [format, cluster_id (str), target_id, content_id]
    session       [boot_id (str), safe, doubtful]; safe: what was acknowledged survives a power loss
                  (closed well, or open with durability "power")
    floor         [number]
    undo record   a chunk record; empty (no 0x01 either) if there was none

The outer arrays and `version` may grow at their end: a reader fills in defaults and ignores what
is more. Another first byte than 0x01 is a store written by a newer program.

Invariant: the bytes below `written` of a block are never written again while any version, or an
undo record, refers to the block. Versions of one record that share a block state the same
`written`. The block of a patch is written once.

Format 2 (of the marker) added patches; a target of format 1 has none and becomes one of format 2
when it is opened, so that an older program will not take its patches' blocks for free ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.storage.engine.blockmath import class_bytes, unpack
from luciole.storage.engine.interface import Applied, ChunkState, Tag, Version

FORMAT = 2
MARKER_KEY = b"m"
SESSION_KEY = b"s"
FLOOR_KEY = b"f"
CHUNK_PREFIX = b"c"
APPLIED_PREFIX = b"d"
UNDO_PREFIX = b"u"
_ENCODING = b"\x01"


class Block(NamedTuple):
    """Place of a block: its size class and its number within the class."""

    size_class: int
    number: int


class StoredVersion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version as stored."""

    number: int
    length: int
    removed: bool = False
    tag: tuple[bytes, int, int] | None = None
    block: Block | None = None
    written: int = 0
    checksums: bytes = b""
    patches: tuple[tuple[int, int], ...] = ()

    def blocks(self) -> Iterator[Block]:
        """Every block that it refers to."""
        if self.block is not None:
            yield self.block
        for _, number in self.patches:
            yield Block(0, number)

    def public(self) -> Version:
        """What callers of the engine see."""
        tag = Tag(*self.tag) if self.tag is not None else None
        return Version(self.number, self.length, self.removed, tag)

    def block_checksums(self) -> list[int]:
        """CRC32C of each 64 KiB."""
        return unpack(self.checksums)


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A chunk's two versions."""

    committed: StoredVersion | None = None
    pending: StoredVersion | None = None

    def blocks(self) -> set[Block]:
        """The blocks it holds; its versions may share some."""
        versions = (self.committed, self.pending)
        return {block for version in versions if version is not None for block in version.blocks()}

    def allocated(self) -> int:
        """Bytes of its blocks."""
        return sum(class_bytes(block.size_class) for block in self.blocks())


class Marker(msgspec.Struct, frozen=True, array_like=True):
    """Whose target a directory is."""

    format: int
    cluster_id: str
    target_id: int
    content_id: int = 0  # 0: made by a program that knew of none


class Session(msgspec.Struct, frozen=True, array_like=True):
    """How a target was last opened and closed."""

    boot_id: str
    safe: bool
    doubtful: bool


class _Floor(msgspec.Struct, frozen=True, array_like=True):
    number: int


class _StoredApplied(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    chunk_id: bytes
    version: int
    length: int
    length_before: int = 0


NO_RECORD = Record()

_encoder = msgspec.msgpack.Encoder()
_records = msgspec.msgpack.Decoder(Record)
_markers = msgspec.msgpack.Decoder(Marker)
_sessions = msgspec.msgpack.Decoder(Session)
_applied = msgspec.msgpack.Decoder(_StoredApplied)
_floors = msgspec.msgpack.Decoder(_Floor)
T = TypeVar("T")


def chunk_key(chunk_id: bytes) -> bytes:
    """Key of a chunk record."""
    return CHUNK_PREFIX + chunk_id


def applied_key(client_id: bytes, channel: int) -> bytes:
    """Key of a dedup record."""
    return APPLIED_PREFIX + client_id + channel.to_bytes(4, "big")


def channel_of(key: bytes) -> tuple[bytes, int]:
    """(client id, channel) of a dedup record's key."""
    return key[1:-4], int.from_bytes(key[-4:], "big")


def undo_key(epoch: int, chunk_id: bytes) -> bytes:
    """Key of an undo record. An empty `chunk_id` makes the begin of the epoch's range."""
    return UNDO_PREFIX + epoch.to_bytes(8, "big") + chunk_id


def encode_record(record: Record) -> bytes:
    """Value of a chunk record."""
    return _ENCODING + _encoder.encode(record)


def decode_record(value: bytes) -> Record:
    """The record of a value; an empty value is a record without versions."""
    return _decode(_records, value) if value else NO_RECORD


def encode_applied(applied: Applied) -> bytes:
    """Value of a dedup record."""
    stored = _StoredApplied(
        applied.sequence, applied.chunk_id, applied.version, applied.length,
        applied.length_before)
    return _ENCODING + _encoder.encode(stored)


def decode_applied(value: bytes) -> Applied:
    """The dedup record of a value."""
    stored = _decode(_applied, value)
    return Applied(
        stored.sequence, stored.chunk_id, stored.version, stored.length, stored.length_before)


def encode_floor(number: int) -> bytes:
    """Value of the floor."""
    return _ENCODING + _encoder.encode(_Floor(number))


def decode_floor(value: bytes | None) -> int:
    """The floor of a value; 0 where nothing was ever removed."""
    return _decode(_floors, value).number if value else 0


def encode_marker(marker: Marker) -> bytes:
    """Value of the marker."""
    return _ENCODING + _encoder.encode(marker)


def decode_marker(value: bytes) -> Marker:
    """The marker of a value."""
    return _decode(_markers, value)


def encode_session(session: Session) -> bytes:
    """Value of the session."""
    return _ENCODING + _encoder.encode(session)


def decode_session(value: bytes) -> Session:
    """The session of a value."""
    return _decode(_sessions, value)


def state_of(chunk_id: bytes, record: Record) -> ChunkState:
    """What a record says of its chunk."""
    committed, pending = record.committed, record.pending
    return ChunkState(
        chunk_id, committed.public() if committed is not None else None,
        pending.public() if pending is not None else None,
        crc32c(committed.checksums) if committed is not None else 0, record.allocated())


def _decode(decoder: msgspec.msgpack.Decoder[T], value: bytes) -> T:
    if value[:1] != _ENCODING:
        raise FsError(
            Kind.CONFIG_INVALID,
            f"a record has encoding {value[:1].hex()}, this program knows {_ENCODING.hex()}: "
            "run the version of the program that wrote it",
        )
    try:
        return decoder.decode(memoryview(value)[1:])
    except msgspec.MsgspecError as failure:
        raise FsError(
            Kind.DISK_FAILED, f"a metadata record does not decode: {failure}"
        ) from failure
