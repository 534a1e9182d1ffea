"""The checker itself: it accepts what can be explained and nothing else."""

from __future__ import annotations

from luciole.tests.sim.registers import FOREVER, Operation, linearizable


def write(value: int, began: float, ended: float) -> Operation:
    return Operation(True, value, began, ended)


def read(value: int, began: float, ended: float) -> Operation:
    return Operation(False, value, began, ended)


def test_accepts_orders_that_exist() -> None:
    assert linearizable([], 0)
    assert linearizable([write(1, 0, 1), read(1, 2, 3)], 0)
    assert linearizable([write(1, 0, 5), read(0, 1, 2), read(1, 3, 4)], 0)
    assert linearizable([write(1, 0, 5), write(2, 0, 5), read(2, 1, 2), read(1, 3, 4)], 0)
    assert linearizable([write(1, 0, FOREVER), read(0, 5, 6), read(1, 7, 8)], 0)


def test_refuses_stale_lost_and_unwritten_values() -> None:
    assert not linearizable([write(1, 0, 1), read(0, 2, 3)], 0)
    assert not linearizable([write(1, 0, 5), read(1, 1, 2), read(0, 3, 4)], 0)
    assert not linearizable([read(7, 0, 1)], 0)
    assert not linearizable([write(1, 0, FOREVER), read(1, 5, 6), read(0, 7, 8)], 0)
