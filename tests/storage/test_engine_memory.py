"""`MemoryEngine` keeps the interface, and fails as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.runtime import drive
from luciole.storage.engine.engine import BlockEngine
from luciole.storage.engine.interface import Tag
from luciole.storage.engine.memory import MemoryDisk, MemoryEngine, MemoryStore
from luciole.storage.engine.records import Block
from luciole.tests.conformance.engine import EngineConformance, QuotaConformance
from luciole.tests.conformance.engine_model import (
    MIB,
    STEPS,
    A,
    B,
    Driver,
    Expected,
    check_chunk,
    chunk_name,
    pattern,
    remove,
    replace,
    run_steps,
    truncate,
    write,
)


class TestMemoryEngine(EngineConformance, QuotaConformance):
    @pytest.fixture
    def driver(self) -> Driver:
        return Driver(MemoryEngine())

    @pytest.fixture
    def small(self) -> Driver:
        return Driver(MemoryEngine(quota=4 * MIB))


def restart(driver: Driver) -> Driver:
    assert isinstance(driver.engine, MemoryEngine)
    driver.engine.restart()
    return driver


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_sequence_does_what_the_model_does(steps: list[tuple[int, ...]]) -> None:
    run_steps(Driver(MemoryEngine()), steps, restart)


@settings(max_examples=300, deadline=None)
@given(STEPS, STEPS, st.sampled_from([(False, False), (True, False), (False, True)]))
def test_power_loss_leaves_what_was_synced_or_something_later(
    before: list[tuple[int, ...]], later: list[tuple[int, ...]], survive: tuple[bool, bool]
) -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    run_steps(driver, before, restart)
    driver.sync()
    names = [chunk_name(number) for number in range(3)]
    history = {name: [_contents(driver, name)] for name in names}
    # Without further syncs: those would move the point that a power loss goes back to.
    for what, which, offset, length, seed in later:
        _change(driver, what, names[which], (offset, pattern(seed, length)))
        history[names[which]].append(_contents(driver, names[which]))
    records_survive, bytes_survive = survive
    engine.power_loss(records_survive=records_survive, bytes_survive=bytes_survive)
    for name in names:
        found = _contents(driver, name)
        assert found in (history[name] if records_survive else history[name][:1])


def _contents(driver: Driver, chunk: bytes) -> tuple[object, ...] | None:
    state = driver.state(chunk)
    if state is None:
        return None
    committed = driver.read(chunk) if state.committed else None
    pending = state.pending
    staged = driver.read(chunk, pending=True) if pending and not pending.removed else None
    return state.committed, committed, pending, staged


def _change(driver: Driver, what: int, chunk: bytes, where: tuple[int, bytes]) -> None:
    offset, data = where
    state = driver.state(chunk)
    end = state.committed.length if state and state.committed else 0
    version = 1000 + what
    if what in (12, 13):
        driver.abandon(chunk)
    elif what in (0, 1, 2):
        driver.put(chunk, version, replace(data), data)
    elif what in (3, 4):
        driver.put(chunk, version, write(offset, data), data)
    elif what > 16:
        driver.put(chunk, version, write(offset, data[:3000]), data[:3000])
    elif what in (5, 6):
        driver.stage(chunk, version, truncate(offset))
    elif what in (7, 8):
        driver.put(chunk, version, truncate(offset))
    else:
        driver.stage(chunk, version, write(end, data[:1000]), data[:1000])


def test_an_append_never_writes_where_a_lost_record_may_point() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    driver.put(A, 1, replace(b"a" * 100), b"a" * 100)
    driver.stage(A, 2, write(100, b"b" * 100), b"b" * 100)
    driver.sync()
    driver.abandon(A)
    driver.put(A, 3, write(100, b"c" * 100), b"c" * 100)
    engine.power_loss(bytes_survive=True)
    check_chunk(driver, A, Expected((1, b"a" * 100), (2, b"a" * 100 + b"b" * 100)))


class InterruptedDisk(MemoryDisk):
    """Lets something else happen between a reader's look at the record and its bytes."""

    interruption: Callable[[], None] | None = None

    def read(self, block: Block, offset: int, views: Sequence[memoryview]) -> int:
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            interruption()
        return super().read(block, offset, views)


def test_a_reader_overtaken_by_a_writer_reads_the_newer_version() -> None:
    disk = InterruptedDisk(1 << 30)
    driver = Driver(BlockEngine(MemoryStore(), disk, durability="process", quota=None, reserve=0))
    driver.put(A, 1, replace(b"one"), b"one")

    def overtake() -> None:
        driver.put(A, 2, replace(b"two"), b"two")
        driver.sync()
        driver.sync()
        driver.put(B, 1, replace(b"in the block that A had"), b"in the block that A had")

    disk.interruption = overtake
    data, outcome = driver.read_outcome(A, 0, 100)
    assert (data, outcome.version) == (b"two", 2)

    def disappear() -> None:
        driver.put(A, 3, remove())
        driver.sync()
        driver.sync()
        driver.put(B, 2, replace(b"and again"), b"and again")

    disk.interruption = disappear
    with pytest.raises(FsError) as raised:
        driver.read(A)
    assert raised.value.kind == Kind.CHUNK_NOT_FOUND


