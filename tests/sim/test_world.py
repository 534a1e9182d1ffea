"""Whole worlds: many seeds hold, one seed is one history, and broken rules are caught."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from luciole.tests.sim.__main__ import MUTANT_SEEDS_MAX, many, replay_command
from luciole.tests.sim.history import FOREVER, CellOperation, explained
from luciole.tests.sim.mutants import MUTANTS
from luciole.tests.sim.run import run_seed
from luciole.tests.sim.scenarios import SCENARIOS
from luciole.tests.sim.seeds import OPEN

QUICK_SEEDS, QUICK_SECONDS = 50, 25.0
SEEDS = int(os.environ.get("LUCIOLE_SIM_SEEDS", "500"))
SECONDS = float(os.environ.get("LUCIOLE_SIM_SECONDS", "150"))


def all_hold(seeds: range, seconds: float) -> None:
    done = 0
    for outcome in many([seed for seed in seeds if seed not in OPEN], seconds=seconds):
        assert not outcome.failure, f"{replay_command(outcome)}: {outcome.failure}"
        done += 1
    assert done


def test_every_world_holds() -> None:
    all_hold(range(QUICK_SEEDS), QUICK_SECONDS)


LINK_SEEDS, LINK_SECONDS = 16, 8.0


@pytest.mark.parametrize("name", ["links", "locks", "kvcache", "kvdisks"])
def test_worlds_with_one_kind_of_fault_hold(name: str) -> None:
    done = 0
    for outcome in many(range(LINK_SEEDS), name, seconds=LINK_SECONDS):
        assert not outcome.failure, f"{replay_command(outcome)}: {outcome.failure}"
        done += 1
    assert done


@pytest.mark.slow
def test_many_more_worlds_hold() -> None:
    all_hold(range(QUICK_SEEDS, SEEDS), SECONDS)


# Seeds that found something once: (seed, scenario), and what it was.
KEPT = [
    (123, "managers"),  # a node that was out answered again before it knew that it was out
    (42, "storm"),  # a write that waited for its successor was answered by a fenced node
]


@pytest.mark.parametrize(("seed", "scenario"), KEPT)
def test_what_was_found_stays_found(seed: int, scenario: str) -> None:
    outcome = run_seed(seed, SCENARIOS[scenario])
    assert not outcome.failure, f"{replay_command(outcome)}: {outcome.failure}"


def test_a_seed_is_one_history_in_every_process() -> None:
    program = (
        "from luciole.tests.sim.run import SCENARIOS, run_seed\n"
        "print([run_seed(7, SCENARIOS[name]).digest for name in ('storm', 'power', 'kvcache')])")
    told = [
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True,
            timeout=60, env={**os.environ, "PYTHONHASHSEED": hash_seed}).stdout
        for hash_seed in ("1", "2")]
    assert told[0] == told[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "early-answer", "no-flush", "short-resync", "evict-leased", "blind-get", "no-reserve"])
def test_a_mutant_is_caught(name: str) -> None:
    outcomes = many(range(MUTANT_SEEDS_MAX), MUTANTS[name].scenario, mutant=name, seconds=60.0)
    assert any(outcome.failure for outcome in outcomes)


def cells(write: bool, first: int, values: list[int], began: float, ended: float) -> CellOperation:
    return CellOperation(write, first, tuple(values), began, ended)


def test_histories_of_cells_that_can_be_explained() -> None:
    assert explained([], 2)
    assert explained([cells(True, 0, [1, 1], 0, 1), cells(False, 1, [1], 2, 3)], 2)
    assert explained([cells(True, 0, [1, 1], 0, FOREVER), cells(False, 0, [0, 0], 1, 2),
                      cells(False, 0, [1, 1], 3, 4)], 2)


def test_histories_of_cells_that_cannot() -> None:
    torn = [cells(True, 0, [1, 1], 0, 5), cells(False, 0, [1, 0], 1, 2)]
    back = [cells(True, 0, [1], 0, FOREVER), cells(False, 0, [1], 1, 2),
            cells(False, 0, [0], 3, 4)]
    lost = [cells(True, 0, [1], 0, 1), cells(True, 1, [2], 2, 3), cells(False, 0, [0, 2], 4, 5)]
    assert [explained(history, 2) for history in (torn, back, lost)] == [False] * 3
