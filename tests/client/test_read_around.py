"""Which regions are fetched whole: those of crowded small reads, and never for less than paid."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.client.core import read_around
from luciole.client.core.read_around import FETCH_AFTER, FETCH_AFTER_MAX, ReadAround

REGION = 1 << 20
PAGE = 4096


def test_a_crowded_region_is_fetched_once() -> None:
    around = ReadAround(REGION)
    assert around.asked(1, 5 * REGION + 40 * PAGE, PAGE) is None
    assert around.asked(1, 9 * REGION, PAGE) is None, "another region"
    assert around.asked(2, 5 * REGION, PAGE) is None, "another file"
    assert around.asked(1, 5 * REGION + 7 * PAGE, PAGE) == (5 * REGION, False)


def test_a_region_that_the_kernel_did_not_keep_costs_more_reads_each_time() -> None:
    around = ReadAround(REGION)
    needed = []
    for _ in range(8):
        reads = 1
        while around.asked(1, (reads * 37 % 100) * 2 * PAGE, PAGE) is None:
            reads += 1
        needed.append(reads)
    assert needed == [2, 4, 8, 16, 32, 64, 64, 64]
    assert needed[0] == FETCH_AFTER
    assert needed[-1] == FETCH_AFTER_MAX


def test_what_is_read_in_order_is_left_to_the_kernel() -> None:
    around = ReadAround(REGION)
    for reader in range(read_around.ENDS):  # all of one file, in turn
        assert around.asked(1, reader * 64 * REGION, 16 * PAGE) is None
    for step in range(1, 64):
        for reader in range(read_around.ENDS):
            assert around.asked(1, reader * 64 * REGION + step * 16 * PAGE, 16 * PAGE) is None


def test_large_reads_are_left_alone() -> None:
    around = ReadAround(REGION)
    assert all(around.asked(1, (step * 7 % 64) * REGION, REGION // 2) is None
               for step in range(100))


@settings(deadline=None)
@given(reads=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4 * REGION // PAGE)),
                      max_size=300))
def test_reads_pay_for_what_is_fetched(reads: list[tuple[int, int]]) -> None:
    around = ReadAround(REGION)
    paid: Counter[tuple[int, int]] = Counter()
    fetched: Counter[tuple[int, int]] = Counter()
    for inode_id, page in reads:
        paid[inode_id, page * PAGE // REGION] += 1
        wanted = around.asked(inode_id, page * PAGE, PAGE)
        if wanted is not None:
            assert wanted.begin <= page * PAGE < wanted.begin + REGION
            assert wanted.begin % REGION == 0
            fetched[inode_id, wanted.begin // REGION] += 1
    for region, count in fetched.items():
        # The first of them may have been for one read, where samples are dense.
        assert paid[region] >= FETCH_AFTER * (2**count - 1) - 1


def test_what_is_remembered_has_a_bound() -> None:
    around = ReadAround(PAGE * 4)
    for number in range(read_around.REGIONS_MAX + 100):
        around.asked(number % (read_around.FILES_MAX + 10), number * 8 * PAGE, PAGE)
    assert len(around._regions) == read_around.REGIONS_MAX
    assert len(around._files) == read_around.FILES_MAX
