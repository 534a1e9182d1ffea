"""Watching keys of the embedded store, which other processes of the machine may change.

Layer: kernel. A process that watches binds a datagram socket in the store's directory `watchers`;
whoever commits rings all other processes' sockets there, and tells the waiters of its own process
itself. A ring says nothing: the listener reads in the store's log which keys were written since it
last looked. So rings may be merged, and one that finds the listener's queue full is not missed,
since those before it are still to be read. The socket of a process that died refuses, and is
removed by whoever finds out.

The names in the directory are listed again when its time of change says so. Such times are coarse,
so a listing is believed only if the last change was `SETTLED_S` before it: a later one shows then.

The paths of sockets are short, whatever the store's is: they begin at the directory's descriptor.
Only the thread runtime may watch, since a thread of our own notifies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time

from luciole.errors import FsError
from luciole.kv.lmdb_environment import Environment, translated
from luciole.kv.ranges import RangeSet
from luciole.kv.watches import Watches
from luciole.log import get_logger
from luciole.runtime import Runtime

log = get_logger("kv")
DIRECTORY = "watchers"
JOIN_SECONDS = 10.0
SETTLED_S = 0.1  # more than the tick of any kernel


class LmdbWatches:
    """The watches of one process on one store.

    The lock guards starting and closing, and up to where waiters were notified. `ring` is called by
    one thread at a time.
    """

    def __init__(self, path: str, environment: Environment, runtime: Runtime) -> None:
        """Raises OSError when the directory of sockets cannot be made."""
        self._path = path
        self._environment = environment
        self.waiting = Watches(runtime)
        place = os.path.join(path, DIRECTORY)
        os.makedirs(place, mode=0o700, exist_ok=True)
        self._directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._guard = threading.Lock()
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._listener: threading.Thread | None = None
        self._version = 0  # up to which waiters were notified
        self._others: list[str] = []  # addresses of those to ring
        self._listed_ns = -1  # the time of change that the list is true of; -1: it may be old
        self._closed = False

    def start(self) -> None:
        """Begins to listen, unless it was begun. What is committed from now on is notified."""
        with self._guard:
            if self._listener is not None or self._closed:
                return
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.bind(self._address(self._name))
            with translated(self._path), self._environment.handle.begin() as transaction:
                self._version = self._environment.load_state(transaction).version
            self._listener = threading.Thread(
                target=self._listen, args=(receiver,), name="kv watches", daemon=True)
            self._listener.start()

    def ring(self, version: int, written: RangeSet) -> None:
        """After the commit of `version`: everybody who watches this store looks what it wrote."""
        with self._guard:
            if self._version == version - 1:
                self._version = version  # what others wrote in between, their ring tells
        self.waiting.notify(written)
        self._ring_others()

    def _ring_others(self) -> None:
        changed_ns = os.stat(self._directory).st_mtime_ns
        if changed_ns != self._listed_ns:
            self._others = [self._address(name) for name in os.listdir(self._directory)
                            if name != self._name]
            settled = time.time_ns() - changed_ns > SETTLED_S * 1e9
            self._listed_ns = changed_ns if settled else -1
        for address in self._others:
            try:
                self._sender.sendto(b"", address)
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    os.unlink(address)
            except OSError:
                continue  # its queue is full, so it will look anyway; or it has just closed

    def close(self) -> None:
        """Ends listening; waiters find out when they look."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        if self._listener is not None:
            with contextlib.suppress(OSError):  # its queue is full, so it will look anyway
                self._sender.sendto(b"", self._address(self._name))
            self._listener.join(JOIN_SECONDS)
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
        self.waiting.notify(None)
        self._sender.close()
        os.close(self._directory)

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._directory}/{name}"

    def _listen(self, receiver: socket.socket) -> None:
        with receiver:
            while True:
                receiver.recv(1)
                if self._closed:
                    return
                try:
                    self.waiting.notify(self._written_since())
                except FsError as failure:
                    # Whoever waits looks for itself, and meets the same failure.
                    log.warning("watch_failing", error=str(failure))
                    self.waiting.notify(None)

    def _written_since(self) -> RangeSet | None:
        """What was written since the last look; None when the log does not reach back so far."""
        environment = self._environment
        with translated(self._path), environment.handle.begin(db=environment.log) as transaction:
            state = environment.load_state(transaction)
            with self._guard:
                before = self._version
                self._version = max(before, state.version)
            if before < state.floor:
                return None
            entries = [transaction.get(version.to_bytes(8, "big"))
                       for version in range(before + 1, state.version + 1)]
        return RangeSet(each for entry in entries if entry for each in RangeSet.decode(entry))
