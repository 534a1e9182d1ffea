"""Runs that were stored into a mapping leave as few updates, and none changes anything else."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from luciole.client.core.runs import GAP_MAX, Run, laid_out, updates

CHUNK = 65536
RUNS = st.lists(
    st.builds(Run, st.integers(0, 4 * CHUNK), st.binary(min_size=1, max_size=300)), max_size=40)


def applied(groups: list[list[Run]], size: int) -> bytes:
    content = bytearray(size)
    for group in groups:
        for run in group:
            content[run.offset : run.end] = run.data
    return bytes(content)


@given(RUNS)
def test_groups_lie_in_one_chunk_apart_and_do_what_the_runs_do(runs: list[Run]) -> None:
    groups = list(updates(runs, CHUNK))
    assert applied(groups, 5 * CHUNK) == applied([runs], 5 * CHUNK)
    for group in groups:
        assert len({run.offset // CHUNK for run in group} | {
            (run.end - 1) // CHUNK for run in group}) == 1
        assert all(
            0 < after.offset - run.end <= GAP_MAX
            for run, after in pairwise(group))


def test_neighbours_are_one_update_and_the_last_bytes_leave_first() -> None:
    runs = [Run(8 * number, b"x") for number in range(1000)]
    far = Run(8000 + 2 * GAP_MAX, b"y")
    groups = list(updates([*runs, far], CHUNK))
    assert groups == [[far], runs]
    assert laid_out(groups[1])[:17].tobytes() == (b"x" + bytes(7)) * 2 + b"x"


def test_what_touches_becomes_one_run() -> None:
    assert list(updates([Run(0, b"ab"), Run(2, b"c"), Run(4, b"d")], CHUNK)) == [
        [Run(0, b"abc"), Run(4, b"d")]]


def test_what_came_later_leaves_after_what_it_covers() -> None:
    first, other, again = Run(0, b"a"), Run(4, b"b"), Run(0, b"c")
    assert list(updates([first, other, again], CHUNK)) == [[first, other], [again]]
