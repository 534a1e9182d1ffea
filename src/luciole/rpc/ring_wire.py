"""A server's connection with rings: requests come over either, and are answered where they came.

Layer: shell. To the thread of the connection it is a wire as any other. A record of a ring is one
whole frame. What does not fit into the ring of replies travels over the socket: the caller waits
for both. The bell is rung when nothing is left to take, and before a request that may take its
time.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import cast

from luciole.proto.services import Buffer, FileRange
from luciole.rpc.bell import Bell
from luciole.rpc.frame import corrupt
from luciole.rpc.ring import RECORD_BYTES_MAX
from luciole.rpc.wire import PassingWire

TAKEN_MAX = 64  # records in a row before the socket is looked at: the server may be stopping


class RingWire(PassingWire):
    """Args: as for `PassingWire`, and our end of the rings."""

    def __init__(self, connection: socket.socket, tick_s: float, bell: Bell) -> None:
        super().__init__(connection, tick_s)
        self._bell = bell
        self._taken = 0
        self._in_frame = False
        self.by_ring = False  # where the last request came from

    def receive(self, views: list[memoryview], deadline: float) -> int:
        """As `PassingWire.receive`, from both. Raises FsError CORRUPT_FRAME for bad rings."""
        if self._in_frame:
            if self.by_ring:
                raise corrupt("a record of the ring is no whole frame")
            return super().receive(views, deadline)
        while True:
            record = self._bell.incoming.take() if self._taken < TAKEN_MAX else None
            if record is not None:
                self._taken += 1
                self._in_frame = self.by_ring = True
                views[0][: len(record)] = record
                return len(record)
            full, self._taken = self._taken == TAKEN_MAX, 0
            if self._bell.connection_waits() if full else self._bell.wait(deadline):
                self._in_frame, self.by_ring = True, False
                return super().receive(views, deadline)

    def takes_time(self) -> None:
        """The request that came may be waited for, and what was answered before need not."""
        self._bell.ring()

    def send_parts(self, parts: Sequence[Buffer | FileRange], deadline: float) -> None:
        """As `BlockingWire.send_parts`, for an answer to what came last."""
        self._in_frame = False
        if self.by_ring and FileRange not in map(type, parts):
            buffers = cast("Sequence[Buffer]", parts)
            if sum(map(len, buffers)) <= RECORD_BYTES_MAX and self._bell.put(b"".join(buffers)):
                return
        self._bell.ring()
        super().send_parts(parts, deadline)

    def close(self) -> None:
        """Gives rings and bell back."""
        super().close()
        self._bell.close()
