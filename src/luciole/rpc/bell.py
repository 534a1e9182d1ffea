"""A pair of rings and its doorbell: how two processes on one machine exchange frames in memory.

Layer: shell around ring.py. The caller makes a sealed file with both rings and a pair of connected
sockets, the bell, and passes the file and one of the sockets over its connection, in a RINGS frame
of their own. A byte through the bell wakes whoever sleeps at the other end; it is sent only if that
one has said that it sleeps, and once for all that was put meanwhile.

The connection stays: its end is the end of the peer, and frames that do not fit into a ring travel
over it. So who sleeps waits for both, connection and bell.

Every sleep has a bound. A caller that waits for replies looks by itself after TICK_S, and rings
again while its requests have not been taken; thus a ring that was lost costs that much.

The bell is no eventfd: whether writing to one blocks is a property of the open file, which the peer
has, too. It could fill the counter up and stop a thread of the server for ever. A socket is
asked anew by every call (MSG_DONTWAIT). And should both ends of a bell be elsewhere, nothing is
lost but the peer's own time.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress

from luciole.errors import FsError, Kind
from luciole.rpc.memory import PAGE, SEALS, map_file
from luciole.rpc.ring import PAIR_BYTES, SOUND, Consumer, Producer, pair

TICK_S = 0.01
CLEAR_BYTES = 4096
FILES = 2  # that a RINGS frame brings


class Bell:
    """Our end: two rings, and when to wake the peer or to sleep. One thread at a time."""

    def __init__(
        self, memory: memoryview, bell: socket.socket, connection: socket.socket, *, calls: bool
    ) -> None:
        requests, replies = pair(memory)
        self.outgoing = Producer(requests if calls else replies)
        self.incoming = Consumer(replies if calls else requests)
        self._bell = bell
        self._connection = connection.fileno()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(bell, select.POLLIN)
        self._calls = calls
        self._unheard = False  # something was put since the peer was last looked at

    def put(self, record: bytes) -> bool:
        """As `Producer.put`. The peer may sleep over it until `ring`."""
        done = self.outgoing.put(record)
        self._unheard = self._unheard or done
        return done

    def ring(self) -> None:
        """Wakes the peer if it sleeps and was put something."""
        if self._unheard:
            self._unheard = False
            if self.outgoing.must_ring():
                self._wake()

    def wait(self, deadline: float) -> bool:
        """Sleeps until a record is there (False), or the connection has something (True).

        Raises TimeoutError at the deadline.
        """
        self.ring()
        while True:
            try:
                if not self.incoming.may_sleep():
                    return False
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError("deadline passed")
                limit = min(remaining, TICK_S) if self._calls else remaining
                ready = self._poll.poll(limit * 1000)
            finally:
                self.incoming.woke()
            if any(number == self._connection for number, _ in ready):
                return True
            if ready:
                self._clear()
            elif self._calls and self.outgoing.has_waiting():
                self._wake()

    def connection_waits(self) -> bool:
        """Whether the connection has something, at least its end."""
        return any(number == self._connection for number, _ in self._poll.poll(0))

    def _wake(self) -> None:
        with suppress(OSError):  # it is full, so the peer will wake; or gone: the connection tells
            self._bell.send(b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _clear(self) -> None:
        try:
            gone = not self._bell.recv(CLEAR_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if gone:
            raise ConnectionResetError("the peer hung up the bell")

    def close(self) -> None:
        """Gives the bell back; the memory goes with the last view of it."""
        self._bell.close()


def make(connection: socket.socket) -> tuple[Bell, list[int]]:
    """A caller's end, and the files for the peer, to be closed once sent. Raises OSError."""
    file = os.memfd_create("luciole-rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, PAIR_BYTES)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
        _, memory = map_file(file, PAIR_BYTES)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except BaseException:
        os.close(file)
        raise
    return Bell(memory, ours, connection, calls=True), [file, theirs.detach()]


def accept(files: Sequence[int], connection: socket.socket) -> Bell:
    """A server's end from the files that came, all of which are closed or used.

    Raises FsError INVALID_ARGUMENT.
    """
    left = list(files)
    try:
        if not SOUND:
            raise FsError(Kind.INVALID_ARGUMENT, "this processor or interpreter knows no rings")
        if len(files) != FILES:
            raise _refused(f"{FILES} files belong to a pair of rings; {len(files)} came")
        memory = _map(files[0])
        if not stat.S_ISSOCK(os.fstat(files[1]).st_mode):
            raise _refused("the bell is no socket")
        bell = socket.socket(fileno=left.pop())
        try:
            return Bell(memory, bell, connection, calls=False)
        except BaseException:
            bell.close()
            raise
    except OSError as failure:
        raise _refused(str(failure)) from failure
    finally:
        for file in left:
            os.close(file)


def _map(file: int) -> memoryview:
    facts = os.fstat(file)
    if fcntl.fcntl(file, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise _refused("their file could change its size: seal it first")
    if facts.st_size != PAIR_BYTES or facts.st_blksize != PAGE:
        raise _refused(f"their file has {facts.st_size} bytes, not {PAIR_BYTES} of ordinary pages")
    return map_file(file, PAIR_BYTES)[1]


def _refused(why: str) -> FsError:
    return FsError(Kind.INVALID_ARGUMENT, f"rings refused: {why}")
