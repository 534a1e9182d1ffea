"""The key space of the namespace and the encoding of its values.

Layer: pure. docs/data-layout.md describes the same to the byte. Inode ids are little-endian in
keys so that neighbouring ids, which are allocated together, spread over the whole key space;
names are raw bytes, so that a directory is one range in name order.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.kv.interface import prefix_end
from luciole.limits import NAME_BYTES_MAX
from luciole.proto import meta_pb2

ROOT_ID = 1
FIRST_INODE_ID = 4096
LINKS_MAX = 65_000
VALUE_VERSION = 1

INODE = b"INOD"
DENTRY = b"DENT"
DIRECTORY_TIMES = b"DTIM"
DIRECTORY_SUBDIRECTORIES = b"DSUB"
SESSION = b"SESS"
CLIENT_SESSION = b"CSES"
IDEMPOTENCY = b"IDEM"
ORPHAN = b"ORPH"
GARBAGE = b"GARB"
FREED = b"GARF"
DETACHED = b"GARD"
TRASHED = b"GART"
TRASH = b"TRSH"
TRIM = b"TRIM"
UNREPORTED = b"RLEN"
XATTR = b"XATR"
INLINE = b"INLN"
LOCKS = b"LOCK"
CLIENT_LOCKS = b"CLCK"
WAITS = b"WAIT"
QUOTA = b"QUOT"
BYTES_USED = b"QUSB"
INODES_USED = b"QUSI"
QUOTA_WALK_LIST = b"QWLK"
QUOTA_WALK = b"SINGquota-walk"
NEXT_INODE_ID = b"SINGnext-inode"
INODE_COUNT = b"SINGinodes"
CHANGE = b"CHNG"
CHANGE_COUNT = b"SINGchanges"
CHANGE_TRIMMED = b"SINGchanges-trimmed"

_DENTRY = struct.Struct("<BQB")
_TIMES = struct.Struct("<BQQ")
_ID = struct.Struct("<Q")
MessageT = TypeVar("MessageT", bound=Message)


def inode_key(inode_id: int) -> bytes:
    """`INOD` + id."""
    return INODE + _ID.pack(inode_id)


def dentry_key(parent: int, name: bytes) -> bytes:
    """`DENT` + parent id + name."""
    return DENTRY + _ID.pack(parent) + name


def dentry_range(parent: int, after: bytes = b"") -> tuple[bytes, bytes]:
    """All entries of a directory with a name greater than `after`."""
    prefix = DENTRY + _ID.pack(parent)
    begin = prefix + after + b"\0" if after else prefix
    return begin, prefix_end(prefix)


def times_key(directory: int) -> bytes:
    """`DTIM` + id."""
    return DIRECTORY_TIMES + _ID.pack(directory)


def subdirectories_key(directory: int) -> bytes:
    """`DSUB` + id."""
    return DIRECTORY_SUBDIRECTORIES + _ID.pack(directory)


def xattr_key(inode_id: int, name: bytes) -> bytes:
    """`XATR` + id + name of the attribute."""
    return XATTR + _ID.pack(inode_id) + name


def xattr_range(inode_id: int) -> tuple[bytes, bytes]:
    """All extended attributes of an inode."""
    prefix = XATTR + _ID.pack(inode_id)
    return prefix, prefix_end(prefix)


def session_key(inode_id: int, session_id: bytes) -> bytes:
    """`SESS` + inode id + session id."""
    return SESSION + _ID.pack(inode_id) + session_id


def session_range(inode_id: int) -> tuple[bytes, bytes]:
    """All sessions of an inode."""
    prefix = SESSION + _ID.pack(inode_id)
    return prefix, prefix_end(prefix)


def client_session_key(client_id: bytes, inode_id: int, session_id: bytes) -> bytes:
    """`CSES` + client id + inode id + session id."""
    return CLIENT_SESSION + client_id + _ID.pack(inode_id) + session_id


def idempotency_key(client_id: bytes, sequence: int) -> bytes:
    """`IDEM` + client id + big-endian sequence, so that the answered ones are one range.

    Sequence 0 holds the number below which all are answered, little-endian in 8 bytes.
    """
    return IDEMPOTENCY + client_id + sequence.to_bytes(8, "big")


def listed_key(list_prefix: bytes, inode_id: int) -> bytes:
    """An inode's place in a list such as `ORPH`, or its only record of a kind."""
    return list_prefix + _ID.pack(inode_id)


