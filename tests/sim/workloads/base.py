"""What all workloads have in common: clients that may die, and deadlines that must be kept."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, TypeVar

import trio

from luciole.errors import FsError, Kind
from luciole.proto import common_pb2
from luciole.tests.sim.process import ATTEMPT_S, TOTAL_S, Process
from luciole.tests.sim.world import ViolationError, World

T = TypeVar("T")
ROOT = 1
CREDENTIAL = common_pb2.Credential(uid=0, gid=0)
# One call, its last attempt begun just before its deadline, by a clock that may be slow.
CALL_SECONDS_MAX = 1.5 * (TOTAL_S + ATTEMPT_S)


class Workload(Protocol):
    """Something that clients do."""

    async def prepare(self) -> None:
        """Makes what it works on, before the faults begin."""

    async def run(self, until: float) -> None:
        """Works until then (virtual seconds)."""

    async def check(self) -> None:
        """Looks at the end, in a world that has healed. Raises ViolationError."""


async def timed(
    world: World, client: Process, what: str, call: Awaitable[T], *, calls: int = 1,
    seconds: float = CALL_SECONDS_MAX,
) -> T:
    """Waits for an operation of at most `calls` calls of `seconds`, and sees that it ends in time.

    Raises FsError as it does, CONNECTION_LOST when the client dies. Taking longer is a violation.
    """
    began = trio.current_time()
    world.trace.note("begin", f"{client.name} {what}")
    try:
        with trio.CancelScope() as scope:
            client.guests[scope] = None
            result = await call
        if scope.cancelled_caught:
            raise FsError(Kind.CONNECTION_LOST, "the client died")
    except FsError as failure:
        world.trace.note("failed", f"{client.name} {what}: {failure}")
        raise
    else:
        world.trace.note("done", f"{client.name} {what}")
        return result
    finally:
        del client.guests[scope]
        took = trio.current_time() - began
        if took > calls * seconds:
            world.violate(f"{client.name} {what} took {took:.1f} s of virtual time")


def require_true(fine: bool, message: str) -> None:
    """Raises ViolationError unless `fine`."""
    if not fine:
        raise ViolationError(message)
