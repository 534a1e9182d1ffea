"""Small calls in few steps: frames as they mostly are, packed and unpacked whole.

Layer: pure. The frames are those of frame.py. Most requests for a few bytes are one frame without
a payload, with one room or none, and most replies one frame that says that all went well. For these
a generator, a frame and a call as objects cost more than what they are asked to do. Whatever is not
exactly so is None here, and is looked at in the ordinary way, which says what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from luciole.checksum import crc32c
from luciole.rpc import frame
from luciole.rpc.frame import BODY, BODY_BYTES, CHECKSUM, HEADER, HEADER_BYTES, MAGIC, VERSION

_ROOM = struct.Struct("<IIIIQ")  # a table of shared.py: no piece, one room
ROOM_BYTES = _ROOM.size
_LENGTHS = struct.Struct("<II")
_LENGTHS_AT = 24  # in the header


class Request(NamedTuple):
    """A request that is to be sent; all its bytes stand in its message."""

    service_id: int
    method_id: int
    deadline_ms: int
    request_id: int
    message: bytes


class Asked(NamedTuple):
    """A request that came whole."""

    method: int  # service and method, as `key` has them
    deadline_ms: int
    request_id: int
    message: bytes
    table: memoryview  # where its room lies; empty: it has none


def key(service_id: int, method_id: int) -> int:
    """Both ids as one number."""
    return service_id << 16 | method_id


def room_table(number: int, offset: int, size: int) -> bytes:
    """The table of a request with one room: the region, its place there, and how large it is."""
    return _ROOM.pack(0, 1, number, size, offset)


def room_of(table: memoryview) -> tuple[int, int, int] | None:
    """The inverse of `room_table`; None for any other table."""
    if len(table) != ROOM_BYTES:
        return None
    pieces, rooms, number, size, offset = _ROOM.unpack(table)
    return (number, offset, size) if not pieces and rooms == 1 else None


def encode(request: Request, table: bytes = b"") -> bytes:
    """A request's frame, with a `table` of its room or none. Lengths are within bounds."""
    service_id, method_id, deadline_ms, request_id, message = request
    body = BODY.pack(
        MAGIC, VERSION, frame.REQUEST, service_id, method_id, frame.SHARED if table else 0,
        deadline_ms, request_id, len(message), len(table), crc32c(message))  # fmt: skip
    return b"".join((body, CHECKSUM.pack(crc32c(body)), message, table))


def reply(request_id: int, message: bytes) -> bytes:
    """The frame of a reply without a payload. The length is within bounds."""
    body = BODY.pack(
        MAGIC, VERSION, frame.REPLY, 0, 0, 0, 0, request_id, len(message), 0, crc32c(message))
    return b"".join((body, CHECKSUM.pack(crc32c(body)), message))


def asked(view: memoryview, received: int) -> Asked | None:
    """The request that the first `received` bytes of `view` are, if they are one."""
    if received < HEADER_BYTES:
        return None
    (magic, version, kind, service_id, method_id, flags, deadline_ms, request_id, message_length,
     payload_length, message_checksum, checksum) = HEADER.unpack_from(view)  # fmt: skip
    end = HEADER_BYTES + message_length
    if (kind != frame.REQUEST or magic != MAGIC or version != VERSION
            or end + payload_length != received or not deadline_ms
            or flags != (frame.SHARED if payload_length else 0)
            or crc32c(view[:BODY_BYTES]) != checksum):
        return None
    message = bytes(view[HEADER_BYTES:end])
    if crc32c(message) != message_checksum:
        return None
    return Asked(
        service_id << 16 | method_id, deadline_ms, request_id, message, view[end:received])


def expected(head: memoryview) -> tuple[int, int]:
    """What the header of a reply, not verified yet, says: bytes of message and of payload."""
    lengths: tuple[int, int] = _LENGTHS.unpack_from(head, _LENGTHS_AT)
    return lengths


def answered(head: memoryview, received: int, request_id: int, *, shared: bool) -> bytes | None:
    """The message of a reply of `received` bytes in all, of which `head` holds header and message.

    With `shared` its bytes must lie in the room, and nothing may follow; else they follow.
    """
    if received < HEADER_BYTES:
        return None
    (magic, version, kind, _, _, flags, _, answered_id, message_length, payload_length,
     message_checksum, checksum) = HEADER.unpack_from(head)  # fmt: skip
    end = HEADER_BYTES + message_length
    if (kind != frame.REPLY or answered_id != request_id or magic != MAGIC or version != VERSION
            or end > len(head) or end + payload_length != received
            or flags != (frame.SHARED if shared else 0) or (shared and payload_length)
            or crc32c(head[:BODY_BYTES]) != checksum):
        return None
    message = bytes(head[HEADER_BYTES:end])
    return message if crc32c(message) == message_checksum else None
