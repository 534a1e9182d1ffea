"""Framed protocol, client side: one design, blocking and under trio.

Layer: shell. A caller keeps idle connections to one peer; a call takes one (or makes one), has it
for itself and gives it back. Whatever breaks a call closes its connection: no later call can
read the rest of another's reply. `Peer` is everything that needs no I/O; the two callers only
move bytes.

What an error says of the request: UNAVAILABLE, it was not sent; CONNECTION_LOST, CORRUPT_FRAME
and DEADLINE_EXCEEDED, it may have been applied. A connection that died while idle is replaced
before anything is sent, so that a restarted server costs its callers nothing.
"""

from __future__ import annotations

import socket
import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
import trio
from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import at_once, frame, stream
from luciole.rpc.interface import TIMEOUT_DEFAULT_S
from luciole.rpc.lending import NOTHING, Lender, Loan
from luciole.rpc.memory import Region
from luciole.rpc.peer import IDLE_MAX, Connection, Peer
from luciole.rpc.rdma_client import RdmaEnd, upgrade
from luciole.rpc.rdma_device import Settings, devices
from luciole.rpc.shared import NUMBER
from luciole.rpc.wire import Address, BlockingWire, TrioWire
from luciole.runtime import sent

# Part of the pause when a peer is cut off: a call may begin to connect just before it is known.
CONNECT_TIMEOUT_S = 1.0
UPGRADE_TIMEOUT_S = 4.0  # a peer so slow is one for RDMA still; a card fails sooner
LATE_S = 0.01
FETCH_BYTES_MAX = 64 * 1024  # of one `fetch`, if they travel

_log = structlog.get_logger(__name__)


class Fetched(NamedTuple):
    """What `BlockingCaller.fetch` was answered. `message`: None for no reply to that request."""

    message: bytes | FsError | None
    in_place: bool


