"""The decisions of the KV cache: eviction, quotas, leases, slots, placement, packing."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError
from luciole.kvcache.core.eviction import Entry, Queues
from luciole.kvcache.core.leases import Leases
from luciole.kvcache.core.packing import pack_keys, split_keys
from luciole.kvcache.core.placement import BUCKETS, Placement
from luciole.kvcache.core.slots import SLAB_HEADER, Slot, Slots, class_of, slot_bytes
from luciole.kvcache.core.space import Space

GIB = 1 << 30


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Cache:
    """A space as its owners use it."""

    def __init__(self, limit: int) -> None:
        self.space: Space[None] = Space(limit)

    def get(self, number: int) -> bool:
        entry = self.space.find(key(number), 0)
        if entry is not None:
            self.space.touch(entry)
        return entry is not None

    def put(self, number: int, size: int = 1) -> bool:
        fits, _ = self.space.room_for(size)
        if fits:
            self.space.add(Entry(key(number), size, size, None))
        return fits

    def ask(self, number: int) -> bool:
        found = self.get(number)
        if not found:
            self.put(number)
        return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pgdlr"), st.integers(0, 40), st.integers(1, 5)),
                max_size=200))
def test_leased_blocks_stay_and_the_limit_holds(steps: list[tuple[str, int, int]]) -> None:
    cache, leases = Cache(30), Leases[None]()
    held: dict[int, Entry[None]] = {}
    for action, number, size in steps:
        entry = cache.space.index.get(key(number))
        if action == "p" and entry is None:
            cache.put(number, size)
        elif action == "g":
            cache.get(number)
        elif action == "d" and entry is not None and not entry.leases:
            cache.space.remove(entry)
        elif action == "l" and entry is not None and number not in held:
            assert leases.grant(number, [entry], 1.0)
            held[number] = entry
        elif action == "r" and number in held:
            assert leases.release(number)
            del held[number]
        assert cache.space.used <= 30
        assert cache.space.used == sum(entry.size for entry in cache.space.index.values())
        for number_held, entry in held.items():
            assert cache.space.index[key(number_held)] is entry


def test_an_eviction_among_leased_blocks_ends_and_finds_nothing() -> None:
    cache, leases = Cache(2000), Leases[None]()
    for number in range(2000):
        assert cache.put(number)
    leases.grant(1, list(cache.space.index.values()), 1.0)
    assert not cache.put(5000)
    assert len(cache.space.index) == 2000
    leases.release(1)
    assert cache.put(5000)


def hit_rate_after_scan(asked: int) -> float:
    """A working set that is in use, then a scan ten times the cache, then the set again."""
    cache = Cache(1000)
    chance = random.Random(1)
    for _ in range(20_000):
        cache.ask(chance.randrange(asked))
    for number in range(10_000, 20_000):
        cache.ask(number)
    return sum(cache.get(number) for number in range(asked)) / asked


def test_a_scan_does_not_wash_the_working_set_out() -> None:
    # An LRU of this size would keep none of it.
    assert hit_rate_after_scan(800) > 0.85


def test_what_is_asked_for_again_soon_after_it_went_is_kept() -> None:
    queues: Queues[None] = Queues()
    for number in range(1, 20):
        queues.insert(Entry(key(number), 1, 1, None))
    gone = queues.evict()
    assert gone is not None
    assert gone.key == key(1)
    queues.insert(Entry(key(1), 1, 1, None))
    for _ in range(18):
        evicted = queues.evict()
        assert evicted is not None
        assert evicted.key != key(1)


def test_skewed_requests_hit_as_often_as_published_for_fifo_queues() -> None:
    """Zipf with exponent 1 over 10,000 objects: S3-FIFO with a tenth of them beats FIFO clearly."""
    chance = random.Random(2)
    weights = [1 / rank for rank in range(1, 10_001)]
    asked = chance.choices(range(10_000), weights, k=60_000)
    cache = Cache(1000)
    hits = sum(cache.ask(number) for number in asked)
    fifo: dict[int, None] = {}
    fifo_hits = 0
    for number in asked:
        if number in fifo:
            fifo_hits += 1
            continue
        if len(fifo) == 1000:
            del fifo[next(iter(fifo))]
        fifo[number] = None
    assert hits > 1.06 * fifo_hits


def test_age_is_a_miss_unless_leased() -> None:
    space: Space[None] = Space(ttl_ns=10)
    entry: Entry[None] = Entry(b"k" * 8, 1, 1, None, created_ns=100)
    space.add(entry)
    assert space.find(b"k" * 8, 109) is entry
    assert space.find(b"k" * 8, 110) is None
    entry.leases = 1
    assert space.find(b"k" * 8, 110) is entry
    assert list(space.expired(200)) == []
    entry.leases = 0
    assert list(space.expired(200)) == [entry]


def test_a_lease_ends_at_its_deadline_or_by_its_owner() -> None:
    leases: Leases[None] = Leases()
    entries: list[Entry[None]] = [Entry(key(number), 1, 1, None) for number in range(3)]
    leases.grant(1, entries[:2], 10.0)
    leases.grant(2, entries[1:], 10.0)
    assert [entry.leases for entry in entries] == [1, 2, 1]
    assert leases.extend(1, 20.0)
    assert leases.expire(10.0) == 1
    assert [entry.leases for entry in entries] == [1, 1, 0]
    assert not leases.extend(2, 30.0)
    assert leases.extend(1, 5.0)
    assert leases.expire(6.0) == 1
    assert [entry.leases for entry in entries] == [0, 0, 0]
    assert not leases.release(1)


@given(st.integers(1, 64 << 20))
def test_a_class_wastes_at_most_an_eighth(length: int) -> None:
    room = class_of(length)
    assert length <= room <= max(length + 63, length * 9 // 8 + 1)
    assert class_of(room) == room


@pytest.mark.parametrize("length", [4096, 65536, 1 << 20, 4 << 20, 16 << 20, 32 << 20])
def test_slabs_hold_64_mib_of_common_blocks(length: int) -> None:
    slots = Slots(1)
    assert class_of(length) == length
    assert length <= slots.length_max
    count = 0
    while slots.take(length):
        count += 1
    # The headers of very small blocks take their part.
    assert count * length >= (64 << 20) * (0.95 if length == 4096 else 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([100, 1000, 3000])), max_size=120))
def test_slots_never_overlap_and_none_is_lost(steps: list[tuple[bool, int]]) -> None:
    slots = Slots(3, SLAB_HEADER + 8000)
    held: list[tuple[Slot, int, int]] = []
    for put, length in steps:
        if put:
            taken = slots.take(class_of(length))
            if taken:
                place = slots.position(taken[0])
                held.append((taken[0], place, place + slot_bytes(class_of(length))))
        elif held:
            slots.give_back(held.pop(len(held) // 2)[0])
        ranges = sorted((begin, end) for _, begin, end in held)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))
        exist, free = slots.census()
        assert exist - free == len(held)
    for slot, _, _ in held:
        slots.give_back(slot)
    assert slots.census() == (0, 0)


def test_a_lost_volume_moves_its_own_buckets_only() -> None:
    three, two = (Placement(dict.fromkeys(nodes, GIB)) for nodes in ((1, 2, 3), (1, 3)))
    keys = [random.Random(number).randbytes(32) for number in range(3000)]
    for name in keys:
        before, after = three.ranking(5, name), two.ranking(5, name)
        assert after == tuple(node for node in before if node != 2)
    firsts = [three.ranking(5, name)[0] for name in keys]
    assert all(800 < firsts.count(node) < 1200 for node in (1, 2, 3))
    assert len({three.ranking(space, keys[0]) for space in range(50)}) > 1


@given(st.dictionaries(st.integers(1, 500), st.integers(1, 8), min_size=1, max_size=9),
       st.integers(1, 3), st.integers(0, 1 << 40))
@settings(max_examples=20, deadline=None)
def test_parts_of_a_quota_make_the_quota(
    weights: dict[int, int], replication: int, quota: int
) -> None:
    placement = Placement({node: weight * GIB for node, weight in weights.items()})
    total = sum(placement.quota_of(node, quota, replication) for node in weights)
    assert quota - len(weights) <= total <= quota
    assert sum(placement.share(node, 1) for node in weights) == BUCKETS


def test_a_larger_volume_gets_more() -> None:
    placement = Placement({1: GIB, 2: 3 * GIB})
    assert 0.72 < placement.share(2, 1) / BUCKETS < 0.78


@given(st.integers(8, 64), st.integers(0, 50))
def test_keys_pack(size: int, count: int) -> None:
    keys = [random.Random(number).randbytes(size) for number in range(count)]
    assert split_keys(*pack_keys(keys)) == keys


def test_keys_that_cannot_be_are_refused() -> None:
    for keys in ([b"k" * 7], [b"k" * 65], [b"k" * 8, b"k" * 9]):
        with pytest.raises(FsError, match="keys"):
            pack_keys(keys)
    with pytest.raises(FsError, match="no whole keys"):
        split_keys(8, b"123456789")
