"""The client against real volumes on real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.errors import FsError
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.namespace import Match
from luciole.kvcache.volume.checking import check
from luciole.rpc.memory import Region
from luciole.tests.kvcache.volumes import SPACE, content, key
from luciole.tests.kvcache.world import World

KIB = 1024
NAMES = [key(number) for number in range(60)]
SIZE = 10 * KIB
Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[World] = []

    def build(nodes: int = 3, *, shared: bool = False, **options: int) -> World:
        made.append(World(tmp_path / str(len(made)), nodes, shared=shared, **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def filled(world: World) -> None:
    results = world.namespace.put(NAMES, [content(name, SIZE) for name in NAMES])
    assert results == [Outcome.STORED] * len(NAMES)


def read(world: World, names: list[bytes], **options: float) -> list[Outcome]:
    """Gets blocks and compares those that came."""
    buffers = [bytearray(SIZE) for _ in names]
    outcomes = world.namespace.get(names, buffers, **options)  # type: ignore[arg-type]
    for name, buffer, outcome in zip(names, buffers, outcomes, strict=True):
        assert not outcome.ok or bytes(buffer) == content(name, SIZE)
    return outcomes


def test_blocks_go_to_all_volumes_and_come_back(make: Make) -> None:
    world = make()
    filled(world)
    assert all(len(volume.spaces[SPACE].index) > 5 for volume in world.volumes.values())
    assert read(world, NAMES) == [Outcome.HIT] * 60
    assert world.namespace.put(NAMES[:2], [b"other"] * 2) == [Outcome.PRESENT] * 2
    assert world.namespace.exists([key(99), *NAMES]) == [False] + [True] * 60
    assert read(world, [key(99), NAMES[3]]) == [Outcome.MISS, Outcome.HIT]
    assert world.namespace.delete([NAMES[0], key(99)]) == [True, False]
    assert world.namespace.exists(NAMES[:2]) == [False, True]
    stats = world.statistics.export()
    assert stats["get"]["hit"] == 61
    assert stats["get"]["miss"] == 1
    assert stats["get"]["bytes"] == 61 * SIZE


def test_a_match_counts_to_the_first_gap_and_holds_it(make: Make) -> None:
    world = make()
    filled(world)
    namespace = world.namespace
    match = namespace.match_prefix(NAMES, lease=30.0)
    assert match.count == 60
    assert match.size == 60 * SIZE
    assert 0 < match.estimate_seconds < 1
    assert match.lease is not None
    for volume in world.volumes.values():
        volume.evict(SPACE, 0)
    assert read(world, NAMES) == [Outcome.HIT] * 60
    assert namespace.extend(match.lease, 60.0)
    namespace.release(match.lease)
    assert not namespace.extend(match.lease, 60.0)
    for volume in world.volumes.values():
        volume.evict(SPACE, 0)
    gone = namespace.match_prefix(NAMES, lease=30.0)
    assert (gone.count, gone.lease) == (0, None)
    namespace.put(NAMES[:5], [content(name, SIZE) for name in NAMES[:5]])
    namespace.put(NAMES[6:9], [content(name, SIZE) for name in NAMES[6:9]])
    assert namespace.match_prefix(NAMES).count == 5
    namespace.delete(NAMES[:1])
    assert namespace.match_prefix(NAMES, lease=30.0) == Match(0, None, 0.0, 0)
    assert not any(len(volume.leases) for volume in world.volumes.values())


@pytest.mark.parametrize("length", [100, 65536, 200_000])
def test_layers_are_scattered_gathered_and_read_alone(make: Make, length: int) -> None:
    world = make()
    name, layers = key(1), 4
    whole = content(name, length * layers)
    parts = [bytearray(whole[at * length : (at + 1) * length]) for at in range(layers)]
    assert world.namespace.put([name], [parts]) == [Outcome.STORED]
    came = [bytearray(length) for _ in range(layers)]
    assert world.namespace.get([name], [came]) == [Outcome.HIT]
    assert came == parts
    for at in range(layers):
        one = bytearray(length)
        assert world.namespace.get([name], [one], offset=at * length) == [Outcome.HIT]
        assert one == parts[at]
    two = [bytearray(length), bytearray(length)]
    assert world.namespace.get([name], [two], offset=length) == [Outcome.HIT]
    assert two == parts[1:3]
    beyond = bytearray(length)
    assert world.namespace.get([name], [beyond], offset=layers * length) == [Outcome.WRONG_SIZE]


def test_a_buffer_of_another_size_is_told(make: Make) -> None:
    world = make()
    filled(world)
    buffers = [bytearray(SIZE), bytearray(SIZE - 1), bytearray(SIZE)]
    assert world.namespace.get(NAMES[:3], buffers) == [
        Outcome.HIT, Outcome.WRONG_SIZE, Outcome.HIT]
    assert bytes(buffers[2]) == content(NAMES[2], SIZE)


def test_a_large_batch_goes_in_parts(make: Make) -> None:
    world = make(1, slabs=40)
    names = [key(number) for number in range(30)]
    size = 700 * KIB
    data = [content(name, size) for name in names]
    assert world.namespace.put(names, data) == [Outcome.STORED] * 30
    buffers = [bytearray(size) for _ in names]
    assert world.namespace.get(names, buffers) == [Outcome.HIT] * 30
    assert buffers == data


def test_a_node_that_is_gone_costs_its_blocks_and_no_time(make: Make) -> None:
    world = make()
    filled(world)
    world.stop(2)
    began = time.monotonic()
    outcomes = read(world, NAMES)
    assert set(outcomes) == {Outcome.HIT, Outcome.UNREACHABLE}
    for _ in range(20):
        assert read(world, NAMES) == outcomes
    assert world.namespace.match_prefix(NAMES).count == outcomes.index(Outcome.UNREACHABLE)
    assert not all(world.namespace.exists(NAMES))
    assert time.monotonic() - began < 1.0
    assert {outcome.ok for outcome in world.namespace.put(
        [key(number) for number in range(100, 140)], [b"x" * 100] * 40)} == {True, False}


def test_a_second_copy_answers_for_the_first(make: Make) -> None:
    world = make(replication=2)
    filled(world)
    world.stop(2)
    assert read(world, NAMES) == [Outcome.HIT] * 60
    assert world.namespace.exists(NAMES) == [True] * 60
    assert world.namespace.match_prefix(NAMES).count == 60


def test_without_time_all_is_late(make: Make) -> None:
    world = make()
    filled(world)
    assert read(world, NAMES, deadline=0.0) == [Outcome.LATE] * 60
    assert world.namespace.match_prefix(NAMES, deadline=0.0).count == 0
    assert read(world, NAMES) == [Outcome.HIT] * 60


def test_quotas_of_all_volumes_make_the_quota(make: Make) -> None:
    quota = 2000 * KIB
    world = make(quota=quota)
    names = [key(number) for number in range(1600)]
    for first in range(0, len(names), 100):
        some = names[first : first + 100]
        world.namespace.put(some, [content(name, SIZE) for name in some])
    used = sum(volume.spaces[SPACE].used for volume in world.volumes.values())
    assert 0.98 * quota < used <= quota
    for volume in world.volumes.values():
        assert check(volume)[1] == []


def test_memory_answers_first_and_keeps_its_bound(make: Make) -> None:
    world = make(memory=30 * SIZE)
    filled(world)
    assert world.tier.used <= 30 * SIZE
    for node_id in list(world.servers):
        world.stop(node_id)
    outcomes = read(world, NAMES)
    assert 25 <= outcomes.count(Outcome.HIT) <= 30
    assert world.tier.counts.hits == outcomes.count(Outcome.HIT)
    here = [name for name, outcome in zip(NAMES, outcomes, strict=True) if outcome.ok]
    match = world.namespace.match_prefix(here, lease=30.0)
    assert match.count == len(here)
    fresh = [key(number) for number in range(200, 230)]
    for name in fresh:
        world.tier.keep(SPACE, name, [memoryview(content(name, SIZE))])
    assert read(world, here) == [Outcome.HIT] * len(here)


def test_arguments_that_cannot_be_are_errors(make: Make) -> None:
    world = make(1)
    for keys, buffers in (([b"short"], [b"x"]), ([key(1)], []), ([key(1), b"k" * 8], [b"x", b"y"]),
                          ([key(1)], ["text"]), ([key(1)], [b""])):
        with pytest.raises(FsError):
            world.namespace.put(keys, buffers)
    with pytest.raises(FsError, match="cannot be written"):
        world.namespace.get([key(1)], [b"constant"])


def test_a_volume_on_this_machine_puts_blocks_in_place(make: Make) -> None:
    world = make(nodes=1, shared=True)
    names, size = NAMES[:4], 68 * KIB
    memory = Region(5 * size)
    rooms = [memory.view[at : at + size] for at in range(0, 4 * size, size)]
    for name, room in zip(names, rooms, strict=True):
        room[:] = content(name, size)
    assert world.namespace.put(names, rooms) == [Outcome.STORED] * 4
    assert world.namespace.put([NAMES[5]], [b"short"]) == [Outcome.STORED]
    memory.view[:] = bytes(5 * size)
    # A gap, a block that is shorter than its room and one that is longer disturb no other.
    asked = [names[0], key(99), names[1], NAMES[5], names[2], names[3]]
    targets = [rooms[0], memory.view[4 * size :], rooms[1], memory.view[4 * size :], rooms[2],
               rooms[3][: 64 * KIB]]
    assert world.namespace.get(asked, targets) == [
        Outcome.HIT, Outcome.MISS, Outcome.HIT, Outcome.WRONG_SIZE, Outcome.HIT,
        Outcome.WRONG_SIZE]
    for name, room in zip(names[:3], rooms[:3], strict=True):
        assert room == content(name, size)
    assert world.namespace.get([key(99)], [rooms[0]]) == [Outcome.MISS]
    assert world.namespace.get(names[:1], [rooms[0][: 4 * KIB]], offset=64 * KIB) == [Outcome.HIT]
    assert rooms[0][: 4 * KIB] == content(names[0], size)[64 * KIB :]


def test_damage_is_noticed_where_the_block_is_put(make: Make, tmp_path: Path) -> None:
    world = make(nodes=1, shared=True)
    memory = Region(2 * 64 * KIB)
    rooms = [memory.view[: 64 * KIB], memory.view[64 * KIB :]]
    assert world.namespace.put(NAMES[:2], [content(name, 64 * KIB) for name in NAMES[:2]]) == [
        Outcome.STORED] * 2
    with (tmp_path / "0" / "1" / "blocks").open("r+b") as file:
        at = file.read().index(content(NAMES[0], 64 * KIB))
        file.seek(at + 1000)
        file.write(b"flipped")
    assert world.namespace.get(NAMES[:2], rooms) == [Outcome.DAMAGED, Outcome.HIT]
    assert rooms[1] == content(NAMES[1], 64 * KIB)
    assert world.namespace.get(NAMES[:1], rooms[:1]) == [Outcome.MISS]
