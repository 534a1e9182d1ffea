"""Moving bytes: the two ways, blocking and under trio, and the addresses of both.

Layer: shell. Nothing here knows frames: a `Reader` of stream.py says where bytes go. A wire is
used by one thread or task at a time; after any exception its connection is to be closed.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import cast

import trio

from luciole.proto.services import Buffer, FileRange
from luciole.rpc.stream import BUFFERS_PER_CALL, Due, Reader, T, after

Address = tuple[str, int] | str  # (host, port), or the path of a Unix socket

_TIMEVAL = struct.Struct("@ll")
_TICK_MIN_S = 0.001
_LOW_MIN, _LOW_MAX = 64 * 1024, 512 * 1024
_FILE = struct.Struct("@i")
FILES_MAX = 2  # of one frame: of more, the kernel closes the rest
_FILES_ROOM = socket.CMSG_SPACE(FILES_MAX * _FILE.size)


def describe(address: Address) -> str:
    """An address for people."""
    # The name of an abstract Unix socket begins with a zero byte, which people write as @.
    if isinstance(address, str):
        return f"unix:{address}".replace("\0", "@")
    return f"{address[0]}:{address[1]}"


def tune(connection: socket.socket) -> None:
    """No delay for small frames; a peer whose machine has vanished is found within minutes."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


