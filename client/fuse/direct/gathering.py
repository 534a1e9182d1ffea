"""Small reads that come while another is under way, left to whoever is asking for that one.

Layer: shell. A message to a service costs as much as ten or twenty small reads in it do, and every
thread that waits for one takes the interpreter's lock from others. So a thread that finds a small
read while another thread asks for one puts it down and looks for the next request; that other
thread, once its own is answered, asks for all that were put down in one message, and goes on so.
A read that comes alone is asked for at once: nobody waits for company.

What was put down waits for one call of another, and calls may take long: when a node dies, until
others are tried. So nobody leaves a read to a call that is older than `STALE_S`, and what was left
to one that has become so is called for by itself: a thread looks every `LOOK_S` while small reads
come at once.

The lock guards the queue, the table of those who ask, and whether that thread is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from luciole.client.fuse.direct.messages import Request

STALE_S = 0.003
LOOK_S = 0.02
LOOKS_MAX = 50  # in vain, before the looking thread ends
QUEUE_MAX = 32  # reads of one message, and that are put down


class Gathering:
    """The small reads of one mount."""

    def __init__(self, rescue: Callable[[Request], bool]) -> None:
        """`rescue` has a read answered by a thread of its own; False: no thread is left for it."""
        self._rescue = rescue
        self._guard = threading.Lock()
        self._queue: list[Request] = []
        self._asking: dict[int, float] = {}  # thread -> when its call began
        self._looking = False

    def put_down(self, request: Request) -> bool:
        """Leaves a read to another thread, with the memory that it lies in.

        False: it is this thread's to answer, which calls `others` after that until it gives none.
        """
        now = time.monotonic()
        with self._guard:
            if len(self._queue) == QUEUE_MAX or not self._is_fresh(now):
                self._asking[threading.get_ident()] = now
                return False
            self._queue.append(request)
            starts, self._looking = not self._looking, True
        if starts:
            threading.Thread(target=self._look, name="reads", daemon=True).start()
        return True

    def others(self) -> list[Request]:
        """What was put down and is now this thread's to answer; none: it asks no more."""
        with self._guard:
            taken, self._queue = self._queue, []
            if taken:
                self._asking[threading.get_ident()] = time.monotonic()
            else:
                del self._asking[threading.get_ident()]
        return taken

    def _is_fresh(self, now: float) -> bool:
        return any(now - began < STALE_S for began in self._asking.values())

    def _look(self) -> None:
        """Calls for what is left to stale calls, until nothing was put down for a while."""
        in_vain = 0
        while True:
            time.sleep(LOOK_S)
            with self._guard:
                in_vain = 0 if self._queue else in_vain + 1
                if in_vain == LOOKS_MAX:
                    self._looking = False
                    return
                stuck: list[Request] = []
                if not self._is_fresh(time.monotonic()):
                    stuck, self._queue = self._queue, []
            left = [request for request in stuck if not self._rescue(request)]
            if left:
                with self._guard:
                    self._queue = left + self._queue
