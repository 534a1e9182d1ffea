"""Framed protocol, server side: a thread per connection.

Layer: shell. A thread receives a request into its connection's one buffer, drives the handler
(whose ports block) to its end and sends the reply from the handler's own buffers. A connection
costs a thread and, idle, a buffer of 16 KiB.

Every wait has a bound: a peer must say hello within `hello_s`, finish a frame within `frame_s` of
its first byte, and take a reply within `frame_s`; it may stay idle between frames.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Sequence

import structlog

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer, FileRange
from luciole.rpc import at_once, bell, frame, stream
from luciole.rpc.dispatch import Endpoint, Endpoints, Services, failure
from luciole.rpc.interface import Arena, Memory, ServerCall, pages, parts_bytes
from luciole.rpc.rdma_device import Settings
from luciole.rpc.rdma_listen import Listeners
from luciole.rpc.rdma_server import ServerEnd
from luciole.rpc.rdma_table import Piece
from luciole.rpc.rdma_wire import fits
from luciole.rpc.ring_wire import RingWire
from luciole.rpc.shared import NUMBER, Shown
from luciole.rpc.wire import Address, BlockingWire, PassingWire, describe, tune
from luciole.runtime import drive

_log = structlog.get_logger(__name__)

_TICK_S = 4.0
_REFUSALS_MAX = 16  # connections beyond the limit that are told why, at a time
_LINGER_S = 1.0
_KILL_S = 1.0


class FramedServer:
    """Serves handlers on one address.

    Args:
        address: (host, port), port 0 for any free one, or the path of a Unix socket.
        services: pairs of a service and its handler.
        cluster_id: callers of another cluster are refused.
        name: of this server, for its peers' logs.
        kind: of this server: meta, storage, ...
        connections_max: more are refused with UNAVAILABLE.
        frame_s: seconds within which a frame must come or go once it has begun.
        hello_s: seconds within which a new peer must introduce itself.
        rdma: which device, for callers that ask for RDMA; None: they are refused, and stay on TCP.
        memory: where payloads are received; what other services are sent may have to lie in it.
    """

    def __init__(
        self,
        address: Address,
        services: Services,
        *,
        cluster_id: str,
        name: str,
        kind: str = "",
        connections_max: int = 4096,
        frame_s: float = 30.0,
        hello_s: float = 5.0,
        rdma: Settings | None = None,
        memory: Memory = pages,
    ) -> None:
        self.address = address
        self.cluster_id = cluster_id
        self.name = name
        self.connections_max = connections_max
        self.frame_s = frame_s
        self.hello_s = hello_s
        self.rdma = rdma
        self.rdma_listeners = Listeners()
        self.memory = memory
        self.endpoints = Endpoints(services)
        self.hello = frame.encode_hello(cluster_id, name, kind)
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._connections: set[_Connection] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def start(self) -> int:
        """Begins to serve; `self.address` then holds the bound one.

        Returns the port (0 for a Unix socket). Raises FsError CONFIG_INVALID if it is taken.
        """
        assert self._listener is None, "a server is started once"
        self._listener = _listen(self.address)
        port = 0
        if not isinstance(self.address, str):
            port = self._listener.getsockname()[1]
            self.address = (self.address[0], port)
        self._acceptor = threading.Thread(
            target=self._accept, name=f"accept {describe(self.address)}", daemon=True
        )
        self._acceptor.start()
        return port

    def stop(self, limit_s: float = 5.0) -> None:
        """Stops accepting, lets running handlers end within `limit_s`, closes the rest."""
        if self._listener is None or self._stopping.is_set():
            return
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        if self._acceptor is not None:
            self._acceptor.join(limit_s)
        self._listener.close()
        if isinstance(self.address, str) and not self.address.startswith("\0"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)
        # A peer that is idle or in the middle of a request reads as closed; a reply still goes out.
        self._hang_up(socket.SHUT_RD)
        if not self._wait_until_empty(limit_s):
            self._hang_up(socket.SHUT_RDWR)
            if not self._wait_until_empty(_KILL_S):
                _log.warning("handlers still run after stop", server=self.name,
                             connections=self.connection_count)  # fmt: skip
        self.rdma_listeners.close()

    @property
    def connection_count(self) -> int:
        """Connections that are open now."""
        with self._changed:
            return len(self._connections)

    def _hang_up(self, how: int) -> None:
        with self._changed:
            for connection in self._connections:
                connection.hang_up(how)

    def _wait_until_empty(self, limit_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._connections, limit_s)

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._stopping.is_set():
            try:
                peer_socket, peer = self._listener.accept()
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    _log.error("cannot accept a connection", server=self.name, error=str(error))
                    self._stopping.wait(0.1)
                elif error.errno == errno.EINVAL:
                    return  # shut down by stop()
                continue
            self._admit(peer_socket, f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix")

    def _admit(self, peer_socket: socket.socket, peer: str) -> None:
        with self._changed:
            refused = len(self._connections) - self.connections_max
            if self._stopping.is_set() or refused >= _REFUSALS_MAX:
                peer_socket.close()
                return
            connection = _Connection(self, peer_socket, peer, admitted=refused < 0)
            self._connections.add(connection)
        try:
            threading.Thread(target=connection.run, name=f"rpc {peer}", daemon=True).start()
        except RuntimeError as error:
            _log.error("cannot start a thread for a connection", peer=peer, error=str(error))
            self.forget(connection)
            peer_socket.close()

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()


class _Connection:
    """One peer and its thread."""

    def __init__(
        self, server: FramedServer, peer_socket: socket.socket, peer: str, admitted: bool
    ) -> None:
        self._server = server
        self._socket = peer_socket
        self._peer = peer
        self._admitted = admitted
        self._inbox = stream.Inbox(server.memory)
        self._arena = Arena(server.memory)
        self._shown = Shown()
        self._rdma: ServerEnd | None = None
        self._rings: RingWire | None = None

    def hang_up(self, how: int) -> None:
        """Makes the thread's next (or present) receive end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def run(self) -> None:
        """The thread: until the peer closes, breaks the protocol or stalls."""
        wire: BlockingWire | None = None
        try:
            tune(self._socket)
            local = self._socket.family == socket.AF_UNIX
            wire = (PassingWire if local else BlockingWire)(self._socket, _TICK_S)
            try:
                self._greet(wire)
                while self._serve_one(self._rings or (self._rdma.wire if self._rdma else wire)):
                    pass
            except FsError as error:
                if error.kind != Kind.CONNECTION_LOST:
                    _log.warning("connection refused", peer=self._peer, error=str(error))
                    self._say_goodbye(wire, error)
        except TimeoutError:
            _log.warning("a peer stalled in the middle of a frame", peer=self._peer)
        except OSError as error:
            _log.debug("connection broke", peer=self._peer, error=str(error))
        finally:
            if self._rdma is not None:
                self._rdma.close()
            for each in (wire, self._rings):
                if isinstance(each, PassingWire):
                    each.close()
            self._socket.close()
            self._shown = Shown()  # its memory is the caller's, who is gone
            self._server.forget(self)

    def _greet(self, wire: BlockingWire) -> None:
        deadline = time.monotonic() + self._server.hello_s
        first = wire.pull(stream.read_frame(self._inbox), deadline)
        if first is None:
            raise FsError(Kind.CONNECTION_LOST, "closed before hello")
        hello = frame.decode_hello(first.header, first.message)
        frame.check_cluster(self._server.cluster_id, hello.cluster_id)
        if not self._admitted:
            raise FsError(
                Kind.UNAVAILABLE,
                f"{self._server.name} has its limit of {self._server.connections_max} connections: "
                "use fewer clients or raise the limit",
            )
        self._peer = f"{self._peer} {hello.kind} {hello.name}"
        wire.send([self._server.hello], deadline)

    def _serve_one(self, wire: BlockingWire) -> bool:
        """Serves the next request; False when the peer has closed."""
        received = self._wait_for_request(wire, [self._inbox.head])
        began = time.monotonic()
        answer = self._answer_at_once(received, began)
        if answer:
            wire.send_parts(answer, time.monotonic() + self._server.frame_s)
            self._arena.reset()
            return True
        reader = stream.read_frame(self._inbox)
        next(reader)
        try:
            while True:
                wanted = reader.send(received)
                received = wire.receive(wanted, began + self._server.frame_s)
        except StopIteration as stop:
            request: stream.Frame | None = stop.value
        if request is None:
            return False
        buffers: Sequence[Buffer | FileRange]
        if isinstance(wire, PassingWire) and request.header.kind == frame.REGION:
            buffers = [self._take_region(wire.take_files())]
        elif isinstance(wire, PassingWire) and request.header.kind == frame.RINGS:
            buffers = [self._take_rings(wire.take_files())]
        elif request.header.kind == frame.QUEUE_PAIR:
            buffers = [self._take_queue_pair(request)]
        else:
            if self._rings is not None:
                self._rings.takes_time()
            buffers = self._answer(request, began)
        wire.send_parts(buffers, time.monotonic() + self._server.frame_s)
        self._inbox.shrink()
        self._arena.reset()
        return True

    def _answer_at_once(self, received: int, began: float) -> list[Buffer | FileRange]:
        """The answer to a small request that came whole; empty: it goes the ordinary way."""
        asked = at_once.asked(self._inbox.view, received) if self._rdma is None else None
        endpoint = self._server.endpoints.by_key.get(asked.method) if asked else None
        if asked is None or endpoint is None:
            return []
        if endpoint.at_once is None:
            if asked.table:
                return []
            if self._rings is not None:
                self._rings.takes_time()
            return self._answer_small(endpoint, asked, began)
        rooms: list[memoryview] = []
        if asked.table:
            room = self._shown.room(asked.table)
            if room is None:
                return []
            rooms.append(room)
        request_id = asked.request_id
        call = ServerCall(began + asked.deadline_ms / 1000, None, request_id,
                          rooms=rooms, arena=self._arena)
        try:
            message = endpoint.at_once(asked.message, call)
            length = frame.payload_bytes(call.response) if call.response else 0
        except Exception as error:
            return [frame.encode_error(
                request_id, failure(error, request_id, endpoint.method.path))]
        if message is None:
            return []
        head = frame.encode(
            frame.REPLY, message, request_id=request_id,
            payload_length=0 if call.in_place else length,
            flags=frame.SHARED if call.in_place else 0)  # fmt: skip
        return [head, *call.response] if length and not call.in_place else [head]

    def _answer_small(
        self, endpoint: Endpoint, asked: at_once.Asked, began: float
    ) -> list[Buffer | FileRange]:
        """As `_answer`, of a request without a payload or rooms."""
        request_id = asked.request_id
        call = ServerCall(began + asked.deadline_ms / 1000, None, request_id,
                          arena=self._arena, takes_files=True)
        try:
            request = endpoint.parse(asked.message)
            message = drive(endpoint.answer(request, call, began)).SerializeToString()
            frame.check_message_size(message, endpoint.method.path)
            parts = call.with_files or call.response
            if not parts:
                return [at_once.reply(request_id, message)]
            length = parts_bytes(parts)
        except Exception as error:
            return [frame.encode_error(
                request_id, failure(error, request_id, endpoint.method.path))]
        head = frame.encode(
            frame.REPLY, message, request_id=request_id, payload_length=length)
        return [head, *parts]

    def _take_queue_pair(self, request: stream.Frame) -> Buffer:
        """A caller's card, or what it asks, answered; or its first message, which goes back."""
        if self._rdma is not None:
            return frame.encode(frame.QUEUE_PAIR, request.message)
        try:
            if self._server.rdma is None:
                raise FsError(Kind.UNAVAILABLE, "the server does no RDMA here")
            end = ServerEnd(
                self._server.rdma, self._socket, request.message, _TICK_S, self._server.memory,
                listeners=self._server.rdma_listeners)
        except FsError as error:
            _log.info("RDMA refused", peer=self._peer, error=str(error))
            return frame.encode_error(0, error)
        self._rdma = end
        return frame.encode(frame.QUEUE_PAIR, end.answer)

    def _take_region(self, files: Sequence[int]) -> Buffer:
        try:
            number = self._shown.add(files)
        except FsError as error:
            _log.warning("region refused", peer=self._peer, error=str(error))
            return frame.encode_error(0, error)
        return frame.encode(frame.REPLY, NUMBER.pack(number))

    def _take_rings(self, files: Sequence[int]) -> Buffer:
        try:
            if self._rings is not None:
                for file in files:
                    os.close(file)
                raise FsError(Kind.INVALID_ARGUMENT, "one pair of rings is enough")
            end = bell.accept(files, self._socket)
        except FsError as error:
            _log.warning("rings refused", peer=self._peer, error=str(error))
            return frame.encode_error(0, error)
        self._rings = RingWire(self._socket, _TICK_S, end)
        return frame.encode(frame.REPLY, b"")

    def _wait_for_request(self, wire: BlockingWire, wanted: list[memoryview]) -> int:
        while True:
            try:
                return wire.receive(wanted, time.monotonic() + 2 * _TICK_S)
            except TimeoutError:
                self._inbox.shrink(stream.SMALL_BYTES)
                self._arena.reset(keep=0)
                if self._rdma is not None:
                    self._rdma.flush(time.monotonic() + self._server.frame_s)
                    self._rdma.arena.reset(keep=0)
                wanted[0] = self._inbox.head

    def _answer(self, request: stream.Frame, began: float) -> list[Buffer | FileRange]:
        header = request.header
        if header.kind != frame.REQUEST:
            raise frame.corrupt(f"expected a request, got a frame of kind {header.kind}")
        deadline = began + header.deadline_ms / 1000
        endpoint: Endpoint | None = None
        rdma = self._rdma
        wanted: list[Piece] = []
        landed = False
        if rdma is not None:
            rdma.flush(began + self._server.frame_s)
            rdma.arena.reset()
        try:
            payload: memoryview = request.payload
            rooms: list[memoryview] = []
            if header.flags and rdma is not None:
                payload, wanted = rdma.fetch(request.payload, deadline)
            elif header.flags:
                payload, rooms = self._shown.resolve(request.payload, self._arena)
            arena = rdma.arena if wanted and rdma is not None else self._arena
            call = ServerCall(deadline, payload, header.request_id, rooms=rooms, arena=arena,
                              takes_files=not rooms and rdma is None)  # fmt: skip
            endpoint = self._server.endpoints.find(header.service_id, header.method_id)
            parsed = endpoint.parse(request.message)
            reply = drive(endpoint.answer(parsed, call, time.monotonic()))
            message = reply.SerializeToString()
            frame.check_message_size(message, endpoint.method.path)
            if wanted and rdma is not None and call.response and fits(len(message), 0):
                landed = rdma.land(call.response, wanted, time.monotonic() + self._server.frame_s)
            parts = call.with_files
            if not parts and not (call.in_place or landed):
                parts = call.response
            length = parts_bytes(parts)
        except Exception as error:
            what = endpoint.method.path if endpoint is not None else ""
            return [frame.encode_error(header.request_id, failure(error, header.request_id, what))]
        head = frame.encode(
            frame.REPLY,
            message,
            request_id=header.request_id,
            payload_length=length,
            flags=frame.SHARED if call.in_place or landed else 0,
        )
        return [head, *parts] if length else [head]

    def _say_goodbye(self, wire: BlockingWire, error: FsError) -> None:
        """Says why and hangs up. What the peer still sends is read, or it would lose the answer."""
        deadline = time.monotonic() + _LINGER_S
        wire.send([frame.encode_error(0, error)], deadline)
        self.hang_up(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            while wire.receive([self._inbox.view], deadline):
                pass


def _listen(address: Address) -> socket.socket:
    """A listening socket. Raises FsError CONFIG_INVALID."""
    try:
        if not isinstance(address, str):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            return socket.create_server(address, family=family, backlog=512)
        if not address.startswith("\0"):  # an abstract name ends with its server
            _remove_stale(address)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(address)
            listener.listen(512)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            where = f"port {address[1]} of {address[0]}" if isinstance(address, tuple) else address
            advice = f"{where} is in use: stop the program that listens there or choose another"
        else:
            advice = f"cannot listen on {describe(address)}: {error.strerror or error}"
        raise FsError(Kind.CONFIG_INVALID, advice, describe(address)) from error


def _remove_stale(path: str) -> None:
    """Removes the socket file that a killed server left: nobody answers there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass
