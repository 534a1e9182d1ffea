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
- bulk bytes are received straight into the buffers that the caller's `sink` returns.

`Caller`, `Call` and the typed stubs are in luciole/proto/services.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
PAYLOAD_BYTES_MAX = 72 * 1024 * 1024
TIMEOUT_DEFAULT_S = 10.0
TIMEOUT_MAX_S = 600.0


class ServerCall:
    """The `Call` that bindings hand to handlers."""

    __slots__ = ("deadline", "payload", "request_id", "response")

    def __init__(
        self, deadline: float, payload: memoryview | None = None, request_id: int = 0
    ) -> None:
        self.deadline = deadline
        self.payload = payload if payload is not None else memoryview(b"")
        self.request_id = request_id
        self.response: Sequence[Buffer] = ()

    def reply_payload(self, buffers: Sequence[Buffer]) -> None:
        """Sends these buffers, end to end, behind the reply. They may be reused once sent."""
        total = sum(len(buffer) for buffer in buffers)
        if total > PAYLOAD_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"reply payload of {total} bytes is too large")
        self.response = buffers


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
