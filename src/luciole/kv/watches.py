"""`Watches`: who waits in this process for which keys to change.

Layer: kernel. A waiter names its key before it looks at the value, and whoever changed the key
notifies after the commit: so no change falls between looking and waiting. The lock guards the
table; it is never held over a wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from luciole.kv.ranges import RangeSet
from luciole.runtime import Runtime, Signal


@dataclass
class _Watched:
    signal: Signal
    waiters: int = 0


class Watches:
    """The keys that are watched, each with a signal; entries go with their last waiter."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._guard = threading.Lock()
        self._keys: dict[bytes, _Watched] = {}

    async def wait(
        self, key: bytes, seen: bytes | None, timeout: float,
        look: Callable[[], bytes | None],
    ) -> bytes | None:
        """What `look` returns once it is not `seen` any more, or after `timeout` seconds.

        Args:
            key: whose changes are notified.
            seen: the value that is known already.
            timeout: seconds.
            look: reads the newest value.
        """
        deadline = self._runtime.clock.now() + timeout
        with self._guard:
            watched = self._keys.setdefault(key, _Watched(self._runtime.signal()))
            watched.waiters += 1
        try:
            while True:
                count = watched.signal.count
                value = look()
                remaining = deadline - self._runtime.clock.now()
                if value != seen or remaining <= 0:
                    return value
                if await watched.signal.wait(count, remaining) == count:
                    return look()
        finally:
            with self._guard:
                watched.waiters -= 1
                if watched.waiters == 0:
                    del self._keys[key]

    def notify(self, written: RangeSet | None) -> None:
        """Wakes who waits for a key that was written; None: everybody."""
        with self._guard:
            for key, watched in self._keys.items():
                if written is None or written.contains(key):
                    watched.signal.notify()
