"""A part of what `python -m luciole.tests.rpc.fuzzing` does at length."""

from __future__ import annotations

from luciole.tests.rpc.fuzzing import Inputs, Target

INPUTS = 20_000


def test_hostile_bytes_are_refused_by_both_ends() -> None:
    inputs, target = Inputs(1), Target()
    for _ in range(INPUTS):
        target.take(inputs.next())
    target.close()
    assert target.outcomes["understood"] > INPUTS / 10
    for refused in ("CORRUPT_FRAME", "CONNECTION_LOST", "INVALID_ARGUMENT", "UNIMPLEMENTED"):
        assert target.outcomes[refused] > INPUTS / 1000, target.outcomes
    assert INPUTS / 10 < target.outcomes["refused in a ring"] < INPUTS
