"""Requests of processes that are being killed, which need not wait for their answer.

Layer: shell. A process cannot end while a request of its own is being served, and with the cluster
down that may take `total_timeout_seconds`. The kernel announces a signal (FUSE_INTERRUPT) but not
which, and not a second one; so a request that was announced is looked at until it ends, and when
its thread has SIGKILL pending for `GRACE_S` it is answered with EINTR. Linux turns every signal
that ends a process into SIGKILL for its threads, so this is also true of SIGINT without a handler.
Other signals do not end a request (interrupts.py says why).

What was asked goes on: writes reach the chains and a close is reported. What such a request opened
is closed again, since the kernel will not (server.py), and what it read is not known to be in the
kernel's pages (`Request.abandoned`).

One thread looks while there is something to look at. The lock guards the tables.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from luciole.client.fuse.direct.messages import Request

GRACE_S = 0.5
LOOK_S = 0.1
_KILLED = 1 << (signal.SIGKILL - 1)


def being_killed(thread: int) -> bool:
    """Whether a thread has SIGKILL pending (proc_pid_status(5))."""
    try:
        lines = Path(f"/proc/{thread}/status").read_bytes().splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) & _KILLED for line in lines
               if line.startswith((b"SigPnd:", b"ShdPnd:")))


class Killed:
    """The requests of one mount that are being served."""

    def __init__(self, refuse: Callable[[int], object]) -> None:
        """`refuse` answers the request of that number with EINTR."""
        self._refuse = refuse
        self._guard = threading.Lock()
        self._served: dict[int, Request] = {}
        self._announced: dict[int, float] = {}  # number -> when
        self._looking = False

    def begin(self, request: Request) -> None:
        """A request is going to be answered."""
        self._served[request.unique] = request

    def end(self, request: Request) -> None:
        """Its answer is known."""
        self._served.pop(request.unique, None)

    def announced(self, unique: int) -> None:
        """There is a signal for whoever made the request of that number."""
        with self._guard:
            self._announced[unique] = time.monotonic()
            if self._looking:
                return
            self._looking = True
        threading.Thread(target=self._look, name="killed", daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._guard:
                for unique, since in list(self._announced.items()):
                    if not self._waits_on(unique, since):
                        del self._announced[unique]
                if not self._announced:
                    self._looking = False
                    return

    def _waits_on(self, unique: int, since: float) -> bool:
        """Whether a request has to be looked at again."""
        request = self._served.get(unique)
        if request is None:
            return False
        if time.monotonic() - since < GRACE_S or not being_killed(request.pid):
            return True
        request.abandoned = True
        self._refuse(unique)
        return False
