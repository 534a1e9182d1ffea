"""Reads spread over a chain's replicas are worth it, also while chunks are being written."""

from __future__ import annotations

import pytest

from luciole.tests.sim.reading import reads_per_second


@pytest.mark.parametrize(("dirty", "least"), [(0.0, 2.95), (0.1, 2.85), (0.5, 2.7), (1.0, 2.5)])
def test_three_replicas_answer_more_reads_than_the_tail(dirty: float, least: float) -> None:
    spread = reads_per_second(dirty=dirty, spread=True)
    tail = reads_per_second(dirty=dirty, spread=False)
    assert spread / tail >= least
