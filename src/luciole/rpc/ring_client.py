"""A caller over rings: many requests, one doorbell, answers in whatever order they come.

Layer: shell. For callers on the server's machine that have several things to ask at once: a request
then costs no system call, and one thread serves them one after another without being woken in
between. A call is all of its requests, and has its connection for itself, as with `BlockingCaller`,
whose meaning of errors this has, too. Connections are other ones than those for single calls:
waiting for two things costs a server more than waiting for one.

Requests and replies are the frames of any connection. What does not fit into a ring goes over the
socket: a reply at any time, a request when no other is under way.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, cast

from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import at_once, bell, frame, stream
from luciole.rpc.frame import HEADER_BYTES
from luciole.rpc.lending import Loan
from luciole.rpc.peer import Outgoing
from luciole.rpc.ring import RECORD_BYTES_MAX, SOUND
from luciole.rpc.tcp_client import LATE_S, BlockingCaller, BlockingConnection
from luciole.runtime import sent

_ID = slice(16, 24)  # of a header
_NOBODY = -1
_UNKNOWN = FsError(Kind.INTERNAL, "not answered")


@dataclass(frozen=True, slots=True)
class Ask(Generic[RequestT, ReplyT]):
    """One of several requests: arguments as of `Caller.call`."""

    request: RequestT
    payload: Sequence[Buffer] = ()
    sink: Callable[[ReplyT], Sequence[memoryview]] | None = None
    into: Sequence[memoryview] = ()


class _Going(NamedTuple):
    """A request with what it lends."""

    number: int  # of the requests of its call
    outgoing: Outgoing
    loan: Loan
    ask: Ask  # type: ignore[type-arg]

    def buffers(self, deadline: float) -> list[Buffer]:
        return self.outgoing.buffers(deadline - time.monotonic(), self.loan.table)


class RingConnection(BlockingConnection):
    """A connection over a Unix socket that has rings once they were set up."""

    bell: bell.Bell

    def set_up(self, deadline: float) -> None:
        """Shows the server a pair of rings. Raises FsError, OSError; it is to be closed then."""
        self.bell, files = bell.make(self._socket)
        try:
            self.wire.send_files(frame.encode(frame.RINGS, b""), files, deadline)
        finally:
            for file in files:
                os.close(file)
        answer = self.wire.pull(stream.read_frame(self.inbox), deadline)
        if answer is None:
            raise ConnectionResetError("the peer hung up on rings")
        if answer.header.kind == frame.ERROR:
            raise frame.decode_error(answer.message)

    def close(self) -> None:
        """As `BlockingConnection.close`."""
        super().close()
        if "bell" in self.__dict__:
            self.bell.close()


class RingCaller(BlockingCaller):
    """Calls one peer on this machine from any thread; its coroutines never suspend.

    Arguments as for `BlockingCaller`.
    """

    _made_of = RingConnection

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
        """As `Caller.call`. Blocks the thread."""
        (outcome,) = await self.call_many(
            method, [Ask(request, payload, sink, into)], timeout=timeout)
        if isinstance(outcome, FsError):
            raise outcome
        return outcome

    async def call_many(
        self,
        method: Method[RequestT, ReplyT],
        asks: Sequence[Ask[RequestT, ReplyT]],
        *,
        timeout: float | None = None,
    ) -> list[ReplyT | FsError]:
        """The replies to all requests, or the errors that were answered, in order.

        Raises FsError if the connection fails: any of them may have been applied then.

        Args:
            timeout: seconds for all together.
        """
        peer = self._peer
        seconds = peer.seconds(timeout)
        deadline = time.monotonic() + seconds
        ready = [peer.prepare(method, ask.request, ask.payload) for ask in asks]
        connection = peer.begin(peer.take() or self._connect(deadline))
        going: list[_Going] = []
        try:
            for number, (outgoing, ask) in enumerate(zip(ready, asks, strict=True)):
                loan = connection.lend(ask.payload, ask.into, deadline)
                going.append(_Going(number, outgoing, loan, ask))
            assert isinstance(connection, RingConnection)
            exchange = _Exchange(connection, going, deadline)
            exchange.send()
            await sent()
            if time.monotonic() > deadline:
                # Other calls were waited for meanwhile: replies that came in time are taken still.
                exchange.deadline = time.monotonic() + LATE_S
            outcomes = cast("list[ReplyT | FsError]", exchange.finish(method.reply))
        except BaseException as error:
            peer.discard(connection)
            for each in going:
                each.loan.take_back()
            if isinstance(error, Exception):
                raise peer.broken(error, method.path, seconds) from error
            raise
        peer.give(connection)
        return outcomes

    def _connect_plainly(self, deadline: float) -> BlockingConnection:
        if not SOUND:
            raise FsError(Kind.UNAVAILABLE, "no rings on this processor or interpreter: "
                          "call over the socket", str(self._peer))
        connection = super()._connect_plainly(deadline)
        assert isinstance(connection, RingConnection)
        try:
            connection.set_up(deadline)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | FsError):
                raise self._peer.unreachable(error) from error
            raise
        return connection


class _Exchange:
    """The requests of one call, and what was answered."""

    def __init__(
        self, connection: RingConnection, going: Sequence[_Going], deadline: float
    ) -> None:
        self.deadline = deadline
        self._connection = connection
        self._bell = connection.bell
        self._todo = deque(going)
        self._open: dict[int, _Going] = {}
        self._alone = False  # the one that is under way went over the socket
        self._outcomes: list[Message | FsError] = [_UNKNOWN] * len(going)

    def send(self) -> None:
        """Sends what there is room for, and rings once."""
        while self._todo and not self._alone:
            each = self._todo[0]
            buffers = each.buffers(self.deadline)
            record = buffers[0] if len(buffers) == 1 else b"".join(buffers)
            if len(record) > RECORD_BYTES_MAX:
                if self._open:
                    break
                self._alone = True
                self._connection.wire.send(buffers, self.deadline)
            elif not self._bell.put(bytes(record)):
                if not self._open:
                    raise frame.corrupt("the server takes nothing out of its ring")
                break
            self._open[each.outgoing.request_id] = self._todo.popleft()
        self._bell.ring()

    def finish(self, reply: type[Message]) -> list[Message | FsError]:
        """Waits for all replies."""
        while self._open:
            record = self._bell.incoming.take()
            by_socket = record is None and self._bell.wait(self.deadline)
            if by_socket:
                # The server may have answered and hung up: what it put first is there by now.
                record = self._bell.incoming.take()
            if record is not None:
                self._connection.inbox.view[: len(record)] = record
                self._take(reply, len(record), by_ring=True)
            elif by_socket:
                head = [self._connection.inbox.view[:HEADER_BYTES]]
                self._connection.receive_more(head, 0, HEADER_BYTES, self.deadline)
                self._take(reply, HEADER_BYTES, by_ring=False)
            if self._todo:
                self.send()
        return self._outcomes

    def _take(self, reply: type[Message], count: int, *, by_ring: bool) -> None:
        """Takes the answer whose first `count` bytes are in the inbox."""
        inbox = self._connection.inbox
        request_id = int.from_bytes(inbox.view[_ID], "little")
        each = self._open.get(request_id)
        shared = each is not None and bool(each.loan.rooms)
        message = at_once.answered(inbox.view, count, request_id, shared=True) if shared else None
        outcome: Message | FsError
        if message is not None:
            try:
                outcome = reply.FromString(message)
            except DecodeError as failure:
                raise frame.corrupt(f"{reply.__name__} cannot be decoded: {failure}") from failure
        else:
            # The answer to no request of ours is an error, perhaps why the server hangs up.
            reader = stream.read_reply(
                inbox, request_id if each is not None else _NOBODY, reply,
                each.ask.sink if each is not None else None, in_place=shared)
            outcome = self._drive(reader, count, by_ring)
        if each is not None:
            del self._open[request_id]
            self._alone = False
            self._outcomes[each.number] = outcome

    def _drive(
        self, reader: stream.Reader[Message | FsError], count: int, by_ring: bool
    ) -> Message | FsError:
        try:
            next(reader)
            wanted = reader.send(count)
            while True:
                if by_ring:
                    raise frame.corrupt("a record of the ring is no whole frame")
                # Replies follow each other on the socket: no byte of the next one is received.
                assert isinstance(wanted, stream.Due)
                wanted = reader.send(self._connection.wire.receive(
                    stream.first(wanted, wanted.size), self.deadline))
        except StopIteration as stop:
            outcome: Message | FsError = stop.value
            return outcome
