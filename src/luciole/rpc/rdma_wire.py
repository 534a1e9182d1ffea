"""A framed connection whose small frames go over a queue pair, and the rest over TCP.

Layer: shell. Readers of stream.py do not see the difference: a frame comes whole by one of the two
ways, and one frame is under way in each direction, so there is no order to confuse.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from luciole.proto.services import Buffer
from luciole.rpc.frame import HEADER_BYTES
from luciole.rpc.rdma_queue import FRAME_BYTES, QueuePair
from luciole.rpc.wire import BlockingWire

SMALL_PAYLOAD_BYTES = 8 * 1024  # goes behind its message: one message is quicker than a transfer


def fits(message: int, rest: int) -> bool:
    """Whether a frame of these many bytes behind its header goes over a queue pair."""
    return HEADER_BYTES + message + rest <= FRAME_BYTES


class RdmaWire(BlockingWire):
    """A connected queue pair and the TCP connection that it was set up over."""

    def __init__(self, connection: socket.socket, queue: QueuePair, tick_s: float = 1.0) -> None:
        super().__init__(connection, tick_s)
        self._queue = queue

    def receive(self, views: list[memoryview], deadline: float) -> int:
        """As `BlockingWire.receive`. A message comes whole: readers have room for it."""
        if not self._queue.wait(deadline):
            return super().receive(list(views), deadline)  # the queue's wait looks at both
        message = self._queue.take()
        position = 0
        for view in views:
            piece = message[position : position + len(view)]
            view[: len(piece)] = piece
            position += len(piece)
        if position < len(message):
            raise ConnectionAbortedError("a message came that nobody waits for")
        self._queue.give_back()
        return position

    def send(self, buffers: Sequence[Buffer], deadline: float, flags: int = 0) -> None:
        """As `BlockingWire.send`."""
        size = 0
        for buffer in buffers:
            size += len(buffer)
        if size <= FRAME_BYTES:
            self._queue.send(buffers, deadline)
        else:
            self._queue.flush(deadline)
            super().send(buffers, deadline, flags)