def test_power_loss_with_metadata_but_without_bytes() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    client = b"c" * 16
    old, new = pattern(1, 100_000), pattern(2, 100_000)
    driver.put(A, 1, write(0, old, tag=Tag(client, 1, 1)), old)
    driver.sync()
    driver.put(A, 2, write(0, new, tag=Tag(client, 1, 2)), new)
    driver.put(A, 3, write(100_000, new, tag=Tag(client, 1, 3)), new)
    driver.put(B, 1, write(0, new), new)
    engine.power_loss(records_survive=True)
    check_chunk(driver, A, Expected((1, old), None))
    assert driver.state(B) is None
    # The lost update is not taken for applied: the client's retry must go through.
    assert drive(engine.applied(client, 1)) is None


def test_a_block_is_not_used_again_while_a_power_loss_may_need_it() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    old = pattern(1, 100)
    driver.put(A, 1, replace(old), old)
    driver.sync()
    driver.put(A, 2, replace(b"new"), b"new")
    for version in range(1, 20):
        driver.put(B, version, replace(pattern(version, 100)), pattern(version, 100))
    engine.power_loss()
    check_chunk(driver, A, Expected((1, old), None))


def test_with_durability_power_every_call_survives() -> None:
    engine = MemoryEngine(durability="power")
    driver = Driver(engine)
    driver.put(A, 1, replace(b"one"), b"one")
    driver.stage(A, 2, replace(b"two"), b"two")
    driver.stage(B, 1, replace(b"gone"), b"gone")
    driver.abandon(B)
    engine.power_loss()
    check_chunk(driver, A, Expected((1, b"one"), (2, b"two")))
    check_chunk(driver, B, None)


def test_rot_is_detected_by_reads_and_by_updates_that_touch_it() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    data = pattern(1, 200_000)
    driver.put(A, 1, write(0, data), data)
    engine.corrupt(A, 70_000)
    assert driver.read(A, 0, 65536) == data[:65536]
    attempts = (
        lambda: driver.read(A, 65536, 10),
        lambda: driver.stage(A, 2, write(131_000, b"x"), b"x"),
        lambda: driver.stage(A, 2, truncate(70_000)),
    )
    for attempt in attempts:
        with pytest.raises(FsError) as raised:
            attempt()
        assert raised.value.kind == Kind.CHECKSUM_MISMATCH
        assert "block 1 " in raised.value.message
    # An update elsewhere carries the rot along, still detectable.
    driver.put(A, 2, write(0, b"y"), b"y")
    with pytest.raises(FsError):
        driver.read(A)
    # Bytes laid over the whole block repair it.
    driver.put(A, 3, write(65536, data[65536:131072]), data[65536:131072])
    assert driver.read(A) == b"y" + data[1:]


def test_a_full_disk_refuses_new_blocks_only() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    driver.put(A, 1, replace(b"a"), b"a")
    driver.stage(B, 1, replace(b"b"), b"b")
    engine.fill_disk()
    with pytest.raises(FsError) as raised:
        driver.stage(A, 2, replace(b"c"), b"c")
    assert raised.value.kind == Kind.NO_SPACE
    driver.commit(B, 1)
    driver.put(A, 2, write(1, b"b"), b"b")  # an append in place needs no block
    assert driver.read(A) == b"ab"
    engine.fill_disk(False)
    driver.put(A, 3, replace(b"c"), b"c")
    assert driver.read(A) == b"c"


def test_a_small_overwrite_writes_the_piece_that_it_touches() -> None:
    class CountingDisk(MemoryDisk):
        written = 0

        def write(self, block: Block, offset: int, views: Sequence[memoryview]) -> None:
            self.written += sum(map(len, views))
            super().write(block, offset, views)

    disk = CountingDisk(1 << 30)
    driver = Driver(BlockEngine(MemoryStore(), disk, durability="process", quota=None, reserve=0))
    data = pattern(1, MIB)
    driver.put(A, 1, write(0, data), data)
    disk.written = 0
    driver.put(A, 2, write(500_000, b"x" * 4096), b"x" * 4096)
    assert disk.written == 65536
    disk.written = 0
    for version in range(3, 63):
        offset = version * 7919 * 4096 % MIB
        driver.put(A, version, write(offset, b"y" * 4096), b"y" * 4096)
    assert disk.written / 60 < 2 * 65536


def test_rot_in_a_patch_and_beside_it() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    data = pattern(1, 300_000)
    driver.put(A, 1, write(0, data), data)
    driver.put(A, 2, write(70_000, b"patch"), b"patch")
    content = data[:70_000] + b"patch" + data[70_005:]
    engine.corrupt(A, 70_002)
    engine.corrupt(A, 200_000)
    assert driver.read(A, 0, 65536) == content[:65536]
    for offset in (70_000, 199_000):
        with pytest.raises(FsError) as raised:
            driver.read(A, offset, 10)
        assert f"block {offset // 65536} " in raised.value.message
    drive(engine.repair(A, 2, memoryview(content)))
    check_chunk(driver, A, Expected((2, content), None))
    state = driver.state(A)
    assert state is not None
    assert state.allocated == 8 * 65536  # in one block again


def test_a_power_loss_after_a_patch_finds_the_old_piece() -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    data = pattern(1, 300_000)
    driver.put(A, 1, write(0, data), data)
    driver.put(A, 2, write(70_000, b"first"), b"first")
    driver.sync()
    first = data[:70_000] + b"first" + data[70_005:]
    driver.put(A, 3, write(70_000, b"later"), b"later")
    for version in range(1, 10):
        driver.put(B, version, replace(b"%d" % version), b"%d" % version)
    engine.power_loss(records_survive=True)
    check_chunk(driver, A, Expected((2, first), None))
