"""`python -m luciole.tests.sim`: many seeds, one seed, or mutants that must be caught.

Layer: tests. Exit status: 0 when all held (or every mutant was caught), 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import Progress

from luciole.tests.sim.core.run import many_cores
from luciole.tests.sim.mutants import MUTANTS
from luciole.tests.sim.run import Outcome, run_seed
from luciole.tests.sim.scenarios import SCENARIOS

REAL_SECONDS_MAX = 60
MUTANT_SEEDS_MAX = 2000
PROCESSES = 2
TRACE_SHOWN = 300


def one(seed: int, scenario: str, mutant: str, keep_all: bool) -> Outcome:
    """Runs a seed in this process, for at most a minute."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the run took more than {REAL_SECONDS_MAX} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(REAL_SECONDS_MAX)
    try:
        return run_seed(
            seed, SCENARIOS[scenario] if scenario else None, keep_all=keep_all,
            mutant=MUTANTS[mutant].break_rule() if mutant else None)
    finally:
        signal.alarm(0)


def many(
    seeds: Sequence[int], scenario: str = "", *, mutant: str = "", seconds: float = float("inf")
) -> Iterator[Outcome]:
    """Runs seeds on two processes until all are done or the time is over; in order of ending."""
    deadline = time.monotonic() + seconds
    with ProcessPoolExecutor(PROCESSES) as pool:
        futures = [pool.submit(one, seed, scenario, mutant, False) for seed in seeds]
        try:
            for future in as_completed(futures):
                if not future.cancelled():
                    yield future.result()
                if time.monotonic() > deadline:
                    break
        finally:
            for future in futures:
                future.cancel()


def replay_command(outcome: Outcome) -> str:
    """What runs an outcome again."""
    return f"make sim SEED={outcome.seed} SCENARIO={outcome.scenario}"


def tell(console: Console, outcome: Outcome, lines: int) -> None:
    """A failure as a person wants it: the end of the trace, what is wrong, how to see it again."""
    for line in outcome.trace[-lines:]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nseed {outcome.seed} ({outcome.scenario}) failed:", style="bold red")
    console.print(outcome.failure, markup=False, highlight=False, soft_wrap=True)
    console.print(f"again, with its trace in a file: {replay_command(outcome)} TRACE=trace.txt")


def run_many(console: Console, arguments: argparse.Namespace) -> int:
    """Runs seeds; tells of the first failures."""
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    began, done, failed = time.monotonic(), 0, []
    events = 0
    with Progress(console=console, disable=arguments.json) as progress:
        task = progress.add_task("seeds", total=len(seeds))
        for outcome in many(seeds, arguments.scenario, seconds=arguments.seconds):
            done, events = done + 1, events + outcome.events
            progress.advance(task)
            if outcome.failure:
                failed.append(outcome)
                progress.update(task, description=f"seeds, {len(failed)} failed")
    took = time.monotonic() - began
    if arguments.json:
        sys.stdout.write(json.dumps({
            "seeds": done, "seconds": round(took, 1), "events": events,
            "failed": [outcome.facts() for outcome in failed]}) + "\n")
        return bool(failed)
    for outcome in failed[:1]:
        tell(console, outcome, TRACE_SHOWN)
    for outcome in failed[1:]:
        console.print(f"{replay_command(outcome)}: {outcome.failure.splitlines()[-1][:200]}",
                      markup=False, highlight=False)
    console.print(f"{done} seeds, {len(failed)} failed; {took:.0f} s, {done * 60 / took:.0f} seeds "
                  f"a minute, {events / took:.0f} events a second")
    return bool(failed)


def run_one(console: Console, arguments: argparse.Namespace) -> int:
    """Runs one seed, with its whole trace in a file when asked for."""
    outcome = one(arguments.seed, arguments.scenario, arguments.mutant, bool(arguments.trace))
    if arguments.trace:
        Path(arguments.trace).write_text("\n".join(outcome.trace) + "\n")
    if arguments.json:
        sys.stdout.write(json.dumps(outcome.facts()) + "\n")
    elif outcome.failure:
        tell(console, outcome, 0 if arguments.trace else TRACE_SHOWN)
    else:
        console.print(f"seed {outcome.seed} ({outcome.scenario}) holds: {outcome.events} events, "
                      f"{outcome.virtual_seconds:.0f} s of virtual time, digest {outcome.digest}")
    return bool(outcome.failure)


def run_cores(console: Console, arguments: argparse.Namespace) -> int:
    """The core level: one seed, or many."""
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    began, events, done, failed = time.monotonic(), 0, 0, 0
    busy = 0.0
    for outcome in many_cores(seeds, processes=PROCESSES, seconds=arguments.seconds):
        done, events, busy = done + 1, events + outcome.events, busy + outcome.seconds
        if outcome.failure or arguments.seed is not None:
            console.print(f"make sim CORE=1 SEED={outcome.seed} (digest {outcome.digest}): "
                          f"{outcome.failure or 'holds'}", markup=False, highlight=False)
        failed += bool(outcome.failure)
    took = time.monotonic() - began
    console.print(f"{done} seeds of the cores, {failed} failed; {took:.0f} s, "
                  f"{done * 60 / took:.0f} seeds a minute, {events / took:.0f} events a second "
                  f"({events / busy:.0f} in each process)")
    return bool(failed)


def run_mutants(console: Console, arguments: argparse.Namespace) -> int:
    """Every mutant must be caught."""
    escaped = 0
    for name, mutant in MUTANTS.items():
        if arguments.mutant not in {"", "all", name}:
            continue
        tried, caught = 0, None
        for outcome in many(range(MUTANT_SEEDS_MAX), mutant.scenario, mutant=name):
            tried += 1
            if outcome.failure:
                caught = outcome
                break
        if caught is None:
            escaped += 1
            console.print(f"{name}: escaped {tried} seeds of {mutant.scenario}", style="red")
        else:
            console.print(f"{name}: caught after {tried} seeds of {mutant.scenario} (seed "
                          f"{caught.seed}): {caught.failure.splitlines()[0][:100]}", markup=False)
    return bool(escaped)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--scenario", default="", choices=["", *SCENARIOS])
    parser.add_argument("--trace", default="", help="with --seed: write the whole trace here")
    parser.add_argument("--mutants", action="store_true", help="see that every mutant is caught")
    parser.add_argument("--mutant", default="", choices=["", "all", *MUTANTS])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--core", action="store_true", help="the pure cores on an event heap")
    arguments = parser.parse_args()
    console = Console()
    if arguments.core:
        return run_cores(console, arguments)
    if arguments.seed is not None:
        return run_one(console, arguments)
    if arguments.mutants:
        return run_mutants(console, arguments)
    return run_many(console, arguments)


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    raise SystemExit(main())
