"""Pages grow where names are asked for in a row, and are not fetched where they are not used."""

from __future__ import annotations

from itertools import pairwise

from luciole.client.core.look_ahead import (
    DIRECTORIES_MAX,
    MISSES_FIRST,
    MISSES_MAX,
    PAGE_FIRST,
    PAGE_MAX,
    LookAhead,
)


def walk(ahead: LookAhead, names: int) -> list[int]:
    """Asks for one name after another; returns the sizes of the pages that were fetched."""
    pages, left = [], 0
    for _ in range(names):
        if left:
            ahead.used(1)
            left -= 1
            continue
        page = ahead.missed(1)
        if page:
            ahead.fetched(1, page)
            pages.append(page)
            left = page
    return pages


def test_a_walk_fetches_larger_and_larger_pages() -> None:
    assert walk(LookAhead(), 1000) == [PAGE_FIRST, 4 * PAGE_FIRST, PAGE_MAX, PAGE_MAX, PAGE_MAX,
                                       PAGE_MAX]
    assert walk(LookAhead(), MISSES_FIRST - 1) == []


def test_pages_of_no_use_come_less_and_less_often() -> None:
    ahead = LookAhead()
    at = []
    for number in range(10_000):
        page = ahead.missed(1)
        if page:
            assert page == PAGE_FIRST
            ahead.fetched(1, page)
            at.append(number)
    intervals = [after - before for before, after in pairwise(at)]
    assert intervals == sorted(intervals)
    assert intervals[-1] == MISSES_MAX
    assert len(at) < 50


def test_a_page_that_was_used_again_is_followed_by_a_larger_one() -> None:
    ahead = LookAhead()
    for _ in range(2000):
        page = ahead.missed(1)
        if page:
            ahead.fetched(1, page)
    fetched = 0
    for _ in range(2000):  # now somebody walks
        page = ahead.missed(1)
        if page:
            ahead.fetched(1, page)
            fetched += 1
            for _ in range(page):
                ahead.used(1)
    assert fetched > 0
    assert ahead.missed(1) == PAGE_MAX


def test_directories_do_not_meet_and_are_bounded() -> None:
    ahead = LookAhead()
    for _ in range(MISSES_FIRST):
        assert [ahead.missed(directory) for directory in range(100)] in ([0] * 100,
                                                                         [PAGE_FIRST] * 100)
    for directory in range(10 * DIRECTORIES_MAX):
        ahead.missed(directory)
    assert len(ahead._windows) == DIRECTORIES_MAX
