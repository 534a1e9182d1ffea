"""A service process: trio orchestrates, threads work.

Layer: kernel. The main thread runs trio: it starts the loops of a service, waits for SIGTERM or
SIGINT, and stops everything within a bound. Each step of a loop is a coroutine of the service's
own thread runtime, driven on a worker thread, so that no step holds up another.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from luciole.errors import FsError
from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("process")
FAILURE_PAUSE_S = 0.5


@dataclass(frozen=True)
class Loop:
    """Something that a service does again and again."""

    name: str
    seconds: float  # pause between two steps; 0 for steps that wait by themselves
    step: Callable[[], Coroutine[Any, Any, object]]


async def run_loops(
    loops: Sequence[Loop], until: Callable[[], Awaitable[None]] = trio.sleep_forever
) -> None:
    """Runs all loops until the process is told to stop, or `until` returns."""
    async with trio.open_nursery() as nursery:
        for loop in loops:
            nursery.start_soon(_run_loop, loop)

        async def stop() -> None:
            await until()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                break
        nursery.cancel_scope.cancel()


async def _run_loop(loop: Loop) -> None:
    failing = False
    while True:
        pause = loop.seconds
        try:
            await trio.to_thread.run_sync(
                lambda: drive(loop.step()), abandon_on_cancel=True)
        except FsError as failure:
            if not failing:
                log.warning("loop_failing", loop=loop.name, error=str(failure))
            failing = True
            pause = max(pause, FAILURE_PAUSE_S)
        except Exception:
            # A bug in one step must not end the service; the trace is the report of it.
            log.exception("loop_broken", loop=loop.name)
            pause = max(pause, FAILURE_PAUSE_S)
        else:
            if failing:
                log.info("loop_recovered", loop=loop.name)
            failing = False
        await trio.sleep(pause)
