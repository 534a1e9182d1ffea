"""Group flush: many callers that want durability share one flush.

A caller returns only when a flush that *began* after its call has ended, because only such a
flush surely covers what it wrote before. The first caller to find no flush under way runs one;
those who come meanwhile share the next.

Layer: kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from luciole.errors import FsError, Kind

FLUSH_SECONDS_MAX = 120.0


class GroupFlush:
    """Runs `flush` for its callers, never twice at once.

    A failed flush is final: the kernel may have dropped what it could not write, so that a later
    success would prove nothing (Rebello et al., "Can Applications Recover from fsync Failures?",
    USENIX ATC 2020). Every later call raises the same error.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._changed = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._running = False
        self._failure: FsError | None = None

    def check(self) -> None:
        """Raises the FsError of the flush that failed, if one did."""
        failure = self._failure
        if failure is not None:
            raise FsError(failure.kind, failure.message, failure.subject)

    def wait(self) -> None:
        """Returns when everything written before the call is durable. Raises FsError."""
        with self._changed:
            needed = self._begun + 1
            self._await_turn(needed)
            if self._ended >= needed:
                return
            self._running = True
            self._begun += 1
            mine = self._begun
        try:
            self._flush()
        except BaseException as error:
            self._finish(mine, error)
            raise
        self._finish(mine, None)

    def _finish(self, number: int, error: BaseException | None) -> None:
        with self._changed:
            self._running = False
            if error is None:
                self._ended = number
            elif isinstance(error, FsError):
                self._failure = error
            else:
                self._failure = FsError(Kind.DISK_FAILED, f"the flush failed: {error!r}")
            self._changed.notify_all()

    def _await_turn(self, needed: int) -> None:
        """Waits until flush number `needed` has ended or none is running."""

        def ready() -> bool:
            return not self._running or self._ended >= needed or self._failure is not None

        if not self._changed.wait_for(ready, FLUSH_SECONDS_MAX):
            raise FsError(Kind.DISK_FAILED, f"no flush ended within {FLUSH_SECONDS_MAX:.0f} s")
        self.check()
