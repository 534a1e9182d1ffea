"""In-process binding: the handler runs where the caller is, and still nothing is shared.

Layer: shell. Messages are serialised and parsed again, so that a caller and a handler cannot
change each other's; bulk bytes reach the handler as one read-only view and the caller by copy.

On a thread a handler cannot be left behind: an answer later than the deadline is turned into
DEADLINE_EXCEEDED once the handler has returned. Under trio the handler is cancelled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import trio

from luciole.clock import Clock, SystemClock
from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import frame
from luciole.rpc.dispatch import Endpoints, Services, failure
from luciole.rpc.interface import TIMEOUT_DEFAULT_S, ServerCall, scatter


class InProcessCaller:
    """Calls handlers of this process.

    Args:
        services: pairs of a service and its handler.
        clock: the handlers' clock, in which deadlines are given.
        timeout: seconds for calls that name none.
    """

    def __init__(
        self, services: Services, *, clock: Clock | None = None, timeout: float = TIMEOUT_DEFAULT_S
    ) -> None:
        self._endpoints = Endpoints(services)
        self._clock: Clock = clock or SystemClock()
        self._timeout = timeout
        self._ids = itertools.count(1)

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout: float | None = None,
        payload: Sequence[Buffer] = (),
        sink: Callable[[ReplyT], Sequence[memoryview]] | None = None,
        into: Sequence[memoryview] = (),
    ) -> ReplyT:
        """As `Caller.call`."""
        seconds = frame.call_seconds(timeout, self._timeout, method.path)
        message = request.SerializeToString()
        frame.check_message_size(message, method.path)
        frame.payload_bytes(payload)
        deadline = self._clock.now() + seconds
        call = ServerCall(deadline, memoryview(_join(payload)).toreadonly(), next(self._ids))
        answer: bytes | None = None
        with trio.move_on_after(seconds) if trio.lowlevel.in_trio_task() else nullcontext():
            answer = await self._serve(method, message, call)
        if answer is None or self._clock.now() > deadline:
            raise FsError(Kind.DEADLINE_EXCEEDED, f"no answer within {seconds:.3f} s", method.path)
        reply = method.reply.FromString(answer)
        data = _join(call.response)
        if sink is not None:
            scatter(memoryview(data), sink(reply))
        elif len(data):
            raise frame.corrupt(f"{len(data)} bytes of payload came unasked")
        return reply

    async def _serve(
        self, method: Method[RequestT, ReplyT], message: bytes, call: ServerCall
    ) -> bytes:
        """The serialised reply. Raises FsError as it would arrive from another machine."""
        try:
            endpoint = self._endpoints.find(method.service_id, method.method_id)
            parsed = endpoint.parse(message)
            reply = await endpoint.answer(parsed, call, self._clock.now())
            answer = reply.SerializeToString()
            frame.check_message_size(answer, method.path)
        except Exception as error:
            told = frame.portable(failure(error, call.request_id, method.path))
            raise FsError.from_proto(told) from error
        return answer


def _join(buffers: Sequence[Buffer]) -> Buffer:
    if len(buffers) == 1:
        return buffers[0]
    return b"".join(buffers)
