"""The server's half of RDMA: it moves the bytes that a request names, both ways.

Layer: shell. A connection's end has an arena that its card may reach and peers may not. Payloads
are read into it before the handler runs; the parts of a reply are written from it into the caller's
rooms before the reply leaves. What a client names is bounded before anything is allocated; that
the memory is his own, his card checks.

Invariants: of one process, at most QUEUE_PAIRS_MAX ends exist; the arena is not used again before
the card is done with it (`flush`).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from luciole.errors import FsError, Kind
from luciole.proto.services import Buffer
from luciole.rpc.interface import NO_PAYLOAD, Memory, pages
from luciole.rpc.memory import address_of
from luciole.rpc.rdma_device import Device, Settings, choose
from luciole.rpc.rdma_listen import Listeners
from luciole.rpc.rdma_memory import RegisteredArena
from luciole.rpc.rdma_queue import Bulk, QueuePair
from luciole.rpc.rdma_table import Piece, asked_reads, decode_card, decode_table
from luciole.rpc.rdma_wire import RdmaWire

QUEUE_PAIRS_MAX = 1024
_LINGER_S = 1.0
_guard = threading.Lock()
_ends = 0


class ServerEnd:
    """The server's end of an upgraded connection.

    Args:
        settings: which device.
        connected: the TCP connection.
        card: the caller's, as it came; or that he asks for an invitation.
        tick_s: of its wire.
        memory: where payloads are received.
        listeners: of the server, for callers who come by rdma_cm.

    Raises FsError UNAVAILABLE, NO_SPACE or CORRUPT_FRAME.
    """

    def __init__(
        self, settings: Settings, connected: socket.socket, card: bytes, tick_s: float,
        memory: Memory = pages, *, listeners: Listeners,
    ) -> None:
        reads = asked_reads(card)
        peer = None if reads else decode_card(card)
        local = connected.getsockname()
        address = str(local[0]) if isinstance(local, tuple) else ""
        device, source = choose(settings, address)
        _check_way(device, settings, managed=peer is None)
        _count(1)
        try:
            self._queue = QueuePair(
                device, source, connected, reachable=False, managed=peer is None)
        except BaseException:
            _count(-1)
            raise
        self.arena = RegisteredArena(device, remote=False, memory=memory)
        self._open = True
        try:
            if peer is not None:
                self._queue.connect(peer)
                self.answer = self._queue.card().encode()
            else:
                guest = listeners.at(device, source.ipv4 or address).invite(self._queue, reads)
                self._queue.keep(guest)
                self.answer = guest.invitation().encode()
        except BaseException:
            self.close(0.0)
            raise
        self.wire = RdmaWire(connected, self._queue, tick_s)

    def fetch(self, table: memoryview, deadline: float) -> tuple[memoryview, list[Piece]]:
        """A request's payload, read from the caller's memory, and its rooms.

        Raises FsError CORRUPT_FRAME, INVALID_ARGUMENT, NO_SPACE or CONNECTION_LOST.
        """
        pieces, rooms = decode_table(table)
        if not pieces:
            return NO_PAYLOAD, rooms
        payload = self.arena.take(sum(piece.length for piece in pieces))
        transfers = []
        position = 0
        for piece in pieces:
            if piece.length:
                part = payload[position : position + piece.length]
                transfers.append(self._bulk(part, piece))
                position += piece.length
        if transfers:
            try:
                self._queue.read(transfers, deadline)
            except OSError as failure:
                raise _lost(failure) from failure
        return payload.toreadonly(), rooms

    def land(self, parts: Sequence[Buffer], rooms: Sequence[Piece], deadline: float) -> bool:
        """Writes the parts of a reply into the caller's rooms, as its message leaves.

        False: they do not go there, and travel. Raises FsError NO_SPACE or CONNECTION_LOST.
        """
        if len(parts) != len(rooms):
            return False
        pairs = [(part, room) for part, room in zip(parts, rooms, strict=True) if len(part)]
        if any(len(part) > room.length for part, room in pairs):
            return False
        transfers = [self._bulk(part, room) for part, room in pairs]
        try:
            self._queue.write(transfers, deadline)
        except OSError as failure:
            raise _lost(failure) from failure
        return True

    def _bulk(self, part: Buffer, piece: Piece) -> Bulk:
        """A transfer between a part, or its copy in memory that the card reaches, and a piece."""
        view = memoryview(part).cast("B")
        size, address = len(view), address_of(view)
        known = self.arena.find(address, size)
        if known is None:
            copy = self.arena.take(size)
            copy[:] = view
            address = address_of(copy)
            known = self.arena.find(address, size)
            assert known is not None, "all bulk goes through the arena"
        return Bulk(address, size, known.local_key, piece.address, piece.key)

    def flush(self, deadline: float) -> None:
        """Waits until the arena may be used again. Raises TimeoutError or OSError."""
        self._queue.flush(deadline)

    def close(self, linger_s: float = _LINGER_S) -> None:
        """Ends it; a reply that is on its way gets a moment to arrive."""
        if self._open:
            self._open = False
            if linger_s:
                self._queue.linger(linger_s)
            self._queue.close()
            self.arena.close()
            _count(-1)


def _check_way(device: Device, settings: Settings, *, managed: bool) -> None:
    if managed and settings.setup == "tcp":
        raise FsError(
            Kind.UNAVAILABLE, "the server's configuration says rdma_setup = tcp: no rdma_cm")
    if device.iwarp and not managed:
        raise FsError(
            Kind.UNAVAILABLE,
            f"the server's {device.name} is an iWARP device, which only rdma_cm connects")


def _lost(failure: OSError) -> FsError:
    """A queue pair that broke is the end of its connection, and no fault of a handler."""
    return FsError(Kind.CONNECTION_LOST, f"the queue pair broke: {failure}")


def ends() -> int:
    """How many upgraded connections this process serves."""
    return _ends


def _count(change: int) -> None:
    global _ends  # noqa: PLW0603 - one bound for the process
    with _guard:
        if change > 0 and _ends + change > QUEUE_PAIRS_MAX:
            raise FsError(
                Kind.UNAVAILABLE, f"the server has its limit of {QUEUE_PAIRS_MAX} queue pairs"
            )
        _ends += change
