"""Trying again: exponential back-off with jitter inside one total deadline.

What may be tried again is said by the error's kind (luciole/errors.py), never by the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from luciole.errors import FsError, Retry
from luciole.runtime import Runtime

T = TypeVar("T")
FIRST_PAUSE_S = 0.01
LAST_PAUSE_S = 1.0


async def retrying(
    runtime: Runtime,
    deadline: float,
    attempt: Callable[[int], Awaitable[T]],
    reroute: Callable[[float], Awaitable[object]] | None = None,
) -> T:
    """Calls `attempt(number)` until it succeeds, fails for good, or `deadline` has passed.

    Args:
        runtime: clock, jitter and sleep.
        deadline: monotonic second after which no new attempt begins.
        attempt: given 0, 1, 2, …
        reroute: waits up to the given seconds for newer routing; used instead of sleeping when
            the error says that routing is the reason.
    """
    number = 0
    pause = FIRST_PAUSE_S
    while True:
        try:
            return await attempt(number)
        except FsError as failure:
            retry = failure.facts.retry
            wait = runtime.entropy.uniform(pause / 2, pause)
            if retry is Retry.NEVER or runtime.clock.now() + wait >= deadline:
                raise
            if retry is Retry.REROUTE and reroute is not None:
                await reroute(wait)
            else:
                await runtime.sleep(wait)
        number += 1
        pause = min(pause * 2, LAST_PAUSE_S)
