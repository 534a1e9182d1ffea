"""What a framed caller knows of its peer: idle connections, request ids, the meaning of errors.

Layer: shell, without I/O of its own beyond closing sockets. tcp_client.py moves the bytes.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import frame, stream
from luciole.rpc.wire import Address, Quiet, describe, tune

IDLE_MAX = 64
IDLE_AGE_MAX_S = 60.0

C = TypeVar("C", bound="Connection")


class Connection:
    """An established connection."""

    def __init__(self, connected: socket.socket) -> None:
        tune(connected)
        self._socket = connected
        self.inbox = stream.Inbox()
        self.is_quiet = Quiet(connected)
        self.idle_since = 0.0
        self.busy = True
        self.retired = False

    def close(self) -> None:
        """Closes it, whatever is on its way."""
        self._socket.close()

    def retire(self) -> None:
        """It is not to be used again. Takes no lock, since a finalizer may call it."""
        self.retired = True
        if not self.busy:
            self.sever()

    def sever(self) -> None:
        """Ends it under whoever uses it: the call that waits here fails now."""
        with suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)


class Outgoing(NamedTuple):
    """A request that is ready but for the time that is left to it."""

    method: Method  # type: ignore[type-arg]
    request_id: int
    message: bytes
    payload: Sequence[Buffer]
    payload_length: int

    def buffers(self, remaining: float, table: bytes = b"") -> list[Buffer]:
        """The frame of a request whose caller waits for `remaining` seconds.

        `table`, if not empty, goes in place of the payload and tells where its bytes lie.
        """
        head = frame.encode(
            frame.REQUEST,
            self.message,
            service_id=self.method.service_id,
            method_id=self.method.method_id,
            deadline_ms=frame.milliseconds(remaining),
            request_id=self.request_id,
            payload_length=len(table) or self.payload_length,
            flags=frame.SHARED if table else 0,
        )
        if table:
            return [head, table]
        return [head, *self.payload] if self.payload_length else [head]


class Peer(Generic[C]):
    """The other side as a caller sees it: idle connections, request ids, and what errors mean."""

    def __init__(
        self,
        address: Address,
        *,
        cluster_id: str,
        name: str,
        kind: str,
        timeout: float,
        idle_max: int,
    ) -> None:
        self.address = address
        self.hello = frame.encode_hello(cluster_id, name, kind)
        self._name = describe(address)
        self._timeout = timeout
        self._idle_max = idle_max
        self._idle: deque[C] = deque()  # the last used is at the right and used first
        self._busy: set[C] = set()
        self._guard = threading.Lock()
        self._closed = False
        # Ids of different callers differ in their first half: a server's log tells them apart.
        self._ids = itertools.count(int.from_bytes(os.urandom(4), "big") << 32)

    def __str__(self) -> str:
        return self._name

    def seconds(self, timeout: float | None) -> float:
        """The time a call may take. Raises FsError if there is none."""
        return frame.call_seconds(timeout, self._timeout, self._name)

    def prepare(
        self, method: Method[RequestT, ReplyT], request: RequestT, payload: Sequence[Buffer]
    ) -> Outgoing:
        """A request as bytes. Raises FsError INVALID_ARGUMENT if it is too large."""
        message = request.SerializeToString()
        frame.check_message_size(message, method.path)
        length = frame.payload_bytes(payload) if payload else 0
        return Outgoing(method, next(self._ids), message, payload, length)

    def take_unseen(self) -> C | None:
        """An idle connection, begun as by `begin`, or None.

        Unlike one of `take` it may have died meanwhile, if not of our own doing.
        """
        retired: list[C] = []
        found: C | None = None
        with self._guard:
            while self._idle and found is None:
                connection = self._idle.pop()
                if connection.retired:
                    retired.append(connection)
                    continue
                found = connection
                found.busy = True
                self._busy.add(found)
        for connection in retired:
            connection.close()
        return found

    def next_id(self) -> int:
        """The id of a new request."""
        return next(self._ids)

    def take(self) -> C | None:
        """An idle connection that is alive, begun as by `begin`, or None."""
        while (connection := self.take_unseen()) is not None:
            if connection.is_quiet():
                return connection
            self.discard(connection)
        return None

    def begin(self, connection: C) -> C:
        """A call goes over it from now on."""
        connection.busy = True
        with self._guard:
            self._busy.add(connection)
        return connection

    def discard(self, connection: C) -> None:
        """Closes a connection whose call failed."""
        with self._guard:
            # Whoever severs holds the guard, so never ends a socket that took this one's number.
            self._busy.discard(connection)
        connection.close()

    def give(self, connection: C) -> None:
        """Keeps a connection on which nothing is under way; closes what is idle for too long."""
        connection.inbox.shrink()
        now = connection.idle_since = time.monotonic()
        surplus: list[C] = []
        with self._guard:
            self._busy.discard(connection)
            connection.busy = False
            (surplus if connection.retired else self._idle).append(connection)
            limit = 0 if self._closed else self._idle_max
            while self._idle and (
                len(self._idle) > limit or self._idle[0].idle_since < now - IDLE_AGE_MAX_S
            ):
                surplus.append(self._idle.popleft())
        for old in surplus:
            old.close()

    def sever(self) -> None:
        """Breaks all connections: idle ones are closed, calls under way fail at once."""
        with self._guard:
            idle, self._idle = list(self._idle), deque()
            for connection in self._busy:
                connection.sever()
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Closes idle connections now, and others when their call ends."""
        with self._guard:
            self._closed = True
            idle, self._idle = list(self._idle), deque()
        for connection in idle:
            connection.close()

    def greeted(self, answer: stream.Frame | None) -> None:
        """Looks at the answer to hello. Raises FsError if the peer does not want us."""
        if answer is None:
            raise FsError(Kind.CONNECTION_LOST, "the peer hung up on hello")
        frame.decode_hello(answer.header, answer.message)

    def unreachable(self, error: Exception) -> FsError:
        """What a failure before the request means: nothing was sent."""
        if isinstance(error, FsError) and error.kind != Kind.CONNECTION_LOST:
            return FsError(error.kind, f"{self}: {error.message}", error.subject)
        detail = error.message if isinstance(error, FsError) else str(error) or "no answer in time"
        return FsError(Kind.UNAVAILABLE, f"cannot connect to {self}: {detail}", str(self))

    def broken(self, error: Exception, what: str, seconds: float) -> Exception:
        """What a failure after the request began to be sent means: it may have been applied."""
        if isinstance(error, FsError):
            return FsError(error.kind, f"{self}: {error.message}", error.subject or what)
        if isinstance(error, TimeoutError) and error.errno is None:
            return self.too_late(what, seconds)
        if isinstance(error, OSError):
            return FsError(Kind.CONNECTION_LOST, f"connection to {self} broke: {error}", what)
        return error

    def too_late(self, what: str, seconds: float) -> FsError:
        """The answer did not come in time."""
        return FsError(
            Kind.DEADLINE_EXCEEDED, f"{self} did not answer within {seconds:.3f} s", what
        )
