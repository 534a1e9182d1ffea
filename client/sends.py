"""Background work on threads: a bounded number at once, and no queue.

Layer: shell. What finds no thread free is done by its caller, who is thereby slowed to what
the cluster takes.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("client")


class Sends:
    """A `luciole.client.write_buffer.Spawn` for the thread runtime."""

    def __init__(self, threads_max: int) -> None:
        self._free = threading.Semaphore(threads_max)

    def spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        """Runs it in the background, or here. It handles its own errors."""

        async def body() -> None:
            await run()

        def ended(_: object) -> None:
            self._free.release()

        if self._free.acquire(blocking=False):
            trio.lowlevel.start_thread_soon(partial(_reported, partial(drive, body())), ended)
        else:
            drive(body())


def _reported(run: Callable[[], None]) -> None:
    """Runs; a bug is logged, since nobody else would hear of it."""
    try:
        run()
    except Exception:
        log.exception("send_broken")
