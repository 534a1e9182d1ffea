"""The server's half of connections that rdma_cm makes: a listener for each device's address.

Layer: shell. A caller that asks over TCP gets an invitation: address and port of the listener, and
a nonce. Who connects there and shows the nonce gets the queue pair that waits for it, once, and
within INVITED_S; everybody else is refused. A thread per listener takes what happens; nothing in it
waits but for the next event.

Invariants: the channel's guard guards what is invited and what is connected. An identifier ends
before its channel, and under the guard (`rdma_cm`).
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from typing import Any

import structlog

from luciole.errors import FsError, Kind
from luciole.rpc.rdma_cm import Channel, text
from luciole.rpc.rdma_device import Device
from luciole.rpc.rdma_queue import QueuePair
from luciole.rpc.rdma_table import NONCE_BYTES, Invitation

INVITED_S = 10.0  # longer than a caller takes for all of his set-up
BACKLOG = 64
_READS_IN = 1  # callers read nothing
# Where a port is sought: below those that systems give to connections that leave.
_PORT_FIRST, _PORTS = 20_000, 12_000
_TRIES = 16
_JOIN_S = 5.0  # nothing in the thread takes so long

_log = structlog.get_logger(__name__)


class Guest:
    """A queue pair whose caller is invited, or has come."""

    def __init__(self, listener: Listener, queue: QueuePair, reads: int) -> None:
        self.nonce = os.urandom(NONCE_BYTES)
        self.until = time.monotonic() + INVITED_S
        self.queue = queue
        self.reads = reads
        self.identifier: Any = None
        self._listener = listener

    def invitation(self) -> Invitation:
        """What its caller is told."""
        return Invitation(self._listener.port, self.nonce, self._listener.address)

    def close(self) -> None:
        """Nobody is let in any more, and who was is let go. Idempotent."""
        self._listener.forget(self)


class Listener:
    """Lets callers in at an address of a device. Raises FsError UNAVAILABLE."""

    def __init__(self, device: Device, address: str) -> None:
        self.address = address
        self.open = True
        self._device = device
        self._guests: dict[bytes, Guest] = {}
        self._channel = Channel()
        try:
            self._identifier, self.port = self._listen()
        except BaseException:
            self._channel.close()
            raise
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(
            target=self._run, name=f"rdma_cm {address}:{self.port}", daemon=True)
        self._thread.start()

    def _listen(self) -> tuple[Any, int]:
        """The library tells no port that the kernel chose, so one is sought."""
        reason = ""
        for _ in range(_TRIES):
            port = _PORT_FIRST + int.from_bytes(os.urandom(4), "little") % _PORTS
            identifier = self._channel.identifier()
            try:
                identifier.bind_addr(self._channel.library.place(self.address, port))
                name = text(identifier.dev_name)
                if name == self._device.name:
                    identifier.listen(BACKLOG)
                    return identifier, port
                reason = f"the address is of {name}"
            except Exception as failure:  # the library's: most likely the port is taken
                reason = str(failure)
            identifier.close()
        raise FsError(
            Kind.UNAVAILABLE,
            f"rdma_cm cannot listen at {self.address} on {self._device.name}: {reason}")

    def invite(self, queue: QueuePair, reads: int) -> Guest:
        """Lets the caller of a queue pair in, who bears so many reads at a time."""
        guest = Guest(self, queue, min(reads, self._device.reads))
        with self._channel.guard:
            if not self.open:
                raise FsError(Kind.UNAVAILABLE, "the server stops")
            self._guests[guest.nonce] = guest
        return guest

    def forget(self, guest: Guest) -> None:
        """As `Guest.close`."""
        with self._channel.guard:
            self._guests.pop(guest.nonce, None)
            identifier, guest.identifier = guest.identifier, None
            if identifier is not None:
                with suppress(Exception):  # a device that was pulled out has let go of it
                    identifier.close()

    def _run(self) -> None:
        poll = select.poll()
        for file in (self._channel.file, self._stopped):
            poll.register(file, select.POLLIN)
        try:
            while self._stopped not in [file for file, _ in poll.poll()]:
                with self._channel.guard:
                    self._take_one()
        except Exception as failure:
            _log.error("a listener of rdma_cm broke", device=self._device.name,
                       address=self.address, error=str(failure))  # fmt: skip
            self.open = False

    def _take_one(self) -> None:
        event = self._channel.take()
        if event is None:
            return  # it was of an identifier that has ended meanwhile
        library = self._channel.library
        nonce = b""
        try:
            if event.event_type != library.e.RDMA_CM_EVENT_CONNECT_REQUEST:
                return  # that a caller came, or left, is seen on his other connections
            identifier = library.cmid.CMID(creator=event, listen_id=self._identifier)
            with suppress(Exception):  # whatever a stranger sends, or does not
                # Of InfiniBand and RoCE it comes with zeros behind it.
                nonce = bytes(event.private_data or b"")[:NONCE_BYTES]
        finally:
            event.close()
        self._let_in(self._guests.get(nonce), identifier)

    def _let_in(self, guest: Guest | None, identifier: Any) -> None:
        reason = "it shows no nonce of an invitation"
        if guest is not None and guest.identifier is None and time.monotonic() < guest.until:
            try:
                guest.queue.begin(identifier)
                guest.queue.join(identifier, guest.reads)
                identifier.accept(self._channel.library.parameters(
                    guest.queue.number, _READS_IN, guest.reads))
                guest.identifier = identifier
                return
            except Exception as failure:  # the library's: this connection only
                reason = str(failure)
        _log.info("rdma_cm: a connection is refused", device=self._device.name, reason=reason)
        with suppress(Exception):
            identifier.reject()
        with suppress(Exception):
            identifier.close()

    def close(self) -> None:
        """Lets nobody in any more; who is in must have gone, or is let go. Idempotent."""
        with self._channel.guard:
            if self._stop < 0:
                return
            self.open = False
            stop, self._stop = self._stop, -1
        os.close(stop)  # which the other end of the pipe sees
        self._thread.join(_JOIN_S)
        with self._channel.guard:
            for guest in list(self._guests.values()):
                self.forget(guest)
            with suppress(Exception):
                self._identifier.close()
            self._channel.close()
        os.close(self._stopped)


class Listeners:
    """Those of one server, made when they are first asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[tuple[str, str], Listener] = {}
        self._closed = False

    def at(self, device: Device, address: str) -> Listener:
        """The one of a device's address. Raises FsError UNAVAILABLE."""
        with self._guard:
            if self._closed:
                raise FsError(Kind.UNAVAILABLE, "the server stops")
            known = self._open.get((device.name, address))
            if known is not None and known.open:
                return known
            if known is not None:
                known.close()
            made = self._open[device.name, address] = Listener(device, address)
            return made

    def close(self) -> None:
        """Closes all, for good."""
        with self._guard:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()
