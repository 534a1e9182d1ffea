"""Real vLLM engines, one process after another, with the store as their only common memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from luciole.tests.engines.conftest import Cluster

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "vllm_kvcache.py"
ENGINE_S = 240  # importing vLLM alone takes up to a minute
PROMPT = 1024
WHOLE = PROMPT - 32  # a block of 32 tokens may be computed anew, for its last output
TIER = ("--tier", "--tier-spec", "luciole.tests.engines.cpu_tiering:CpuTieringSpec")


class Answer(NamedTuple):
    """What an engine said."""

    cached: int
    generated: list[int]


def ask(cluster: Cluster, *options: str, processes: bool = False) -> Answer:
    """One prompt through an engine of its own, whose parts have one process or several."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(cluster.config), "--tokens", str(PROMPT), *options],
        check=False, capture_output=True, text=True, timeout=ENGINE_S, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"prompt_tokens')]
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    said = json.loads(lines[0])
    return Answer(said["cached_tokens"], said["generated"])


@pytest.mark.parametrize("options", [(), TIER], ids=["connector", "tier"])
def test_engines_share_a_prompt_and_outlive_its_loss(
    cluster: Cluster, options: tuple[str, ...]
) -> None:
    first = ask(cluster, *options)
    assert first.cached == 0
    second = ask(cluster, *options)
    assert second.cached >= WHOLE
    assert second.generated == first.generated
    # The volume finds every block, and none of them is whole any more.
    cluster.damage_blocks()
    assert ask(cluster, *options).generated == first.generated
    # What was computed anew is there again, until its node dies.
    assert ask(cluster, *options).cached >= WHOLE
    cluster.kill_storage()
    try:
        third = ask(cluster, *options)
    finally:
        cluster.up()
    assert (third.cached, third.generated) == (0, first.generated)


@pytest.mark.parametrize("options", [(), TIER], ids=["connector", "tier"])
def test_engines_of_several_processes_share_a_prompt_and_end(
    cluster: Cluster, options: tuple[str, ...]
) -> None:
    name = ("--namespace", "several")
    first = ask(cluster, *name, *options, processes=True)
    second = ask(cluster, *name, *options, processes=True)
    assert first.cached == 0
    assert second.cached >= WHOLE
    assert second.generated == first.generated
