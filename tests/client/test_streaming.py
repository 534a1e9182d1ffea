"""Which reads make a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from luciole.client.core.streaming import LARGE_BYTES, SCORE_MAX, Streaming

LARGE, SMALL = LARGE_BYTES, LARGE_BYTES - 1


def told(sizes: list[int]) -> list[bool]:
    """What is the case after each of these reads."""
    reads = Streaming()
    found = []
    for size in sizes:
        was = reads.now
        assert reads.read(size) == (reads.now != was)
        found.append(reads.now)
    return found


def test_large_reads_in_a_row_are_a_stream() -> None:
    assert told([LARGE] * 6) == [False] * (SCORE_MAX - 1) + [True] * 3


def test_a_small_read_now_and_then_makes_no_difference() -> None:
    assert all(told([LARGE] * SCORE_MAX + [SMALL, LARGE, LARGE] * 20)[SCORE_MAX:])


def test_small_reads_in_a_row_end_a_stream() -> None:
    assert told([LARGE] * SCORE_MAX + [SMALL, SMALL])[SCORE_MAX:] == [True, False]


@given(st.lists(st.sampled_from([LARGE, SMALL]), max_size=200))
def test_what_came_last_decides(before: list[int]) -> None:
    assert told([*before, *[LARGE] * SCORE_MAX])[-1]
    assert not told([*before, SMALL, SMALL])[-1]