def locks_key(inode_id: int) -> bytes:
    """`LOCK` + inode id."""
    return LOCKS + _ID.pack(inode_id)


def client_locks_key(client_id: bytes, inode_id: int) -> bytes:
    """`CLCK` + client id + inode id."""
    return CLIENT_LOCKS + client_id + _ID.pack(inode_id)


def waits_prefix(client_id: bytes, owner: int) -> bytes:
    """`WAIT` + client id + owner: what one owner of POSIX locks waits for."""
    return WAITS + client_id + _ID.pack(owner)


def wait_key(client_id: bytes, owner: int, inode_id: int, wait_id: int) -> bytes:
    """`WAIT` + client id + owner + inode id + wait id."""
    return waits_prefix(client_id, owner) + _ID.pack(inode_id) + _ID.pack(wait_id)


def inode_id_of(key: bytes) -> int:
    """The id behind a four-byte prefix."""
    number: int = _ID.unpack_from(key, 4)[0]
    return number


def encode(message: Message) -> bytes:
    """A version byte, then the message. Fields may be added without a new version."""
    return bytes([VALUE_VERSION]) + message.SerializeToString()


def decode(value: bytes, kind: type[MessageT], subject: str) -> MessageT:
    """The message of a value. Raises FsError INTERNAL naming the record when it is damaged."""
    if not value or value[0] != VALUE_VERSION:
        raise FsError(
            Kind.INTERNAL, f"record has format {value[:1]!r}, this program knows {VALUE_VERSION}",
            subject)
    message = kind()
    try:
        message.ParseFromString(value[1:])
    except DecodeError as failure:
        raise FsError(Kind.INTERNAL, f"record is damaged: {failure}", subject) from failure
    return message


def encode_bytes(content: bytes) -> bytes:
    """A version byte, then the bytes."""
    return bytes([VALUE_VERSION]) + content


def decode_bytes(value: bytes, subject: str) -> bytes:
    """What `encode_bytes` was given. Raises FsError INTERNAL for another version."""
    if value[:1] != bytes([VALUE_VERSION]):
        raise FsError(Kind.INTERNAL, f"record has format {value[:1]!r}", subject)
    return value[1:]


def encode_dentry(inode_id: int, kind: int) -> bytes:
    """Version, inode id, file type: 10 bytes."""
    return _DENTRY.pack(VALUE_VERSION, inode_id, kind)


def decode_dentry(parent: int, name: bytes, value: bytes) -> meta_pb2.Dentry:
    """The entry stored under (parent, name)."""
    version, inode_id, kind = _DENTRY.unpack_from(value)
    if version != VALUE_VERSION:
        raise FsError(Kind.INTERNAL, f"dentry has format {version}", f"{parent}/{name!r}")
    return meta_pb2.Dentry(parent=parent, name=name, inode_id=inode_id, type=kind)


def encode_times(mtime_ns: int, ctime_ns: int) -> bytes:
    """Version, mtime, ctime: 17 bytes."""
    return _TIMES.pack(VALUE_VERSION, mtime_ns, ctime_ns)


def decode_times(value: bytes) -> tuple[int, int]:
    """(mtime, ctime) of a directory in nanoseconds."""
    version, mtime_ns, ctime_ns = _TIMES.unpack_from(value)
    if version != VALUE_VERSION:
        raise FsError(Kind.INTERNAL, f"directory times have format {version}")
    return mtime_ns, ctime_ns


def decode_counter(value: bytes | None) -> int:
    """A number kept by `Transaction.add`."""
    return int.from_bytes(value or b"", "little", signed=True)


def check_name(name: bytes) -> None:
    """Raises FsError unless `name` can stand in a directory (POSIX.1-2017, 3.170)."""
    if len(name) > NAME_BYTES_MAX:
        raise FsError(
            Kind.NAME_TOO_LONG, f"a name has at most {NAME_BYTES_MAX} bytes, this has {len(name)}")
    if not name or b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise FsError(Kind.INVALID_ARGUMENT, "not a file name", repr(name))
