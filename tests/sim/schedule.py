"""One seed decides everything: the order of tasks, and every draw of chance.

Layer: tests. trio runs the tasks that are ready in an order of its own choice. Its own tests fix
that order through two private names; this is the one place of ours that touches them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing

T = TypeVar("T")


def number_from(seed: int, *names: object) -> int:
    """A number of 64 bits that depends on a seed and on what it is for, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def chance_for(seed: int, *names: object) -> random.Random:
    """A generator for one purpose: what one part draws does not move what another gets."""
    return random.Random(number_from(seed, *names))


def run_seeded(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """Runs `main` in virtual time that jumps when all wait, with the schedule of `seed`."""
    trio_run: Any = trio._core._run
    kept = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    # Ready tasks are put in the order of their making, then shuffled by this generator.
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r = random.Random(seed)
    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = kept
