"""Slices of regions: nobody shares one, all come back, no peer writes into one that is given."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator

import pytest

from luciole.rpc import slices
from luciole.rpc.interface import Arena
from luciole.rpc.memory import PAGE, Region, address_of, place_of
from luciole.rpc.slices import REGION_BYTES, Extents, Slices
from luciole.rpc.stream import Inbox
from luciole.tests.rpc.test_shared import region_files


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = region_files()
    yield
    gc.collect()
    assert region_files() == before, "a region outlives its pool"


def test_extents_give_what_is_free_and_take_it_back() -> None:
    chance = random.Random(1)
    extents, taken = Extents(1000), dict[int, int]()
    for _ in range(5000):
        if taken and chance.random() < 0.5:
            begin = chance.choice(list(taken))
            extents.give(begin, taken.pop(begin))
        else:
            size = chance.randint(1, 200)
            found = extents.take(size)
            held = {at for begin, length in taken.items() for at in range(begin, begin + length)}
            if found is None:
                free = "".join("x" if at in held else "." for at in range(1000))
                assert "." * size not in free
                continue
            assert not held & set(range(found, found + size))
            assert 0 <= found <= 1000 - size
            taken[found] = size
    for begin, size in taken.items():
        extents.give(begin, size)
    assert extents.take(1000) == 0
    assert extents.take(1) is None


def test_slices_begin_at_pages_and_lie_in_regions() -> None:
    pool = Slices()
    held = [pool.take(size) for size in (1, PAGE, PAGE + 1, 1 << 20)]
    for number, view in enumerate(held):
        view[:] = bytes([number]) * len(view)
        assert address_of(view) % PAGE == 0
        assert place_of(view) is not None
    assert [set(view) for view in held] == [{0}, {1}, {2}, {3}]
    assert pool.regions == 1


def test_a_slice_is_used_again_when_its_last_view_is_gone() -> None:
    pool = Slices()
    whole = pool.take(REGION_BYTES)
    part = whole[5:6]
    part[:] = b"x"
    address = address_of(whole)
    del whole
    other = pool.take(PAGE)
    assert not address <= address_of(other) < address + REGION_BYTES
    del part, other
    assert pool.regions == 1
    again = pool.take(REGION_BYTES)
    assert bytes(again[:PAGE]) == bytes(PAGE), "its pages went back to the system meanwhile"


def test_regions_are_few_and_end_with_their_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "REGIONS_MAX", 3)
    pool = Slices()
    held = [pool.take(REGION_BYTES) for _ in range(4)]
    assert [place_of(view) is not None for view in held] == [True, True, True, False]
    held[3][:5] = b"works"
    assert place_of(pool.take(REGION_BYTES + 1)) is None
    del held
    assert pool.regions == 1


def test_what_a_peer_may_still_write_is_not_given_again() -> None:
    pool = Slices()
    room, kept = pool.take(2 * PAGE), pool.take(PAGE)
    place = place_of(room)
    assert place is not None
    place.region.lend_no_more(place.offset, 2 * PAGE)
    address = address_of(room)
    del room
    assert address_of(pool.take(PAGE)) not in range(address, address + 2 * PAGE)
    assert pool.regions == 1
    del kept
    assert pool.regions == 0, "nothing is left but what was lost"
    assert place.region.closed


def test_threads_take_and_give_at_once() -> None:
    pool, failures = Slices(), []

    def work(number: int) -> None:
        chance = random.Random(number)
        held: list[memoryview] = []
        for _ in range(400):
            view = pool.take(chance.randint(1, 64 * PAGE))
            if place_of(view) is None or any(view[::PAGE]):
                failures.append("not fresh")
            view[::PAGE] = bytes([number]) * len(view[::PAGE])
            held.append(view)
            while len(held) > 8:
                gone = held.pop(chance.randrange(len(held)))
                if set(gone[::PAGE]) != {number}:
                    failures.append("shared")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert place_of(pool.take(REGION_BYTES)) is not None
    assert pool.regions == 1


def test_a_collection_in_the_middle_of_a_take_is_no_deadlock(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Slices()
    dropped = [pool.take(PAGE)]

    class Dropping(Region):
        def __init__(self, size: int) -> None:
            dropped.clear()  # under the pool's lock, as a collection may
            super().__init__(size)

    monkeypatch.setattr(slices, "Region", Dropping)
    held = pool.take(REGION_BYTES)
    assert not dropped
    assert pool.regions == 1, "the one that came back meanwhile was put back behind it"
    del held


def test_arenas_and_inboxes_of_slices_can_be_lent() -> None:
    pool = Slices()
    arena, inbox = Arena(pool.take), Inbox(pool.take)
    payload = arena.take(1 << 20)
    assert place_of(payload) is not None
    assert address_of(payload) % PAGE == 0
    inbox.align(100, 100)
    inbox.grow(100, 3 << 20)
    assert place_of(inbox.view) is not None
    assert address_of(inbox.view[100:]) % PAGE == 0
    del payload
    arena.reset(keep=0)
    inbox.shrink(0)
    whole = pool.take(REGION_BYTES)
    assert pool.regions == 1, "idle connections have given everything back"
    del whole
