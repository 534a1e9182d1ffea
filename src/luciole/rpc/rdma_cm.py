"""rdma_cm, the kernel's connection manager of RDMA, as pyverbs has it.

Layer: shell; the only module that knows `pyverbs.cmid`. pyverbs holds the interpreter's lock in
every call, so one that waited in the kernel would stop the whole process, and no thread of its own
could help. So every identifier belongs to a `Channel`, where what it began is reported as an event;
the channel's descriptor is polled, with a bound, and an event is taken when it is there.

Invariants: `Channel.guard` is held from where an event is taken to where it is acknowledged, and
while an identifier is ended: ending one waits for the acknowledgement of its events. One lock
guards the making of channels, whose descriptors would be told wrongly otherwise.
"""

from __future__ import annotations

import importlib
import os
import select
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from luciole.errors import FsError, Kind

_FILE = "/infiniband/rdma_cm"
_making = threading.Lock()


class Event(NamedTuple):
    """What happened to an identifier."""

    kind: int
    text: str


class Library:
    """The modules of pyverbs; enumerations moved between versions. Raises FsError UNAVAILABLE."""

    def __init__(self) -> None:
        try:
            # The library gives no types: these are its modules as they are.
            self.cmid: Any = importlib.import_module("pyverbs.cmid")
            try:
                self.e: Any = importlib.import_module("pyverbs.cm_enums")
            except ModuleNotFoundError:
                self.e = importlib.import_module("pyverbs.librdmacm_enums")
        except ImportError as failure:
            raise FsError(
                Kind.UNAVAILABLE, f"this pyverbs knows no rdma_cm ({failure})") from failure

    def place(self, address: str, port: int) -> Any:
        """An address of this machine."""
        flags = self.e.RAI_PASSIVE | self.e.RAI_NUMERICHOST
        return self.cmid.AddrInfo(
            src=address, src_service=str(port), port_space=self.e.RDMA_PS_TCP, flags=flags)

    def way(self, source: str, address: str, port: int) -> Any:
        """From an address of this machine to one of another."""
        return self.cmid.AddrInfo(
            src=source, dst=address, dst_service=str(port), port_space=self.e.RDMA_PS_TCP,
            flags=self.e.RAI_NUMERICHOST)

    def parameters(self, number: int, reads_in: int, reads_out: int, private: bytes = b"") -> Any:
        """What one end says when it connects.

        Args:
            number: of its queue pair.
            reads_in, reads_out: how many reads the peer, and this end, may have under way.
            private: for the peer.
        """
        made = self.cmid.ConnParam(
            resources=reads_in, depth=reads_out, qp_num=number, data_len=len(private))
        if private:
            made.set_private_data(private)
        return made


class Channel:
    """Where events of identifiers arrive. Raises FsError UNAVAILABLE."""

    def __init__(self) -> None:
        self.library = Library()
        self.guard = threading.RLock()
        with _making:
            before = _files()
            try:
                self._channel: Any = self.library.cmid.CMEventChannel()
            except Exception as failure:
                raise FsError(
                    Kind.UNAVAILABLE,
                    f"the kernel has no rdma_cm ({failure}): load rdma_ucm, and see that "
                    "/dev/infiniband/rdma_cm may be opened",
                ) from failure
            made = _files() - before
            if len(made) != 1:
                self._channel.close()
                raise FsError(Kind.UNAVAILABLE, "cannot tell the channels of rdma_cm apart")
        self.file = made.pop()
        os.set_blocking(self.file, False)
        self._poll = select.poll()
        self._poll.register(self.file, select.POLLIN)

    def identifier(self) -> Any:
        """A new one. Raises FsError UNAVAILABLE."""
        try:
            return self.library.cmid.CMID(
                creator=self._channel, port_space=self.library.e.RDMA_PS_TCP)
        except Exception as failure:
            raise FsError(Kind.UNAVAILABLE, f"rdma_cm makes no more: {failure}") from failure

    def take(self) -> Any:
        """The next event as pyverbs has it, to be closed; None: there is none. Under `guard`."""
        return self.library.cmid.CMEvent(self._channel) if self._poll.poll(0) else None

    def wait(self, deadline: float, also: int) -> Event:
        """The next event. For the only user of the channel.

        Args:
            deadline: then it is a TimeoutError.
            also: a descriptor on which nothing is to come meanwhile: else a ConnectionError.
        """
        both = select.poll()
        for file in (self.file, also):
            both.register(file, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("deadline passed")
            woken = [file for file, _ in both.poll(remaining * 1000 + 1)]
            with self.guard:
                event = self.take()
                if event is not None:
                    found = Event(int(event.event_type), event.event_str())
                    event.close()
                    return found
            if also in woken:
                raise ConnectionResetError("the peer hung up")

    def close(self) -> None:
        """Ends it; its identifiers have been closed. Idempotent."""
        with _making, suppress(Exception):
            self._channel.close()


def device_at(address: str) -> str:
    """The device that has an address of this machine; empty: none, or there is no rdma_cm."""
    try:
        channel = Channel()
    except FsError:
        return ""
    try:
        identifier = channel.identifier()
        try:
            identifier.bind_addr(channel.library.place(address, 0))
            return text(identifier.dev_name)
        finally:
            identifier.close()
    except Exception:  # whatever the library says, it is of no device
        return ""
    finally:
        channel.close()


def text(name: str | bytes) -> str:
    """A name as the library gives it, which differs between versions."""
    return name.decode() if isinstance(name, bytes) else name


def _files() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith(_FILE):
                found.add(int(name))
        except OSError:
            continue  # closed meanwhile by another thread
    return found