class BlockingConnection(Connection):
    """A connection of a thread."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.wire: BlockingWire = BlockingWire(connected)
        self._until = 0.0
        self._lent = False  # the server knows the room of the last `fetch`
        self._lender: Lender | None = None
        self.rdma: RdmaEnd | None = None
        if connected.family == socket.AF_UNIX:
            self._lender = Lender(self._show, _weakly(self))

    def lend(self, payload: Sequence[Buffer], into: Sequence[memoryview], deadline: float) -> Loan:
        """What of these the peer may reach: nothing over TCP alone."""
        if not (payload or into):
            return NOTHING
        if self.rdma is not None:
            return self.rdma.lend(payload, into)
        if self._lender is None:
            return NOTHING
        self._until = deadline
        return self._lender.lend(payload, into)

    def fetch(
        self, request: at_once.Request, reply: type[Message], room: memoryview, reply_bytes: int,
        deadline: float,
    ) -> Fetched | None:
        """As `BlockingCaller.fetch`; None: it is nothing for this connection."""
        if self.rdma is not None:
            return None
        request_id = request.request_id
        if self._lender is None:
            if len(room) > FETCH_BYTES_MAX:
                return None
            self.wire.send([at_once.encode(request)], deadline)
            return Fetched(self._take_behind(request_id, room, reply_bytes, deadline), False)
        self._until = deadline
        self._lent = False
        place = self._lender.lend_room(room)
        if place is None:
            return None
        table = at_once.room_table(*place, len(room))
        self.wire.send([at_once.encode(request, table)], deadline)
        self._lent = True
        view = self.inbox.view
        count = self.receive_more([view], 0, 1, deadline)
        message = at_once.answered(view, count, request_id, shared=True)
        if message is not None:
            return Fetched(message, True)
        reader = stream.read_reply(self.inbox, request_id, reply, None, in_place=True)
        outcome = self.wire.pull(reader, deadline, count)
        if isinstance(outcome, FsError):
            return Fetched(outcome, True)
        return Fetched(outcome.SerializeToString(), True)

    def take_small(
        self, request_id: int, reply: type[ReplyT], deadline: float
    ) -> ReplyT | FsError:
        """The reply to a request that wants no bytes beside the message; or the peer's error."""
        count = 0
        if self.rdma is None:
            view = self.inbox.view
            count = self.wire.receive([view], deadline)
            message = at_once.answered(view, count, request_id, shared=False)
            if message is not None and count == frame.HEADER_BYTES + len(message):
                try:
                    return reply.FromString(message)
                except DecodeError as failure:
                    raise frame.corrupt(
                        f"{reply.__name__} cannot be decoded: {failure}") from failure
        # Whatever else it is, or if it has not come whole.
        return self.wire.pull(
            stream.read_reply(self.inbox, request_id, reply, None), deadline, count)

    def take_back(self, room: memoryview) -> None:
        """A `fetch` failed: what the server still writes into its room is to go nowhere."""
        if self._lent:  # else no server knows of it, as of one that died before
            Loan(rooms=[room]).take_back()

    def _take_behind(
        self, request_id: int, room: memoryview, reply_bytes: int, deadline: float
    ) -> bytes | None:
        """The message of a reply whose bytes follow it, which go into `room`; None: of another."""
        head = self.inbox.view[: frame.HEADER_BYTES + reply_bytes]
        count = self.receive_more([head, room], 0, len(head), deadline)
        message_length, payload_length = at_once.expected(head)
        if message_length != reply_bytes or payload_length > len(room):
            return None
        rest = [head, room[:payload_length]]
        count = self.receive_more(rest, count, len(head) + payload_length, deadline)
        return at_once.answered(head, count, request_id, shared=False)

    def receive_more(
        self, views: list[memoryview], count: int, wanted: int, deadline: float
    ) -> int:
        """Fills `views`, which hold `count` bytes, with at least `wanted`; returns how many."""
        while count < wanted:
            step = self.wire.receive(stream.after(views, count) if count else views, deadline)
            if not step:
                raise ConnectionResetError("the peer hung up")
            count += step
        return count

    def upgrade(self, settings: Settings, deadline: float) -> None:
        """From TCP to RDMA. Raises FsError or OSError; it is to be closed then."""
        self.rdma = upgrade(self, self._socket, settings, deadline)

    def close(self) -> None:
        """As `Connection.close`. The peer's card reaches no memory of ours when it returns."""
        if self.rdma is not None:
            self.rdma.close()
        super().close()

    def _show(self, region: Region) -> int:
        self.wire.send_files(frame.encode(frame.REGION, b""), [region.file], self._until)
        answer = self.wire.pull(stream.read_frame(self.inbox), self._until)
        if answer is None:
            raise ConnectionResetError("the peer hung up on a region")
        if answer.header.kind == frame.ERROR:
            raise frame.decode_error(answer.message)
        number: int = NUMBER.unpack(answer.message)[0]
        return number


def _weakly(connection: BlockingConnection) -> Callable[[], None]:
    """Retires a connection that is still there."""
    reference = weakref.ref(connection)

    def retire() -> None:
        found = reference()
        if found is not None:
            found.retire()

    return retire


class _TrioConnection(Connection):
    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.wire = TrioWire(connected)


