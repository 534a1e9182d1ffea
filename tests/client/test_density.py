"""When regions are fetched at their first read: where second reads came, and only as long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.client.core.density import (
    HOPE_MAX,
    PROBE_EVERY,
    PROBES_PAID,
    RETURNS_MIN,
    WAITS_MAX,
    WAITS_PER_RETURN,
    Density,
)
from luciole.client.core.read_around import ReadAround

REGION = 1 << 20
PAGE = 4096
GIB_PAGES = (1 << 30) // PAGE
AT_ONCE_MAX = (HOPE_MAX + 1) * (PROBE_EVERY - 1)  # once nothing comes back any more


class Reader:
    """A program that samples a file, through a kernel that keeps what it was given."""

    def __init__(self) -> None:
        self.around = ReadAround(REGION)
        self.reads: dict[int, int] = {}  # region -> reads that were asked for
        self.kept: set[int] = set()
        self.at_once = 0  # regions fetched for their first read
        self.returns = 0  # and for their second
        self.alone = 0  # reads that fetched nothing

    def read(self, page: int) -> None:
        region = page * PAGE // REGION
        if region in self.kept:
            return
        self.reads[region] = self.reads.get(region, 0) + 1
        if self.around.asked(1, page * PAGE, PAGE) is None:
            self.alone += 1
            return
        self.kept.add(region)
        self.at_once += self.reads[region] == 1
        self.returns += self.reads[region] == 2

    def read_region(self, region: int, times: int = 1) -> None:
        """Pages of it that do not follow one another."""
        for _ in range(times):
            self.read(region * REGION // PAGE + 2 * self.reads.get(region, 0))


def crowd(reader: Reader) -> int:
    """Makes the file's samples dense; returns a region that was not read."""
    for region in range(RETURNS_MIN):
        reader.read_region(region, 2)
    assert reader.returns == RETURNS_MIN
    return RETURNS_MIN


@st.composite
def walks(draw: st.DrawFn) -> list[int]:
    """Regions: new ones, and some of the last dozen, in stretches of more and of less crowds."""
    regions: list[int] = []
    for new_of_ten, steps in draw(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 60)),
                                           max_size=8)):
        for choice in draw(st.lists(st.integers(0, 119), min_size=steps, max_size=steps)):
            fresh = not regions or choice % 10 < new_of_ten
            regions.append(len(set(regions)) if fresh
                           else regions[-1 - choice // 10 % len(regions)])
    return regions


def test_where_second_reads_came_the_first_is_enough() -> None:
    reader = Reader()
    first = crowd(reader)
    for region in range(first, first + PROBE_EVERY):
        reader.read_region(region)
    assert reader.at_once == PROBE_EVERY - 1, "one of them is a probe"
    assert first not in reader.kept
    reader.read_region(first)
    assert first in reader.kept, "and waits for its second read"


def test_other_files_have_their_own_judgement() -> None:
    reader = Reader()
    first = crowd(reader)
    reader.read_region(first)  # the probe
    assert reader.around.asked(2, (first + 1) * REGION, PAGE) is None
    assert reader.around.asked(1, (first + 1) * REGION, PAGE) == ((first + 1) * REGION, True)


def test_a_reader_who_goes_on_like_that_is_judged_dense_for_ever() -> None:
    reader = Reader()
    first = crowd(reader)
    for region in range(first, first + 100 * PROBE_EVERY):
        reader.read_region(region, 8)
    assert reader.at_once == 100 * (PROBE_EVERY - 1)


@settings(deadline=None)
@given(walk=walks())
def test_second_reads_pay_for_what_is_fetched_at_the_first(walk: list[int]) -> None:
    reader = Reader()
    for region in walk:
        reader.read_region(region)
        assert reader.at_once <= PROBES_PAID * (PROBE_EVERY - 1) * reader.returns
        assert len(reader.kept) <= sum(reader.reads.values())


@settings(deadline=None)
@given(walk=walks())
def test_once_nothing_comes_back_little_more_is_fetched(walk: list[int]) -> None:
    reader = Reader()
    for region in walk:
        reader.read_region(region)
    before = reader.at_once
    first = max(walk, default=-1) + 1
    for region in range(first, first + 4 * AT_ONCE_MAX):
        reader.read_region(region)
    assert reader.at_once - before <= AT_ONCE_MAX
    assert reader.around.asked(1, (first + 4 * AT_ONCE_MAX) * REGION, PAGE) is None


def test_and_that_much_is_fetched_indeed() -> None:
    reader = Reader()
    first = crowd(reader)
    for region in range(first, first + 4 * AT_ONCE_MAX):
        reader.read_region(region)
    assert reader.at_once == HOPE_MAX * (PROBE_EVERY - 1)


@given(regions=st.lists(st.integers(0, 4000), unique=True, max_size=400))
def test_where_nothing_comes_back_nothing_is_fetched(regions: list[int]) -> None:
    reader = Reader()
    for region in regions:
        reader.read_region(region)
    assert not reader.kept


@pytest.mark.parametrize("seed", range(40))
def test_sparse_samples_fetch_nothing_at_the_first_read(seed: int) -> None:
    """A few here and there do come back: 300 pages of a thousand regions."""
    reader = Reader()
    for page in random.Random(seed).sample(range(GIB_PAGES), 300):
        reader.read(page)
    assert reader.returns > RETURNS_MIN
    assert reader.at_once == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_file_read_all_over_asks_for_little_alone(seed: int) -> None:
    """Samples of an eighth of a region, each once: without a judgement, one alone a region."""
    reader = Reader()
    regions = 256
    for sample in random.Random(seed).sample(range(8 * regions), 8 * regions):
        reader.read(sample * REGION // 8 // PAGE)
    assert len(reader.kept) == regions
    assert reader.alone < 0.7 * regions


def test_what_the_kernel_does_not_keep_ends_it() -> None:
    reader = Reader()
    first = crowd(reader)
    for region in range(first, first + HOPE_MAX + 2):
        reader.read_region(region)
    at_once = sorted(reader.kept)[RETURNS_MIN:]
    for region in at_once:  # once more, as if it had not been fetched
        reader.kept.discard(region)
        reader.read_region(region)
    assert len(at_once) == HOPE_MAX
    reader.read_region(1000)
    reader.read_region(1001)
    assert not reader.kept & {1000, 1001}


def test_what_was_judged_long_ago_is_forgotten() -> None:
    """Dense samples are noticed after any number of sparse ones."""
    density = Density()
    for _ in range(100 * WAITS_MAX):
        assert not density.opened()
    for _ in range(WAITS_MAX // WAITS_PER_RETURN + 1):
        density.returned()
    assert density.dense
