"""`RangeSet` and `ConflictHistory` against plain sets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import Kind
from luciole.kv.history import ConflictHistory
from luciole.kv.ranges import RangeSet
from luciole.tests.conformance.kv_subject import raises

KEYS = sorted([bytes([first, *rest]) for first in range(4) for rest in ((), (0,), (0, 0), (1,))])
keys = st.sampled_from(KEYS)
ranges = st.lists(st.tuples(keys, keys), max_size=8)


@given(ranges, keys, keys)
@settings(derandomize=True, database=None)
def test_range_set_is_a_set(pairs: list[tuple[bytes, bytes]], begin: bytes, end: bytes) -> None:
    made = RangeSet(pairs)
    members = {key for key in KEYS for low, high in pairs if low <= key < high}
    for each in (made, RangeSet.decode(made.encode())):
        assert {key for key in KEYS if each.contains(key)} == members
        bounds = [bound for pair in each for bound in pair]
        assert bounds == sorted(set(bounds)), "sorted, disjoint, not touching"
        overlaps = any(low < end and begin < high and low < high for low, high in pairs)
        assert each.intersects(begin, end) == (begin < end and overlaps)


def test_history_forgets_by_time_and_by_version() -> None:
    history = ConflictHistory(version=10)
    for version in range(11, 16):
        history.record(version, float(version), RangeSet([(b"a", b"b")]))
    reads = [(b"x", b"z")]
    history.check(10, reads)
    history.forget(before=13.0)
    assert history.floor == 12
    history.check(12, reads)
    raises(Kind.KV_TOO_OLD, lambda: history.check(11, reads))
    history.check(0, [])
    raises(Kind.KV_CONFLICT, lambda: history.check(14, [(b"a", b"a\0")]))
    history.check(15, [(b"a", b"a\0")])
    history.forget(before=0.0, floor=20)
    assert (history.floor, history.newest) == (20, 20)


@given(st.lists(keys, max_size=8))
@settings(derandomize=True, database=None)
def test_a_range_set_of_keys_is_as_if_each_were_added(members: list[bytes]) -> None:
    made = RangeSet.of_keys(members)
    assert list(made) == list(RangeSet((key, key + b"\0") for key in members))
