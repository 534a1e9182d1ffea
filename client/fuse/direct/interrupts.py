"""Requests that wait for as long as somebody else likes, and how a signal ends them.

Layer: shell. Only locks wait so; every other wait here has a bound, and is not ended: a signal is
often none of the file's business (Go's runtime sends SIGURG to its own threads all the time), so
that EINTR from open or read would break programs that POSIX promises otherwise. What kills is
another matter (killed.py).

The kernel announces a signal with a request of its own, which another thread may take up before
the one that it is about: so the newest announcements are remembered. The lock guards both tables.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from luciole.client.locks import Waiting

REMEMBERED_MAX = 256


class Interrupts:
    """The waits of one mount by the number of their request."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waits: dict[int, Waiting] = {}
        self._early: OrderedDict[int, None] = OrderedDict()

    @contextmanager
    def waiting(self, unique: int) -> Iterator[Waiting]:
        """A wait for the request of that number, which can be interrupted inside the block."""
        waiting = Waiting()
        with self._guard:
            waiting.interrupted = unique in self._early
            self._waits[unique] = waiting
        try:
            yield waiting
        finally:
            with self._guard:
                del self._waits[unique]

    def announced(self, unique: int) -> Waiting | None:
        """What a signal for that request is to end; None: nothing that waits now."""
        with self._guard:
            waiting = self._waits.get(unique)
            if waiting is None:
                self._early[unique] = None
                if len(self._early) > REMEMBERED_MAX:
                    self._early.popitem(last=False)
        return waiting