class BlockingCaller:
    """Calls one peer from any thread; its coroutines never suspend (runtime.drive).

    Args:
        address: of the peer.
        cluster_id: the peer must be of this cluster.
        name, kind: of the caller, for the peer's logs.
        timeout: seconds for calls that name none.
        idle_max: idle connections that are kept.
        rdma: which device to try; None: none. A connection that cannot have it is one over TCP.
    """

    _made_of: type[BlockingConnection] = BlockingConnection

    def __init__(
        self,
        address: Address,
        *,
        cluster_id: str,
        name: str = "",
        kind: str = "client",
        timeout: float = TIMEOUT_DEFAULT_S,
        idle_max: int = IDLE_MAX,
        rdma: Settings | None = None,
    ) -> None:
        self._rdma = rdma
        self._fell_back = False
        self.managed = False  # rdma_cm has made the last connection
        self._peer: Peer[BlockingConnection] = Peer(
            address,
            cluster_id=cluster_id,
            name=name,
            kind=kind,
            timeout=timeout,
            idle_max=idle_max,
        )

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
        if sink is None and not payload and not into:
            return await self._call_small(method, request, timeout)
        peer = self._peer
        seconds = peer.seconds(timeout)
        deadline = time.monotonic() + seconds
        outgoing = peer.prepare(method, request, payload)
        connection = peer.take() or peer.begin(self._connect(deadline))
        loan = NOTHING
        try:
            loan = connection.lend(payload, into, deadline)
            request_frame = outgoing.buffers(deadline - time.monotonic(), loan.table)
            connection.wire.send(request_frame, deadline)
            await sent()
            if time.monotonic() > deadline:
                # Other calls were waited for meanwhile: a reply that came in time is taken still.
                deadline = time.monotonic() + LATE_S
            reader = stream.read_reply(
                connection.inbox,
                outgoing.request_id,
                method.reply,
                sink,
                in_place=bool(loan.rooms) or loan.landed is not None,
                landed=loan.landed,
            )
            outcome = connection.wire.pull(reader, deadline)
        except BaseException as error:
            peer.discard(connection)
            loan.take_back()
            if isinstance(error, Exception):
                raise peer.broken(error, method.path, seconds) from error
            raise
        peer.give(connection)
        if isinstance(outcome, FsError):
            raise outcome
        return outcome

    async def _call_small(
        self, method: Method[RequestT, ReplyT], request: RequestT, timeout: float | None
    ) -> ReplyT:
        """As `call`, in few steps: a message there, a message back."""
        peer = self._peer
        seconds = peer.seconds(timeout)
        deadline = time.monotonic() + seconds
        message = request.SerializeToString()
        frame.check_message_size(message, method.path)
        connection = peer.take() or peer.begin(self._connect(deadline))
        try:
            request_id = peer.next_id()
            connection.wire.send([at_once.encode(at_once.Request(
                method.service_id, method.method_id,
                frame.milliseconds(deadline - time.monotonic()), request_id, message))], deadline)
            await sent()
            now = time.monotonic()
            if now > deadline:  # as in `call`
                deadline = now + LATE_S
            outcome = connection.take_small(request_id, method.reply, deadline)
        except BaseException as error:
            peer.discard(connection)
            if isinstance(error, Exception):
                raise peer.broken(error, method.path, seconds) from error
            raise
        peer.give(connection)
        if isinstance(outcome, FsError):
            raise outcome
        return outcome

    def fetch(
        self, method: Method[RequestT, ReplyT], message: bytes, room: memoryview,
        reply_bytes: int, timeout: float,
    ) -> Fetched | None:
        """A call whose reply fills one room, in few steps. Blocks the thread.

        It is for what may be asked twice: whatever is not as it mostly is (None: the peer is not
        connected, the room cannot be lent; FsError: the connection broke, or the answer is no
        such reply) is to be asked by `call`, which also tells a dead connection beforehand.

        Args:
            message: the serialised request.
            room: for all bytes of the reply, not empty.
            reply_bytes: size of the serialised reply if its bytes travel.

        Returns the serialised reply, and whether its bytes were put in place, where the server has
        verified them.
        """
        peer = self._peer
        connection = peer.take_unseen()
        if connection is None:
            return None
        try:
            found = connection.fetch(
                at_once.Request(method.service_id, method.method_id, frame.milliseconds(timeout),
                                peer.next_id(), message),
                method.reply, room, reply_bytes, time.monotonic() + timeout)
            if found is not None and found.message is None:
                raise frame.corrupt("no such reply")
        except BaseException as error:
            peer.discard(connection)
            connection.take_back(room)
            if isinstance(error, Exception):
                raise peer.broken(error, method.path, timeout) from error
            raise
        peer.give(connection)
        if found is not None and isinstance(found.message, FsError):
            raise found.message
        return found

    def __str__(self) -> str:
        return str(self._peer)

    def probe(self) -> None:
        """Connects, and keeps the connection for a call. Raises FsError; also if RDMA fails."""
        peer = self._peer
        if self._rdma is not None:
            devices(self._rdma.device)  # without one there is no need to connect
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        connection = self._connect_plainly(deadline)
        if self._rdma is not None:
            self._upgrade(connection, self._rdma, deadline + UPGRADE_TIMEOUT_S)
        peer.give(peer.begin(connection))

    def _connect(self, deadline: float) -> BlockingConnection:
        connection = self._connect_plainly(deadline)
        if self._rdma is None:
            return connection
        try:
            self._upgrade(
                connection, self._rdma, min(deadline, time.monotonic() + UPGRADE_TIMEOUT_S))
        except FsError as failure:
            if not self._fell_back:
                self._fell_back = True
                _log.warning("RDMA failed, going on over TCP", peer=str(self._peer),
                             reason=failure.message)  # fmt: skip
            return self._connect_plainly(deadline)
        return connection

    def _upgrade(
        self, connection: BlockingConnection, settings: Settings, deadline: float
    ) -> None:
        """Makes it one over RDMA, or closes it and raises FsError UNAVAILABLE."""
        try:
            connection.upgrade(settings, deadline)
            self.managed = connection.rdma is not None and connection.rdma.managed
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | FsError):
                detail = error.message if isinstance(error, FsError) else str(error)
                raise FsError(Kind.UNAVAILABLE, f"no RDMA: {detail}", str(self._peer)) from error
            raise

    def _connect_plainly(self, deadline: float) -> BlockingConnection:
        address = self._peer.address
        limit = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
        connection = None
        try:
            seconds = max(limit - time.monotonic(), 0.001)
            if isinstance(address, str):
                connected = socket.socket(socket.AF_UNIX)
                connection = self._made_of(connected)
                connected.settimeout(seconds)
                connected.connect(address)
                connected.settimeout(None)
            else:
                connection = self._made_of(socket.create_connection(address, seconds))
            connection.wire.send([self._peer.hello], limit)
            self._peer.greeted(connection.wire.pull(stream.read_frame(connection.inbox), limit))
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, OSError | FsError):
                raise self._peer.unreachable(error) from error
            raise
        return connection

    def sever(self) -> None:
        """Makes calls under way fail now (CONNECTION_LOST): the peer is known to be dead."""
        self._peer.sever()

    def close(self) -> None:
        """Closes idle connections now, and others when their call ends."""
        self._peer.close()


