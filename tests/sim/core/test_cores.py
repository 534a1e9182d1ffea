"""The pure cores hold while everything fails, a seed is one history, broken rules are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from luciole.tests.sim.core.run import CORE_MUTANTS, many_cores, run_broken
from luciole.tests.sim.core.world import run_core
from luciole.tests.sim.seeds import CORE_OPEN

QUICK_SEEDS, QUICK_SECONDS = 16, 12.0
SEEDS = int(os.environ.get("LUCIOLE_CORE_SEEDS", "200"))
SECONDS = float(os.environ.get("LUCIOLE_CORE_SECONDS", "60"))
MUTANT_SEEDS_MAX = 60


def all_hold(seeds: range, seconds: float) -> None:
    done = 0
    known = [seed for seed in seeds if seed not in CORE_OPEN]
    for outcome in many_cores(known, processes=2, seconds=seconds):
        assert not outcome.failure, f"make sim CORE=1 SEED={outcome.seed}: {outcome.failure}"
        assert outcome.acknowledged > 100
        done += 1
    assert done


def test_the_cores_hold() -> None:
    all_hold(range(QUICK_SEEDS), QUICK_SECONDS)


@pytest.mark.slow
def test_the_cores_hold_for_long() -> None:
    all_hold(range(QUICK_SEEDS, SEEDS), SECONDS)


def test_a_seed_is_one_history_in_every_process() -> None:
    program = (
        "from luciole.tests.sim.core.world import run_core\n"
        "print([run_core(seed).digest for seed in (3, 4)])")
    told = [
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True,
            timeout=60, env={**os.environ, "PYTHONHASHSEED": hash_seed}).stdout
        for hash_seed in ("1", "2")]
    assert told[0] == told[1]
    assert run_core(3).digest in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE_MUTANTS)
def test_a_broken_rule_is_found(name: str) -> None:
    assert any(outcome.failure for outcome in run_broken(name, range(MUTANT_SEEDS_MAX)))
