"""`Rpc`: one handler, many transports.

A handler is any object with the coroutine methods that a `Service` names. A binding serves it;
a `Caller` of the same transport reaches it. Bindings: in-process, framed TCP, gRPC and (with the
simulator) the simulated network. What every binding keeps:

- a reply or an FsError within the deadline, never silence; a handler whose deadline has passed
  when it would start is not started (DEADLINE_EXCEEDED);
- FsError of the handler arrives as the same kind, message and subject; any other exception
  arrives as INTERNAL with the request id, its trace in the server's log alone;
- messages larger than MESSAGE_BYTES_MAX and payloads larger than PAYLOAD_BYTES_MAX are refused
  by both ends before anything is allocated;
- bulk bytes of a reply arrive in the buffers that the caller's `sink` returns, or, where the server
  reaches the caller's memory, in the rooms that the caller named (`into`).

`Caller`, `Call` and the typed stubs are in luciole/proto/services.py.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import cast

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer, FileRange

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
PAYLOAD_BYTES_MAX = 72 * 1024 * 1024
ARENA_BYTES_MIN = 64 * 1024
ARENA_BYTES_MAX = 16 * 1024 * 1024
TIMEOUT_DEFAULT_S = 10.0
TIMEOUT_MAX_S = 600.0
NO_PAYLOAD = memoryview(b"")


Memory = Callable[[int], memoryview]  # fresh, of so many bytes, more than none


def pages(size: int) -> memoryview:
    """Fresh memory of `size` bytes, more than none, that begins at a page, as disks want it."""
    return memoryview(mmap.mmap(-1, size))


class Arena:
    """Memory of a connection for the payloads of its replies, used again for the next one.

    Args:
        memory: where it is from; begins at a page.
    """

    __slots__ = ("_memory", "_used", "_view")

    def __init__(self, memory: Memory = pages) -> None:
        self._memory = memory
        self._view = memoryview(bytearray())
        self._used = 0

    def take(self, size: int) -> memoryview:
        """Room for `size` bytes, which nobody else has until `reset`."""
        if self._used + size > len(self._view):
            # What was taken keeps the smaller memory alive.
            self._view = self.make(max(size, 2 * len(self._view), ARENA_BYTES_MIN))
            self._used = 0
        start = self._used
        self._used = start + size
        return self._view[start : self._used]

    def make(self, size: int) -> memoryview:
        """Fresh memory of at least `size` bytes, of the kind that the transport wants."""
        return self._memory(size)

    def reset(self, keep: int = ARENA_BYTES_MAX) -> None:
        """The reply has left. Memory of more than `keep` bytes is given back."""
        self._used = 0
        if len(self._view) > keep:
            self._view = memoryview(bytearray())


class ServerCall:
    """The `Call` that bindings hand to handlers.

    `in_place` says that a room was the caller's own memory.

    Args:
        deadline: monotonic second at which the caller stops waiting.
        payload: bulk bytes of the request.
        request_id: for logs.
        rooms: the caller's memory for each part of the reply, where it can be reached.
        arena: gives rooms where it cannot; None: each is made anew.
        takes_files: as `Call.takes_files`.
    """

    __slots__ = (
        "_arena", "_rooms", "deadline", "in_place", "payload", "request_id", "response",
        "takes_files", "with_files",
    )  # fmt: skip

    def __init__(
        self,
        deadline: float,
        payload: memoryview | None = None,
        request_id: int = 0,
        *,
        rooms: Sequence[memoryview] = (),
        arena: Arena | None = None,
        takes_files: bool = False,
    ) -> None:
        self.deadline = deadline
        self.payload = payload if payload is not None else NO_PAYLOAD
        self.request_id = request_id
        self.response: Sequence[Buffer] = ()
        self.takes_files = takes_files
        self.with_files: Sequence[Buffer | FileRange] = ()  # in place of `response`
        self.in_place = False  # the reply's payload lies in the caller's memory
        self._rooms = rooms
        self._arena = arena

    def room(self, index: int, size: int) -> memoryview:
        """As `Call.room`."""
        if self._rooms:
            if index >= len(self._rooms) or size > len(self._rooms[index]):
                raise FsError(
                    Kind.INVALID_ARGUMENT, f"the caller has no room for part {index}, {size} bytes"
                )
            self.in_place = True
            room = self._rooms[index]
            return room if len(room) == size else room[:size]
        if self._arena is not None:
            return self._arena.take(size)
        return memoryview(bytearray(size))

    def rooms(self, sizes: list[int]) -> list[memoryview]:
        """As `Call.rooms`."""
        if self._rooms and sizes == list(map(len, self._rooms)):
            self.in_place = bool(sizes)
            return list(self._rooms)
        return [self.room(index, size) for index, size in enumerate(sizes)]

    def reply_payload(self, buffers: Sequence[Buffer]) -> None:
        """Sends these buffers, end to end, behind the reply. They may be reused once sent."""
        total = sum(len(buffer) for buffer in buffers)
        if total > PAYLOAD_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"reply payload of {total} bytes is too large")
        self.response = buffers

    def reply_parts(self, parts: Sequence[Buffer | FileRange]) -> None:
        """As `Call.reply_parts`."""
        if not any(isinstance(part, FileRange) for part in parts):
            self.reply_payload(cast("Sequence[Buffer]", parts))
            return
        assert self.takes_files, "this transport sends no files"
        total = parts_bytes(parts)
        if total > PAYLOAD_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"reply payload of {total} bytes is too large")
        self.with_files = parts


def parts_bytes(parts: Sequence[Buffer | FileRange]) -> int:
    """How many bytes buffers (one dimension of bytes) and ranges of files have together."""
    return sum(part.size if isinstance(part, FileRange) else len(part) for part in parts)


def scatter(data: memoryview, buffers: Sequence[memoryview]) -> None:
    """Copies `data` over `buffers`, in order: for transports without a receive into memory.

    Raises FsError CORRUPT_FRAME unless they hold exactly as much as came.
    """
    if sum(len(buffer) for buffer in buffers) != len(data):
        raise FsError(Kind.CORRUPT_FRAME, "payload and receive buffers differ in size")
    position = 0
    for buffer in buffers:
        buffer[:] = data[position : position + len(buffer)]
        position += len(buffer)
