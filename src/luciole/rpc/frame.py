"""Frames: how a message and its bulk bytes travel on a byte stream.

Layer: pure (no I/O). A frame is header, message, payload, end to end. All numbers little-endian:

    offset size
     0      4  magic "LUCI"
     4      1  protocol version
     5      1  kind: 1 hello, 2 request, 3 reply, 4 error, 5 region,
               6 queue pair, 7 rings
     6      2  service id
     8      2  method id
    10      2  flags: 1 in a request: the payload tells where the bytes lie (shared.py,
               rdma_table.py);
               1 in a reply: its bytes lie where the request wanted them
    12      4  request: milliseconds from now that the caller waits
    16      8  request id, repeated by the reply
    24      4  message length
    28      4  payload length
    32      4  CRC32C of the message
    36      4  CRC32C of the 36 bytes before

Magic, version and the header's length and checksum keep their places in every version, so that
each side can tell a newer peer from garbage. The payload is covered by the checksums of the
message that it belongs to. Invariant: lengths are bounded before anything is allocated, and
whatever is wrong with a frame raises FsError that says what.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2
from luciole.proto.services import Buffer
from luciole.rpc.interface import MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, TIMEOUT_MAX_S

MAGIC = b"LUCI"
VERSION = 1
HELLO_BYTES_MAX = 4 * 1024
ERROR_BYTES_MAX = 64 * 1024
QUEUE_PAIR_BYTES_MAX = 64
ERROR_TEXT_MAX = 8 * 1024

BODY = struct.Struct("<4sBBHHHIQIII")
CHECKSUM = struct.Struct("<I")
HEADER = struct.Struct("<4sBBHHHIQIIII")
HEADER_BYTES = HEADER.size
BODY_BYTES = BODY.size


class FrameKind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    REQUEST = 2
    REPLY = 3
    ERROR = 4
    REGION = 5
    QUEUE_PAIR = 6
    RINGS = 7


HELLO, REQUEST, REPLY, ERROR, REGION, QUEUE_PAIR, RINGS = (int(kind) for kind in FrameKind)
SHARED = 1  # the flag

# kind -> (largest message, largest payload)
_LIMITS = {
    HELLO: (HELLO_BYTES_MAX, 0),
    REQUEST: (MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX),
    REPLY: (MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX),
    ERROR: (ERROR_BYTES_MAX, 0),
    REGION: (0, 0),
    QUEUE_PAIR: (QUEUE_PAIR_BYTES_MAX, 0),
    RINGS: (0, 0),
}
_FLAGGED = {REQUEST, REPLY}


class Header(NamedTuple):
    """The facts of one frame, checked."""

    kind: int
    service_id: int
    method_id: int
    deadline_ms: int
    request_id: int
    message_length: int
    payload_length: int
    message_checksum: int
    flags: int


def corrupt(message: str) -> FsError:
    """The error for bytes that are no frame of ours."""
    return FsError(Kind.CORRUPT_FRAME, message)


def parse_header(data: memoryview) -> Header:
    """Reads the first HEADER_BYTES of `data`, which is at least that long.

    Raises FsError CORRUPT_FRAME, or UNIMPLEMENTED when the peer's protocol is newer.
    """
    (magic, version, kind, service_id, method_id, flags, deadline_ms, request_id, message_length,
     payload_length, message_checksum, checksum) = HEADER.unpack_from(data)  # fmt: skip
    if magic != MAGIC:
        raise corrupt(f"not a luciole peer: the frame begins with {magic!r}, not {MAGIC!r}")
    if crc32c(data[: BODY.size]) != checksum:
        raise corrupt("the checksum of the frame header is wrong")
    if version != VERSION:
        raise _wrong_version(version)
    limits = _LIMITS.get(kind)
    if limits is None or (flags and (flags != SHARED or kind not in _FLAGGED)):
        raise corrupt(f"unknown kind of frame: {kind}, flags {flags:#x}")
    if message_length > limits[0] or payload_length > limits[1]:
        raise corrupt(
            f"frame too large: message of {message_length} bytes (limit {limits[0]}), "
            f"payload of {payload_length} bytes (limit {limits[1]})"
        )
    return Header(
        kind, service_id, method_id, deadline_ms, request_id,
        message_length, payload_length, message_checksum, flags,
    )  # fmt: skip


def _wrong_version(version: int) -> FsError:
    if version == 0:
        return corrupt("protocol version 0 does not exist")
    return FsError(
        Kind.UNIMPLEMENTED,
        f"the peer speaks framed protocol {version}, this program {VERSION}: "
        "upgrade the older of the two",
    )


def take_message(header: Header, data: memoryview) -> bytes:
    """The message that lies in `data` behind its header. Raises FsError CORRUPT_FRAME."""
    message = bytes(data[HEADER_BYTES : HEADER_BYTES + header.message_length])
    if crc32c(message) != header.message_checksum:
        raise corrupt(f"the checksum of a message of {header.message_length} bytes is wrong")
    return message


def encode(
    kind: int,
    message: bytes,
    *,
    service_id: int = 0,
    method_id: int = 0,
    deadline_ms: int = 0,
    request_id: int = 0,
    payload_length: int = 0,
    flags: int = 0,
) -> bytes:
    """Header and message of a frame; `payload_length` bytes follow. Lengths are within bounds."""
    body = BODY.pack(
        MAGIC, VERSION, kind, service_id, method_id, flags, deadline_ms, request_id,
        len(message), payload_length, crc32c(message),
    )  # fmt: skip
    return b"".join((body, CHECKSUM.pack(crc32c(body)), message))


def payload_bytes(buffers: Sequence[Buffer]) -> int:
    """Size of a payload in bytes. Raises FsError INVALID_ARGUMENT beyond PAYLOAD_BYTES_MAX."""
    total = 0
    for buffer in buffers:
        total += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
    if total > PAYLOAD_BYTES_MAX:
        raise FsError(
            Kind.INVALID_ARGUMENT,
            f"payload of {total} bytes is larger than {PAYLOAD_BYTES_MAX}: send it in parts",
        )
    return total


def check_message_size(message: bytes, what: str) -> None:
    """Raises FsError INVALID_ARGUMENT if a message is too large to be sent."""
    if len(message) > MESSAGE_BYTES_MAX:
        raise FsError(
            Kind.INVALID_ARGUMENT,
            f"message of {len(message)} bytes is larger than {MESSAGE_BYTES_MAX}: "
            "ask for or send less at once",
            what,
        )


def call_seconds(timeout: float | None, default: float, what: str) -> float:
    """The seconds that a call may take. Raises FsError DEADLINE_EXCEEDED if there are none."""
    seconds = default if timeout is None else min(timeout, TIMEOUT_MAX_S)
    if seconds <= 0:
        raise FsError(Kind.DEADLINE_EXCEEDED, "the deadline passed before the call", what)
    return seconds


def milliseconds(seconds: float) -> int:
    """A remaining time as it travels: rounded up, so that a positive time stays positive."""
    if not 0.0 < seconds < TIMEOUT_MAX_S:
        seconds = TIMEOUT_MAX_S if seconds > 0.0 else 0.0
    return int(seconds * 1000 + 0.999)


def portable(error: FsError, text_max: int = ERROR_TEXT_MAX) -> common_pb2.Error:
    """The form in which an error travels: bounded, and text that is no Unicode escaped."""

    def clean(text: str) -> str:
        return text[:text_max].encode("utf-8", "backslashreplace").decode()[:text_max]

    return FsError(error.kind, clean(error.message), clean(error.subject)).to_proto()


def encode_error(request_id: int, error: FsError) -> bytes:
    """An error frame."""
    return encode(ERROR, portable(error).SerializeToString(), request_id=request_id)


def decode_error(message: bytes) -> FsError:
    """The error in an error frame. Raises FsError CORRUPT_FRAME."""
    try:
        return FsError.from_proto(common_pb2.Error.FromString(message))
    except DecodeError as failure:
        raise corrupt(f"an error frame cannot be decoded: {failure}") from failure


def encode_hello(cluster_id: str, name: str, kind: str) -> bytes:
    """A hello frame. Raises FsError INVALID_ARGUMENT if the names are absurdly long."""
    message = common_pb2.Hello(cluster_id=cluster_id, name=name, kind=kind).SerializeToString()
    if len(message) > HELLO_BYTES_MAX:
        raise FsError(Kind.INVALID_ARGUMENT, f"cluster id and names exceed {HELLO_BYTES_MAX} bytes")
    return encode(HELLO, message)


def decode_hello(header: Header, message: bytes) -> common_pb2.Hello:
    """What a peer says of itself. Raises FsError CORRUPT_FRAME, or the error it sent instead."""
    if header.kind == ERROR:
        raise decode_error(message)
    if header.kind != HELLO:
        raise corrupt(f"expected a hello, got a frame of kind {header.kind}")
    try:
        return common_pb2.Hello.FromString(message)
    except DecodeError as failure:
        raise corrupt(f"a hello frame cannot be decoded: {failure}") from failure


def check_cluster(ours: str, theirs: str) -> None:
    """Raises FsError WRONG_CLUSTER, which names both ids, unless they are equal."""
    if ours != theirs:
        raise FsError(
            Kind.WRONG_CLUSTER,
            f"this server belongs to cluster {ours!r}, the caller to {theirs!r}: "
            "check the caller's cluster id and address",
        )
