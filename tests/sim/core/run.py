"""Runs seeds of the core level: `python -m luciole.tests.sim --core --seeds n`.

Layer: tests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from luciole.storage.core.replica import Judgement
from luciole.tests.sim.core import managers, replicas
from luciole.tests.sim.core.replicas import ReplicaMachine
from luciole.tests.sim.core.world import Outcome, run_core


def always_apply(state: Any, *_: Any, **__: Any) -> Judgement:
    """A successor takes whatever comes."""
    return Judgement.APPLY


def clean_reads(*_: Any) -> bool:
    """Nobody asks the tail."""
    return False


def long_lease(sent_at: float, lease_seconds: float) -> float:
    """A manager believes in its lease for longer than others wait."""
    return sent_at + 2 * lease_seconds


def unfenced(self: ReplicaMachine) -> bool:
    """A replica answers when its lease has run out."""
    return False


def early_answer(self: ReplicaMachine, *_: Any) -> Any:
    """A replica commits without its successor."""
    yield from ()  # a generator that does not wait
    return True


CORE_MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "always-apply": lambda: patch.object(replicas, "judge", always_apply),
    "clean-reads": lambda: patch.object(replicas, "needs_tail", clean_reads),
    "long-lease": lambda: patch.object(managers, "held_until", long_lease),
    "unfenced": lambda: patch.object(ReplicaMachine, "fenced", unfenced),
    "early-answer": lambda: patch.object(ReplicaMachine, "_pass_on", early_answer),
    "no-tags": lambda: patch.object(ReplicaMachine, "tells_tags", False),
}


def run_broken(name: str, seeds: Sequence[int]) -> Iterator[Outcome]:
    """Runs seeds with a rule broken."""
    with CORE_MUTANTS[name]():
        for seed in seeds:
            yield run_core(seed)


def many_cores(
    seeds: Sequence[int], *, processes: int, seconds: float = math.inf
) -> Iterator[Outcome]:
    """Runs seeds on some processes until all are done or the time is over; in order of ending."""
    deadline = time.monotonic() + seconds
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(run_core, seed) for seed in seeds]
        try:
            for future in as_completed(futures):
                yield future.result()
                if time.monotonic() > deadline:
                    break
        finally:
            for future in futures:
                future.cancel()
