"""`run_transaction`: the retry loop of the engines that have none of their own.

Layer: kernel. Full jitter keeps transactions that met once from meeting again; see "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.kv.transaction import OptimisticTransaction
from luciole.runtime import Runtime

T = TypeVar("T")

RETRIED = (Kind.KV_CONFLICT, Kind.KV_TOO_OLD, Kind.KV_MAYBE_COMMITTED)
RUN_SECONDS_MAX = 10.0
PAUSE_MIN = 0.001
PAUSE_MAX = 0.1


async def run_transaction(
    runtime: Runtime,
    begin: Callable[[], OptimisticTransaction],
    body: Callable[[Transaction], Awaitable[T]],
) -> T:
    """Runs `body` in a transaction of `begin` and commits it, again while that may help.

    Returns what the body of the committed transaction returned. Raises what the body raises,
    what the commit raises, and the last of `RETRIED` after 10 seconds.
    """
    deadline = runtime.clock.now() + RUN_SECONDS_MAX
    ceiling = PAUSE_MIN
    while True:
        transaction = begin()
        try:
            result = await body(transaction)
            await transaction.commit()
            return result
        except FsError as failure:
            pause = runtime.entropy.uniform(PAUSE_MIN, ceiling)
            if failure.kind not in RETRIED or runtime.clock.now() + pause > deadline:
                raise
        finally:
            transaction.close()
        ceiling = min(PAUSE_MAX, ceiling * 2)
        await runtime.sleep(pause)
