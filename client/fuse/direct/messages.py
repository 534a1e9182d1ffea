"""Requests taken apart and replies put together.

Layer: pure. A request may hold anything: whatever does not fit its layout is MALFORMED, an error
that the dispatcher answers. Nothing here trusts a length before it was compared with what is there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from luciole.client.fuse.attributes import BLOCK, blocks_of, mode_of
from luciole.client.fuse.direct import protocol
from luciole.errors import FsError, Kind
from luciole.limits import NAME_BYTES_MAX
from luciole.proto import meta_pb2

NANOSECONDS = 1_000_000_000
HEADER_BYTES = protocol.IN_HEADER.size


class RefusedError(Exception):
    """The answer to a request is this errno, whatever the filesystem thinks."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.number = number


MALFORMED = errno.EIO  # as libfuse; the kernel never sends such a request


class Request:
    """One request. `body` is what follows the header, and lives until the reply is sent.

    `room` is writable memory of the channel, at least as large as any read, in which a reply may be
    built; where `body` overlaps it, the body is gone then. `lent` says that somebody may look at
    the body after the reply, so that its memory is not used again before the last view is gone.
    `abandoned` says that the kernel has been given another answer already.
    """

    __slots__ = (
        "abandoned", "body", "gid", "lent", "node", "opcode", "pid", "room", "uid", "unique")

    def __init__(self, message: memoryview, room: memoryview | None = None) -> None:
        """Raises RefusedError unless `message` (bytes, one dimension) is one whole request."""
        if len(message) < HEADER_BYTES:
            raise RefusedError(MALFORMED)
        length, self.opcode, self.unique, self.node, self.uid, self.gid, self.pid, extra, _ = (
            protocol.IN_HEADER.unpack_from(message))
        end = length - 8 * extra  # extensions, which were not asked for, stand at the end
        if length != len(message) or end < HEADER_BYTES:
            raise RefusedError(MALFORMED)
        self.body = message[HEADER_BYTES:end]
        self.room = room
        self.lent = self.abandoned = False

    def fields(self, layout: Struct) -> tuple[int, ...]:
        """The structure at the start of the body. Raises RefusedError if there is less."""
        if len(self.body) < layout.size:
            raise RefusedError(MALFORMED)
        return layout.unpack_from(self.body)

    def names(self, count: int, start: int = 0, *, longest: int = NAME_BYTES_MAX) -> list[bytes]:
        """`count` strings, each ended by a zero byte, from `start` of the body on.

        Raises RefusedError: malformed, or ENAMETOOLONG.
        """
        pieces = bytes(self.body[start:]).split(b"\0", count)
        if len(pieces) != count + 1 or not all(pieces[:count]):
            raise RefusedError(MALFORMED)
        if any(len(piece) > longest for piece in pieces[:count]):
            raise RefusedError(errno.ENAMETOOLONG)
        return pieces[:count]

    def name(self, start: int = 0) -> bytes:
        """The one name from `start` on."""
        return self.names(1, start)[0]


class Validity(NamedTuple):
    """For how long the kernel may believe what it is told, as (seconds, nanoseconds)."""

    attribute_s: int
    attribute_ns: int
    entry_s: int
    entry_ns: int

    @classmethod
    def of(cls, attribute_seconds: float, entry_seconds: float) -> Validity:
        """From seconds."""
        return cls(
            *divmod(round(attribute_seconds * NANOSECONDS), NANOSECONDS),
            *divmod(round(entry_seconds * NANOSECONDS), NANOSECONDS))


NOT_VALID = Validity(0, 0, 0, 0)


def _attribute_fields(inode: meta_pb2.Inode) -> tuple[int, ...]:
    atime, atime_ns = divmod(inode.atime_ns, NANOSECONDS)
    mtime, mtime_ns = divmod(inode.mtime_ns, NANOSECONDS)
    ctime, ctime_ns = divmod(inode.ctime_ns, NANOSECONDS)
    return (inode.inode_id, inode.length, blocks_of(inode), atime, mtime, ctime, atime_ns, mtime_ns,
            ctime_ns, mode_of(inode), inode.nlink, inode.uid, inode.gid, inode.rdev,
            BLOCK, 0)


def attributes(inode: meta_pb2.Inode, validity: Validity) -> bytes:
    """struct fuse_attr_out."""
    return protocol.ATTR_OUT.pack(
        validity.attribute_s, validity.attribute_ns, 0, *_attribute_fields(inode))


def extended_attributes(inode: meta_pb2.Inode, validity: Validity) -> bytes:
    """struct fuse_statx_out."""
    (number, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid,
     device, block, _) = _attribute_fields(inode)
    return protocol.STATX_OUT.pack(
        validity.attribute_s, validity.attribute_ns, 0,
        protocol.STATX_BASIC_STATS | protocol.STATX_BTIME, block, 0, nlink, uid, gid, mode, number,
        size, blocks, 0, atime, atime_ns, *divmod(inode.btime_ns, NANOSECONDS), ctime, ctime_ns,
        mtime, mtime_ns, device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)


def entry(inode: meta_pb2.Inode, validity: Validity) -> bytes:
    """struct fuse_entry_out. Ids are never given twice, so the generation is always 0."""
    return protocol.ENTRY_OUT.pack(
        inode.inode_id, 0, validity.entry_s, validity.attribute_s, validity.entry_ns,
        validity.attribute_ns, *_attribute_fields(inode))


def no_entry(validity: Validity) -> bytes:
    """struct fuse_entry_out of a name that is not there: remembered, unlike ENOENT."""
    return protocol.ENTRY_OUT.pack(
        0, 0, validity.entry_s, 0, validity.entry_ns, 0, *(0,) * 16)


NO_ENTRY = bytes(protocol.ENTRY_OUT.size)


def directory_entry(inode: meta_pb2.Inode, name: bytes, following: int) -> bytes:
    """struct fuse_dirent with its name, padded; `following` is the position behind it."""
    head = protocol.DIRENT.pack(inode.inode_id, following, len(name), mode_of(inode) >> 12)
    return head + name + bytes(-len(name) % 8)


def error_reply(unique: int, number: int) -> bytes:
    """A reply that is an errno, or success without data (0)."""
    return protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size, -number, unique)


def reply(unique: int, data: bytes | memoryview) -> list[bytes | memoryview]:
    """A reply with data, in pieces."""
    return [protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(data), 0, unique), data]


def notification(code: int, pieces: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """A message that no request asked for."""
    data = list(pieces)
    size = protocol.OUT_HEADER.size + sum(map(len, data))
    return [protocol.OUT_HEADER.pack(size, code, 0), *data]


def errno_of(failure: FsError) -> int:
    """What the application sees. An operation that is not there is EOPNOTSUPP for it: ENOSYS would
    tell the kernel never to ask again, which only the dispatcher's table may decide."""
    if failure.kind == Kind.UNIMPLEMENTED:
        return errno.EOPNOTSUPP
    return failure.facts.errno
