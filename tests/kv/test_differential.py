"""Random interleaved transactions: the engines agree with each other and with a plain dictionary.

Both engines get the same steps and must give the same answers. A model judges them: what a
transaction reads must be what its steps give on a copy of the records as of its first read; and
when one that wrote commits, what it read (but for snapshot reads) must be the same on the newest
records: commits are serializable in their order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import FsError
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.interface import Transaction
from luciole.kv.memory import MemoryStore
from luciole.runtime import ThreadRuntime, drive

Records = dict[bytes, bytes]
NAMES = [bytes([letter]) for letter in b"abcdef"] + [b"c" * 600, b"c" * 600 + b"d"]
SLOTS = 3


class Step(NamedTuple):
    """One call on the transaction in a slot."""

    slot: int
    action: str
    name: bytes = b"a"
    other: bytes = b"b"
    limit: int = 0
    reverse: bool = False
    snapshot: bool = False


names = st.sampled_from(NAMES)
slots = st.integers(0, SLOTS - 1)
steps = st.one_of(
    st.builds(Step, slots, st.sampled_from(["set", "clear", "add"]), names, names),
    st.builds(Step, slots, st.just("get"), names, names, snapshot=st.booleans()),
    st.builds(
        Step,
        slots,
        st.just("range"),
        names,
        names,
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        Step, slots, st.sampled_from(["clear_range", "read_mark", "write_mark"]), names, names
    ),
    st.builds(Step, slots, st.just("commit")),
)


def _bounds(step: Step, prefix: bytes) -> tuple[bytes, bytes]:
    begin, end = sorted((step.name, step.other))
    return prefix + begin, prefix + end


def on_engine(transaction: Transaction, step: Step, prefix: bytes) -> object:
    """Carries out a step; returns what it read."""
    key = prefix + step.name
    begin, end = _bounds(step, prefix)
    if step.action == "get":
        return drive(_get(transaction, key, step.snapshot))
    if step.action == "range":
        return drive(_range(transaction, begin, end, step))
    if step.action == "set":
        transaction.set(key, step.other)
    elif step.action == "clear":
        transaction.clear(key)
    elif step.action == "add":
        transaction.add(key, len(step.other))
    elif step.action == "clear_range":
        transaction.clear_range(begin, end)
    elif step.action == "read_mark":
        transaction.add_read_conflict(begin, end)
    else:
        transaction.add_write_conflict(begin, end)
    return None


async def _get(transaction: Transaction, key: bytes, snapshot: bool) -> bytes | None:
    return await transaction.get(key, snapshot=snapshot)


async def _range(transaction: Transaction, begin: bytes, end: bytes, step: Step) -> object:
    return await transaction.get_range(
        begin, end, limit=step.limit, reverse=step.reverse, snapshot=step.snapshot
    )


def on_model(records: Records, step: Step, prefix: bytes) -> object:
    """Carries out a step on a dictionary; returns what it read."""
    key = prefix + step.name
    begin, end = _bounds(step, prefix)
    inside = sorted((each for each in records if begin <= each < end), reverse=step.reverse)
    if step.action == "get":
        return records.get(key)
    if step.action == "range":
        return [(each, records[each]) for each in inside[: step.limit or None]]
    if step.action == "set":
        records[key] = step.other
    elif step.action == "clear":
        records.pop(key, None)
    elif step.action == "add":
        base = records.get(key, b"")[:8].ljust(8, b"\0")
        records[key] = struct.pack("<Q", (struct.unpack("<Q", base)[0] + len(step.other)) % 2**64)
    elif step.action == "clear_range":
        for each in inside:
            del records[each]
    return None


class Slot:
    """A transaction on both engines, what it did, and the records as it must see them."""

    def __init__(self, memory: MemoryStore, embedded: EmbeddedStore) -> None:
        self.engines = (memory.transaction(), embedded.transaction())
        self.done: list[tuple[Step, object]] = []
        self.seen: Records | None = None


def _outcome(transaction: Transaction) -> str:
    try:
        drive(_commit(transaction))
    except FsError as failure:
        return str(failure.kind)
    return "committed"


async def _commit(transaction: Transaction) -> None:
    await transaction.commit()


def _read(slot: Slot, step: Step, prefix: bytes, newest: Records) -> None:
    """A step on both engines, checked against each other and against the snapshot."""
    answers = [on_engine(transaction, step, prefix) for transaction in slot.engines]
    assert answers[0] == answers[1], step
    if slot.seen is None and slot.engines[0]._snapshot is not None:
        slot.seen = dict(newest)
    # Without a snapshot it knows its own writes alone, which say the same on no records.
    replayed = dict(slot.seen or {})
    for earlier, _ in slot.done:
        on_model(replayed, earlier, prefix)
    slot.done.append((step, answers[0]))
    assert on_model(replayed, step, prefix) == answers[0], step


class Engines(NamedTuple):
    memory: MemoryStore
    embedded: EmbeddedStore
    rounds: Iterator[int]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    runtime = ThreadRuntime(ManualClock(), SeededEntropy(1))
    path: Path = tmp_path_factory.mktemp("differential")
    embedded = EmbeddedStore(path, runtime, map_bytes=1 << 30)
    yield Engines(MemoryStore(runtime), embedded, iter(range(1 << 30)))
    embedded.close()


@given(program=st.lists(steps, min_size=10, max_size=60))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_engines_and_model_agree(engines: Engines, program: list[Step]) -> None:
    prefix = b"%08d/" % next(engines.rounds)
    newest: Records = {}
    slots: dict[int, Slot] = {}
    finish = [Step(slot, "commit") for slot in range(SLOTS)]
    for step in [*program, *finish]:
        slot = slots.setdefault(step.slot, Slot(engines.memory, engines.embedded))
        if step.action != "commit":
            _read(slot, step, prefix, newest)
            continue
        del slots[step.slot]
        outcomes = [_outcome(transaction) for transaction in slot.engines]
        assert outcomes[0] == outcomes[1], slot.done
        if outcomes[0] != "committed":
            continue
        wrote = any(step.action not in {"get", "range", "read_mark"} for step, _ in slot.done)
        for earlier, answer in slot.done:
            replayed = on_model(newest, earlier, prefix)
            assert not wrote or earlier.snapshot or replayed == answer, earlier
    for store in (engines.memory, engines.embedded):
        found = drive(store.transaction().get_range(prefix, prefix + b"\xff"))
        assert dict(found) == newest
        assert [record.key for record in found] == sorted(newest)
