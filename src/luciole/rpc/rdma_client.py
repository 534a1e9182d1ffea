"""The caller's half of RDMA: upgrading a connection, and what a call lends to the server.

Layer: shell. After hello a caller may send a QUEUE_PAIR frame with its card; the server answers
with its own, and both connect. Or it asks for an invitation, and rdma_cm connects them
(`rdma_route`): the configuration or the device says which. Either way the caller sees a first
message go there and back before anything is trusted to the queue pair. A server that refuses is
still a framed peer over TCP.

What a call lends is reachable while its connection lives and the server keeps to the table; a call
that is given up closes its queue pair first, so that nothing late is written into memory that is
used again. Bytes that lie in no region go through memory of the connection. The bytes of a reply
have crossed a network, so they are verified here like those that came over TCP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer
from luciole.rpc import frame, stream
from luciole.rpc.interface import PAYLOAD_BYTES_MAX
from luciole.rpc.lending import NOTHING, Loan
from luciole.rpc.memory import address_of
from luciole.rpc.rdma_device import Device, Settings, choose
from luciole.rpc.rdma_memory import RegisteredArena, shareable
from luciole.rpc.rdma_queue import QueuePair
from luciole.rpc.rdma_route import Route
from luciole.rpc.rdma_table import (
    PIECES_MAX,
    Piece,
    decode_card,
    decode_invitation,
    encode_ask,
    encode_table,
)
from luciole.rpc.rdma_wire import SMALL_PAYLOAD_BYTES, RdmaWire
from luciole.rpc.wire import BlockingWire


class Upgradable(Protocol):
    """A connection that has said hello over TCP."""

    wire: BlockingWire
    inbox: stream.Inbox


class RdmaEnd:
    """The caller's end of an upgraded connection."""

    def __init__(self, device: Device, queue: QueuePair, managed: bool) -> None:
        self.managed = managed  # rdma_cm has connected it
        self._queue = queue
        self._shareable = shareable(device)
        self._arena = RegisteredArena(device, remote=True)

    def lend(self, payload: Sequence[Buffer], into: Sequence[memoryview]) -> Loan:
        """What the server may reach for one call."""
        self._arena.reset()
        try:
            if payload:
                pieces = self._pieces_of(payload)
                return Loan(encode_table(pieces, [])) if pieces else NOTHING
            return self._lend_rooms(into)
        except FsError:  # no more memory can be registered: the bytes travel over TCP
            return NOTHING

    def _pieces_of(self, payload: Sequence[Buffer]) -> list[Piece]:
        """Where the payload lies; empty: it is to go behind its message."""
        views = [memoryview(buffer).cast("B") for buffer in payload if len(buffer)]
        if sum(map(len, views)) <= SMALL_PAYLOAD_BYTES or len(views) > PIECES_MAX:
            return []
        pieces: list[Piece] = []
        for view in views:
            piece = self._shareable.piece(view)
            if piece is None:
                bounce = self._arena.take(len(view))
                bounce[:] = view
                piece = self._arena.piece(bounce)
            pieces.append(piece)
        return pieces

    def _lend_rooms(self, into: Sequence[memoryview]) -> Loan:
        size = sum(room.nbytes for room in into)
        if not into or len(into) > PIECES_MAX or size > PAYLOAD_BYTES_MAX:
            return NOTHING
        pieces: list[Piece] = []
        bounced: dict[int, memoryview] = {}
        for room in into:
            if not room.contiguous:
                return NOTHING
            piece = self._shareable.piece(room) if room.nbytes else Piece(0, 0, 0)
            if piece is None:
                if size <= SMALL_PAYLOAD_BYTES:
                    return NOTHING
                own = self._arena.take(room.nbytes)
                bounced[address_of(room)] = own
                piece = self._arena.piece(own)
            pieces.append(piece)

        def landed(buffers: Sequence[memoryview]) -> None:
            for buffer in buffers if bounced else ():
                own = bounced.get(address_of(buffer)) if buffer.nbytes else None
                if own is not None:
                    buffer[:] = own[: len(buffer)]

        return Loan(encode_table([], pieces), landed=landed)

    def close(self) -> None:
        """Ends it: the server reaches nothing any more."""
        self._queue.close()
        self._arena.close()


def local_ip(connected: socket.socket) -> str:
    """This end's address of a TCP connection."""
    name = connected.getsockname()
    return str(name[0]) if isinstance(name, tuple) else ""


def by_manager(device: Device, settings: Settings) -> bool:
    """Whether rdma_cm connects queue pairs of a device. Raises FsError UNAVAILABLE."""
    if device.iwarp and settings.setup == "tcp":
        raise FsError(
            Kind.UNAVAILABLE,
            f"only rdma_cm connects {device.name}, an iWARP device: set rdma_setup to auto")
    return device.iwarp or settings.setup == "cm"


def upgrade(
    connection: Upgradable, connected: socket.socket, settings: Settings, deadline: float
) -> RdmaEnd:
    """Takes a connection from TCP to RDMA; its wire then is another.

    Raises FsError UNAVAILABLE, with the reason; or TimeoutError or OSError.
    """
    device, source = choose(settings, local_ip(connected))
    managed = by_manager(device, settings)
    queue = QueuePair(device, source, connected, reachable=True, managed=managed)
    try:
        ask = encode_ask(device.reads) if managed else queue.card().encode()
        connection.wire.send([frame.encode(frame.QUEUE_PAIR, ask)], deadline)
        answer = _answer(connection, deadline)
        if managed:
            route = Route(
                device, source.ipv4 or local_ip(connected), decode_invitation(answer), connected)
            queue.keep(route)
            route.connect(queue, deadline)
        else:
            queue.connect(decode_card(answer))
        wire = RdmaWire(connected, queue)
        connection.wire = wire
        proof = os.urandom(8)
        try:
            # Of a fabric that carries nothing the card tells, or the peer's; a slow peer is none.
            wire.send([frame.encode(frame.QUEUE_PAIR, proof)], deadline)
            if _answer(connection, deadline) != proof:
                raise frame.corrupt("the first message over a queue pair came back changed")
        except (OSError, TimeoutError) as failure:
            raise FsError(
                Kind.UNAVAILABLE, f"nothing goes over the queue pair from {source}: {failure}"
            ) from failure
    except BaseException:
        queue.close()
        raise
    return RdmaEnd(device, queue, managed)


def _answer(connection: Upgradable, deadline: float) -> bytes:
    answer = connection.wire.pull(stream.read_frame(connection.inbox), deadline)
    if answer is None:
        raise FsError(
            Kind.UNAVAILABLE, "the peer hung up on a queue pair: it may be of an older version"
        )
    if answer.header.kind == frame.ERROR:
        raise frame.decode_error(answer.message)
    return answer.message


Upgrade = Callable[[Upgradable, socket.socket, float], RdmaEnd]
