"""Frames out of a byte stream, without I/O: what server and both clients share.

Layer: pure. A reader is a generator: it yields the buffers to receive into, is sent the number
of bytes received (0: the peer closed), and returns a frame. Whoever drives it moves the bytes,
blocking or under trio. One request is in flight per connection, so bytes beyond a frame are a
fault of the peer, and reading ahead costs nothing: a small frame takes one system call.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer
from luciole.rpc import frame
from luciole.rpc.frame import HEADER_BYTES, Header
from luciole.rpc.interface import Memory, pages

ReplyT = TypeVar("ReplyT", bound=Message)
T = TypeVar("T")
Reader = Generator[list[memoryview], int, T]

SMALL_BYTES = 16 * 1024
STEP_BYTES = 1024 * 1024
ALIGN_BYTES = 64 * 1024  # payloads of this size begin a page: a disk may take them from there
KEEP_BYTES = 16 * 1024 * 1024
BUFFERS_PER_CALL = 1024  # IOV_MAX of Linux


class Due(list[memoryview]):
    """Buffers to receive into when at least `size` bytes more are certain to come.

    Who waits for a large payload need not be woken for each packet of it.
    """

    __slots__ = ("size",)

    def __init__(self, views: Sequence[memoryview], size: int) -> None:
        super().__init__(views)
        self.size = size


class Inbox:
    """The receive buffer of one connection: grows as bytes arrive, not as they are announced.

    Args:
        source: where the memory for more than a small frame is from; begins at a page.
    """

    __slots__ = ("_lead", "_memory", "_source", "view")

    def __init__(self, source: Memory = pages) -> None:
        self._source = source
        self._memory = self.view = pages(SMALL_BYTES)
        self._lead = 0  # bytes before the view

    @property
    def head(self) -> memoryview:
        """Where a frame's first bytes go: few enough to be moved."""
        return self.view[:SMALL_BYTES]

    def align(self, at: int, filled: int) -> None:
        """Moves the `filled` bytes that came so that byte `at` of the frame begins a page."""
        lead = -at % mmap.PAGESIZE
        if lead != self._lead:
            came = bytes(self.view[:filled])
            self._lead = lead
            if lead + filled > len(self._memory):
                self._memory = pages(lead + filled)
            self.view = self._memory[lead:]
            self.view[:filled] = came

    def grow(self, filled: int, wanted: int) -> None:
        """Makes room beyond `filled` bytes, of `wanted`: a peer costs twice what it has sent."""
        self._memory = self._source(self._lead + min(wanted, max(2 * filled, STEP_BYTES)))
        larger = self._memory[self._lead :]
        larger[:filled] = self.view[:filled]
        self.view = larger

    def shrink(self, keep: int = KEEP_BYTES) -> None:
        """Gives a buffer larger than `keep` back."""
        if len(self.view) > keep:
            self._memory = self.view = pages(SMALL_BYTES)
            self._lead = 0


class Frame(NamedTuple):
    """One whole frame; the payload is a view of the inbox and dies with the next frame."""

    header: Header
    message: bytes
    payload: memoryview


def read_frame(inbox: Inbox) -> Reader[Frame | None]:
    """Reads a frame with its payload into the inbox. Returns None if the peer closed before it.

    Raises FsError CORRUPT_FRAME, CONNECTION_LOST or (newer protocol) UNIMPLEMENTED.
    """
    filled = yield [inbox.head]
    if filled == 0:
        return None
    if filled < HEADER_BYTES:
        filled = yield from _fill(inbox, filled, HEADER_BYTES)
    header = frame.parse_header(inbox.view)
    end = HEADER_BYTES + header.message_length
    total = end + header.payload_length
    if header.payload_length >= ALIGN_BYTES:
        inbox.align(end, filled)
    if filled < total:
        filled = yield from _fill(inbox, filled, total)
    if filled > total:
        raise frame.corrupt(f"{filled - total} bytes follow a frame before it was answered")
    message = frame.take_message(header, inbox.view)
    return Frame(header, message, inbox.view[end:total])


def _fill(inbox: Inbox, filled: int, wanted: int) -> Reader[int]:
    """Receives until at least `wanted` bytes are in the inbox; returns how many are."""
    while filled < wanted:
        if filled == len(inbox.view):
            inbox.grow(filled, wanted)
        received = yield Due([inbox.view[filled:]], wanted - filled)
        if received == 0:
            raise _closed(filled)
        filled += received
    return filled


def _closed(received: int) -> FsError:
    where = f"after {received} bytes of a frame" if received else "without an answer"
    return FsError(Kind.CONNECTION_LOST, f"the peer closed the connection {where}")


def read_reply(
    inbox: Inbox,
    request_id: int,
    reply_type: type[ReplyT],
    sink: Callable[[ReplyT], Sequence[memoryview]] | None,
    *,
    in_place: bool = False,
    landed: Callable[[Sequence[memoryview]], None] | None = None,
) -> Reader[ReplyT | FsError]:
    """Reads the answer to a request, its payload straight into the buffers of `sink`.

    `in_place` says that the peer may have put the payload where the request told. It is verified
    there, unless `landed` is given: that takes the buffers of `sink`, and sees to it that the bytes
    are in them.

    Returns the reply, or the error that the peer answered. Raises FsError CORRUPT_FRAME or
    CONNECTION_LOST when the connection cannot be used any more.
    """
    filled = yield [inbox.view]
    if filled == 0:
        raise _closed(0)
    if filled < HEADER_BYTES:
        filled = yield from _fill(inbox, filled, HEADER_BYTES)
    header = frame.parse_header(inbox.view)
    end = HEADER_BYTES + header.message_length
    if filled < end:
        filled = yield from _fill(inbox, filled, end)
    if filled > end + header.payload_length:
        raise frame.corrupt("more bytes came than the reply announced")
    message = frame.take_message(header, inbox.view)
    if header.kind != frame.REPLY or header.request_id != request_id:
        return _error_in(header, message, request_id)
    try:
        reply = reply_type.FromString(message)
    except DecodeError as failure:
        raise frame.corrupt(f"{reply_type.__name__} cannot be decoded: {failure}") from failure
    early = inbox.view[end:filled]
    if header.flags and in_place and landed is not None and not header.payload_length:
        landed(sink(reply) if sink is not None else ())
    else:
        yield from _take_payload(header, early, sink, reply, in_place)
    return reply


def _take_payload(
    header: Header,
    early: memoryview,
    sink: Callable[[ReplyT], Sequence[memoryview]] | None,
    reply: ReplyT,
    in_place: bool,
) -> Reader[None]:
    """Receives the bulk bytes of a reply, of which `early` came along with its message."""
    if header.flags:
        if not in_place or header.payload_length:
            raise frame.corrupt("bytes are said to lie where nobody wanted them")
        return
    if sink is None:
        if header.payload_length:
            raise frame.corrupt(f"{header.payload_length} bytes of payload came unasked")
        return
    buffers = sink(reply)
    if len(buffers) == 1 and buffers[0].nbytes == len(early) == header.payload_length:
        memoryview(buffers[0]).cast("B")[:] = early
    else:
        yield from _read_payload(early, header.payload_length, buffers)


def _error_in(header: Header, message: bytes, request_id: int) -> FsError:
    """The error that a frame other than the reply answers; raised if the peer hangs up with it."""
    if header.kind != frame.ERROR:
        raise frame.corrupt(f"frame of kind {header.kind} answers another request")
    error = frame.decode_error(message)
    if header.request_id != request_id:  # it could not even read the request
        raise error
    return error


def _read_payload(early: memoryview, length: int, buffers: Sequence[memoryview]) -> Reader[None]:
    """Fills `buffers` with `early`, which came along with the message, and what follows."""
    room = frame.payload_bytes(buffers)
    if room != length:
        raise frame.corrupt(f"payload of {length} bytes came for buffers of {room}")
    rest = after(buffers, 0)
    received = len(early)
    for view in rest:
        piece = min(len(view), len(early))
        view[:piece] = early[:piece]
        early = early[piece:]
    rest = after(rest, received)
    while received < length:
        count = yield Due(rest[:BUFFERS_PER_CALL], length - received)
        if count == 0:
            raise _closed(received)
        received += count
        rest = after(rest, count)


def first(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first `size` bytes of `views`, taken end to end."""
    found: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found


def after(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """What is left of `buffers` once `done` bytes of them are sent or filled."""
    rest: list[memoryview] = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if done < len(view):
            rest.append(view[done:])
        done -= min(done, len(view))
    return rest