class Quiet:
    """Tells whether an idle connection is alive: nothing to read, not even its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def __call__(self) -> bool:
        """True if the peer has neither closed nor sent anything."""
        return not self._poll.poll(0)


class BlockingWire:
    """A socket of a thread.

    Python's own socket timeouts cost a poll before every transfer. The kernel's (SO_RCVTIMEO)
    cost nothing once set, so it is set to a tick; a transfer looks at its deadline after each.
    """

    def __init__(self, connection: socket.socket, tick_s: float = 1.0) -> None:
        connection.settimeout(None)
        self._socket = connection
        self._tick_max = tick_s
        self._tick = 0.0
        self._low = 1
        self._lowers = connection.family != socket.AF_UNIX
        self._set_tick(tick_s)

    def _set_tick(self, seconds: float) -> None:
        self._tick = seconds
        whole, fraction = divmod(max(seconds, _TICK_MIN_S), 1)
        timeval = _TIMEVAL.pack(int(whole), int(fraction * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _arm(self, deadline: float) -> None:
        """Makes the next system call end in time. Raises TimeoutError if it is too late."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("deadline passed")
        wanted = min(remaining, self._tick_max)
        if wanted < self._tick or wanted > 2 * self._tick:
            self._set_tick(wanted)

    def _wait_for(self, size: int) -> None:
        """How many bytes the next receive waits for, of `size` that are certain to come.

        Never more than half: the kernel hands out what is there first, and then wakes nobody
        before as many again have come (SO_RCVLOWAT). Until this is called again, nobody is told
        of fewer.
        """
        low = min(size // 2, _LOW_MAX)
        if low < _LOW_MIN:
            low = 1
        if low != self._low:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
            self._low = low

    def receive(self, views: list[memoryview], deadline: float) -> int:
        """Receives some bytes into `views`, in order; 0 when the peer closed.

        `deadline` is in monotonic seconds. Raises TimeoutError or OSError.
        """
        if self._lowers:
            self._wait_for(views.size if isinstance(views, Due) else 0)
        while True:
            self._arm(deadline)
            try:
                if len(views) == 1:
                    return self._socket.recv_into(views[0])
                return self._socket.recvmsg_into(views)[0]
            except BlockingIOError:
                continue

    def pull(self, reader: Reader[T], deadline: float, received: int = 0) -> T:
        """Drives a reader to its end; returns what it read.

        The buffers that it asks for first hold `received` bytes already.
        """
        try:
            wanted = next(reader)
            if received:
                wanted = reader.send(received)
            while True:
                wanted = reader.send(self.receive(wanted, deadline))
        except StopIteration as stop:
            self._wait_for(0)
            result: T = stop.value
            return result

    def send(self, buffers: Sequence[Buffer], deadline: float, flags: int = 0) -> None:
        """Sends all of `buffers`; `flags` as of send(2). Raises TimeoutError or OSError."""
        while buffers:
            self._arm(deadline)
            try:
                if len(buffers) == 1:
                    sent = self._socket.send(buffers[0], flags)
                    if sent == len(buffers[0]):
                        return
                else:
                    sent = self._socket.sendmsg(buffers[:BUFFERS_PER_CALL], (), flags)
            except BlockingIOError:
                continue
            buffers = after(buffers, sent)

    def send_parts(self, parts: Sequence[Buffer | FileRange], deadline: float) -> None:
        """Sends buffers, and ranges of files that this process does not look at.

        Raises TimeoutError or OSError, also if a file ends before its range does: what was
        announced cannot be kept then.
        """
        buffers: list[Buffer] = []
        if FileRange not in map(type, parts):
            self.send(cast("Sequence[Buffer]", parts), deadline)
            return
        for part in parts:
            if isinstance(part, FileRange):
                self.send(buffers, deadline, socket.MSG_MORE)  # leaves with what follows
                buffers = []
                self._send_range(part, deadline)
            else:
                buffers.append(part)
        self.send(buffers, deadline)

    def _send_range(self, part: FileRange, deadline: float) -> None:
        out, (file, position, size) = self._socket.fileno(), part
        end = position + size
        while position < end:
            self._arm(deadline)
            try:
                sent = os.sendfile(out, file, position, end - position)
            except BlockingIOError:
                continue
            if sent == 0:
                raise OSError(errno.EIO, f"a file to be sent ends {end - position} bytes early")
            position += sent

    def send_files(self, data: bytes, files: Sequence[int], deadline: float) -> None:
        """Sends a few bytes, and open files with them. Raises TimeoutError or OSError."""
        self._arm(deadline)
        if socket.send_fds(self._socket, [data], files) != len(data):
            raise TimeoutError("no room for a small frame")


class PassingWire(BlockingWire):
    """A Unix socket over which a peer may pass open files."""

    def __init__(self, connection: socket.socket, tick_s: float = 1.0) -> None:
        super().__init__(connection, tick_s)
        self._files: list[int] = []

    def receive(self, views: list[memoryview], deadline: float) -> int:
        """As `BlockingWire.receive`; what files came along is kept for `take_files`."""
        while True:
            self._arm(deadline)
            try:
                count, ancillary, _, _ = self._socket.recvmsg_into(
                    views, _FILES_ROOM, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                continue
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._files += [
                        number for (number,) in _FILE.iter_unpack(data[: len(data) & -4])
                    ]
            if len(self._files) > FILES_MAX:  # nobody asked for them
                PassingWire.close(self)
            return count

    def take_files(self) -> list[int]:
        """The files that came since the last call: the caller's to close."""
        files, self._files = self._files, []
        return files

    def close(self) -> None:
        """Closes the files that nobody took; the socket is its owner's."""
        for file in self.take_files():
            os.close(file)


class TrioWire:
    """A socket of a trio task. Deadlines are the caller's cancel scope.

    It goes to the socket first and to trio only when that would block: trio's own socket calls
    yield on every transfer, which costs more than the transfer.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection

    async def receive(self, views: list[memoryview]) -> int:
        """Receives some bytes into `views`, in order; 0 when the peer closed. Raises OSError."""
        while True:
            try:
                if len(views) == 1:
                    return self._socket.recv_into(views[0])
                return self._socket.recvmsg_into(views)[0]
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)

    async def pull(self, reader: Reader[T]) -> T:
        """Drives a reader to its end; returns what it read. Always a checkpoint."""
        try:
            wanted = next(reader)
            await trio.lowlevel.wait_readable(self._socket)
            while True:
                wanted = reader.send(await self.receive(wanted))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Sends all of `buffers`. Raises OSError."""
        while buffers:
            try:
                if len(buffers) == 1:
                    sent = self._socket.send(buffers[0])
                    if sent == len(buffers[0]):
                        return
                else:
                    sent = self._socket.sendmsg(buffers[:BUFFERS_PER_CALL])
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
                continue
            buffers = after(buffers, sent)