class TrioCaller:
    """Calls one peer from trio tasks. Cancelling a call closes its connection.

    Arguments as for `BlockingCaller`.
    """

    def __init__(
        self,
        address: Address,
        *,
        cluster_id: str,
        name: str = "",
        kind: str = "client",
        timeout: float = TIMEOUT_DEFAULT_S,
        idle_max: int = IDLE_MAX,
    ) -> None:
        self._peer: Peer[_TrioConnection] = Peer(
            address,
            cluster_id=cluster_id,
            name=name,
            kind=kind,
            timeout=timeout,
            idle_max=idle_max,
        )

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
        """As `Caller.call`. Suspends the task."""
        peer = self._peer
        seconds = peer.seconds(timeout)
        outgoing = peer.prepare(method, request, payload)
        outcome: ReplyT | FsError | None = None
        with trio.move_on_after(seconds) as scope:
            connection = peer.begin(peer.take() or await self._connect())
            try:
                remaining = scope.deadline - trio.current_time()
                await connection.wire.send(outgoing.buffers(remaining))
                reader = stream.read_reply(
                    connection.inbox, outgoing.request_id, method.reply, sink
                )
                outcome = await connection.wire.pull(reader)
            except BaseException as error:
                peer.discard(connection)
                if isinstance(error, Exception):
                    raise peer.broken(error, method.path, seconds) from error
                raise
            peer.give(connection)
        if outcome is None:
            raise peer.too_late(method.path, seconds)
        if isinstance(outcome, FsError):
            raise outcome
        return outcome

    async def _connect(self) -> _TrioConnection:
        """Raises FsError UNAVAILABLE if it takes longer than CONNECT_TIMEOUT_S."""
        address = self._peer.address
        connection = None
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                if isinstance(address, str):
                    connected = await trio.open_unix_socket(address)
                else:
                    connected = await trio.open_tcp_stream(*address)
                connection = _TrioConnection(socket.socket(fileno=connected.socket.detach()))
                await connection.wire.send([self._peer.hello])
                reader = stream.read_frame(connection.inbox)
                self._peer.greeted(await connection.wire.pull(reader))
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, OSError | FsError | trio.TooSlowError):
                raise self._peer.unreachable(error) from error
            raise
        return connection

    def sever(self) -> None:
        """Makes calls under way fail now (CONNECTION_LOST): the peer is known to be dead."""
        self._peer.sever()

    def close(self) -> None:
        """Closes idle connections now, and others when their call ends."""
        self._peer.close()
