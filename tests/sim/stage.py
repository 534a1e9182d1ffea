"""Runs code that blocks as threads would, one at a time, in the order that the seed says.

Layer: tests. A volume of the KV cache is written for threads: it blocks on its disk and guards its
index with a lock. Here every call of it has a thread, but only one of all threads runs, and the
world stands still meanwhile. Where the code would wait for the disk it calls `wait`: the thread
stops, virtual time passes, others have their turn. So races at I/O are found, and a seed is one
history.

Nobody waits while he holds a lock, for then the next who wants it would stop the world.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")
REAL_SECONDS_MAX = 30.0  # between two waits: more is a deadlock


class KilledError(BaseException):
    """The process died under this call."""


class _Act(Generic[T]):
    """One call. Its thread and the world's hand the turn to each other."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._started = False
        self.killed = False
        self.ended = False
        self.pause_s = 0.0
        self.results: list[T] = []
        self.failure: BaseException | None = None

    def step(self) -> None:
        """Lets it run to its next wait or its end."""
        if not self._started:
            self._started = True
            trio.lowlevel.start_thread_soon(self._run, lambda _: None)
        self._go.release()
        if not self._back.acquire(timeout=REAL_SECONDS_MAX):
            raise AssertionError("a call neither waits nor ends: is a lock held over a wait?")

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.results.append(self._work())
        except BaseException as failure:
            self.failure = failure
        self.ended = True
        self._back.release()

    def wait(self, seconds: float) -> None:
        """On its thread: others go on for so long."""
        self.pause_s = seconds
        self._back.release()
        self._go.acquire()


class Stage:
    """The calls of one process."""

    def __init__(self) -> None:
        self.dead = False
        self._acting: _Act[object] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. If the caller is cancelled, it ends at its next wait."""
        act = _Act(work)
        try:
            while True:
                self._step(act)
                if act.ended:
                    break
                await trio.sleep(act.pause_s)
        finally:
            act.killed = True
            while not act.ended:
                self._step(act)
        if isinstance(act.failure, KilledError):
            await trio.sleep_forever()  # this task's process is dead, so it is cancelled
        if act.failure is not None:
            raise act.failure
        return act.results[0]

    def _step(self, act: _Act[T]) -> None:
        self._acting = act  # type: ignore[assignment]  # what it returns does not matter here
        try:
            act.step()
        finally:
            self._acting = None

    def wait(self, seconds: float) -> None:
        """Where code would block. Raises KilledError when its process is dead."""
        act = self._acting
        self.check()
        if act is not None:
            act.wait(seconds)
            self.check()

    def check(self) -> None:
        """Raises KilledError when the process is dead: nothing reaches the disk any more."""
        if self.dead or (self._acting is not None and self._acting.killed):
            raise KilledError
