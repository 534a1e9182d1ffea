"""The caller's half of a connection that rdma_cm makes.

Layer: shell. rdma_cm finds device, port, route and, over RoCE, the address (GID) by itself from two
IP addresses; iWARP devices are connected in no other way. The connection is named by what the
server invited with over TCP. Every step is one event, waited for until the deadline and no longer
than the server's TCP connection lives.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress

from luciole.errors import FsError, Kind
from luciole.rpc.rdma_cm import Channel, text
from luciole.rpc.rdma_device import Device
from luciole.rpc.rdma_queue import QueuePair
from luciole.rpc.rdma_table import Invitation

_NO_REQUEST = bytes(20)  # of the length of MPA's, and not begun as one (RFC 5044, 7.1)
_PORTS_TRIED = 16
READS_OUT = 1  # a caller reads nothing; none at all is more than some devices understand


class Route:
    """What rdma_cm keeps of a connection, from `connect` until `close`.

    Args:
        device: whose queue pair it is.
        source: this end's address.
        invitation: the server's.
        connected: the TCP connection to the server.
    """

    def __init__(
        self, device: Device, source: str, invitation: Invitation, connected: socket.socket
    ) -> None:
        self._device = device
        self._source = source
        self._invitation = invitation
        self._connected = connected.fileno()
        self._channel = Channel()
        try:
            self._identifier = self._channel.identifier()
        except BaseException:
            self._channel.close()
            raise

    def connect(self, queue: QueuePair, deadline: float) -> None:
        """Connects a managed queue pair. Raises FsError UNAVAILABLE."""
        try:
            self._connect(queue, deadline)
        except FsError:
            raise
        except TimeoutError as failure:
            raise self._failed("no answer in time; is the way there open?") from failure
        except Exception as failure:  # the library's, or the server's end
            raise self._failed(str(failure)) from failure

    def _connect(self, queue: QueuePair, deadline: float) -> None:
        e = self._channel.library.e
        self._resolve(deadline)
        if self._device.connects_in_call:
            self._see_an_answer(deadline)
        queue.begin(self._identifier)
        self._ask(queue, deadline)
        answer = self._await(
            {e.RDMA_CM_EVENT_CONNECT_RESPONSE, e.RDMA_CM_EVENT_ESTABLISHED}, deadline)
        if answer == e.RDMA_CM_EVENT_CONNECT_RESPONSE:  # else the device has done it all
            queue.join(self._identifier, READS_OUT)
            self._identifier.establish()

    def _resolve(self, deadline: float) -> None:
        library, identifier, there = self._channel.library, self._identifier, self._invitation
        identifier.resolve_addr(
            library.way(self._source, there.address, there.port), _left_ms(deadline))
        self._await({library.e.RDMA_CM_EVENT_ADDR_RESOLVED}, deadline)
        identifier.resolve_route(_left_ms(deadline))
        self._await({library.e.RDMA_CM_EVENT_ROUTE_RESOLVED}, deadline)
        name = text(identifier.dev_name)
        if name != self._device.name:
            raise self._failed(
                f"{self._source} is of {name}, not of {self._device.name}: set rdma_device")

    def _ask(self, queue: QueuePair, deadline: float) -> None:
        """Asks for the connection, from another port if one is taken.

        rdma_cm picks ports without a look at TCP's, among which Soft-iWARP then finds some taken.
        """
        parameters = self._channel.library.parameters(
            queue.number, self._device.reads, READS_OUT, self._invitation.nonce)
        for left in reversed(range(_PORTS_TRIED)):
            try:
                self._identifier.connect(parameters)
                return
            except Exception as failure:  # the library's
                if not left or getattr(failure, "error_code", 0) != errno.EADDRINUSE:
                    raise
            with self._channel.guard:
                self._identifier.close()
            self._identifier = self._channel.identifier()
            self._resolve(deadline)

    def _see_an_answer(self, deadline: float) -> None:
        """Waits until the listener's port answers, be it that nobody is there.

        Where nothing answers, the call that connects would stop the process for minutes. It asks in
        a way that makes the listener hang up: Soft-iWARP's takes a connection that closes before it
        was accepted for its own end, and is deaf from then on.
        """
        there = self._invitation.address, self._invitation.port
        seconds = _left_ms(deadline) / 1000
        with suppress(ConnectionRefusedError, ConnectionResetError), socket.create_connection(
                there, seconds, source_address=(self._source, 0)) as asking:
            asking.sendall(_NO_REQUEST)
            asking.recv(1)  # nothing: it hangs up

    def _await(self, wanted: set[int], deadline: float) -> int:
        event = self._channel.wait(deadline, self._connected)
        if event.kind not in wanted:
            refused = event.kind == self._channel.library.e.RDMA_CM_EVENT_REJECTED
            raise self._failed("it is refused there" if refused else event.text)
        return event.kind

    def _failed(self, what: str) -> FsError:
        there = f"{self._invitation.address} port {self._invitation.port}"
        return FsError(
            Kind.UNAVAILABLE, f"rdma_cm does not connect {self._source} to {there}: {what}")

    def close(self) -> None:
        """Ends it; the server's end is told. Idempotent."""
        with self._channel.guard, suppress(Exception):
            self._identifier.close()
        self._channel.close()


def _left_ms(deadline: float) -> int:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline passed")
    return int(left * 1000) + 1
