"""A bound on bytes per second for background work, shared by all who do it.

Layer: shell.
"""

from __future__ import annotations

import threading

from luciole.runtime import Runtime


class Pace:
    """Makes its callers wait so that together they keep the rate.

    Args:
        bytes_per_second: the rate; 0: no bound.
    """

    def __init__(self, runtime: Runtime, bytes_per_second: int) -> None:
        self._runtime = runtime
        self._rate = bytes_per_second
        self._guard = threading.Lock()
        self._free_at = runtime.clock.now()

    async def spend(self, count: int) -> None:
        """Accounts for `count` bytes, and waits until those before them were due."""
        if not self._rate:
            return
        with self._guard:
            now = self._runtime.clock.now()
            begin = max(now, self._free_at)
            self._free_at = begin + count / self._rate
        if begin > now:
            await self._runtime.sleep(begin - now)
