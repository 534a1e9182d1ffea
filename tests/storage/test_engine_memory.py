"""`MemoryEngine` keeps the interface, and fails as it is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.runtime import drive
from luciole.storage.engine.interface import Tag
from luciole.storage.engine.memory import MemoryEngine
from luciole.tests.conformance.engine import EngineConformance, QuotaConformance
from luciole.tests.conformance.engine_model import (
    MIB,
    STEPS,
    A,
    B,
    Driver,
    Expected,
    check_chunk,
    pattern,
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


@settings(max_examples=100, deadline=None)
@given(STEPS, STEPS, st.booleans())
def test_power_loss_leaves_what_was_synced(
    before: list[tuple[int, ...]], later: list[tuple[int, ...]], records_survive: bool
) -> None:
    engine = MemoryEngine()
    driver = Driver(engine)
    run_steps(driver, before, restart)
    driver.sync()
    chunks, _ = drive(engine.list(b"", None, 100))
    synced = {state.chunk_id: _contents(driver, state.chunk_id) for state in chunks}
    # Without further syncs: those would move the point that a power loss goes back to.
    for what, which, offset, length, seed in later:
        if what not in (14, 15):
            _change(driver, what, (A, B)[which % 2], (offset, pattern(seed, length)))
    engine.power_loss(records_survive=records_survive)
    chunks, _ = drive(engine.list(b"", None, 100))
    if not records_survive:
        assert synced == {state.chunk_id: _contents(driver, state.chunk_id) for state in chunks}
    for state in chunks:
        _contents(driver, state.chunk_id)  # every byte that is left verifies


def _contents(driver: Driver, chunk: bytes) -> tuple[object, ...]:
    state = driver.state(chunk)
    assert state is not None
    committed = driver.read(chunk) if state.committed else None
    pending = state.pending
    staged = driver.read(chunk, pending=True) if pending and not pending.removed else None
    return state.committed, committed, pending, staged


def _change(driver: Driver, what: int, chunk: bytes, where: tuple[int, bytes]) -> None:
    offset, data = where
    if what == 13:
        driver.abandon(chunk)
    elif what % 3 == 0:
        driver.put(chunk, 1001, replace(data), data)
    elif what % 3 == 1:
        driver.put(chunk, 1002, write(offset, data), data)
    else:
        driver.stage(chunk, 1003, truncate(offset))


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
