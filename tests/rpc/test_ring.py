"""The ring by itself: what is put is taken, nobody sleeps over a record, nothing is believed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.rpc.ring import (
    CONTROL_BYTES,
    HEAD,
    PAIR_BYTES,
    RECORD_BYTES_MAX,
    RING_BYTES,
    TAIL,
    WORD,
    Consumer,
    Producer,
    Words,
    pair,
)


def ring(size: int = RING_BYTES) -> Words:
    return Words(memoryview(bytearray(CONTROL_BYTES)), memoryview(bytearray(size)))


steps = st.lists(st.one_of(st.binary(min_size=1, max_size=90), st.none()), max_size=200)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_what_is_put_is_taken_in_order(steps: list[bytes | None]) -> None:
    """None takes; the ring is small, so that records go round its end and do not always fit."""
    words = ring(256)
    producer, consumer, model = Producer(words), Consumer(words), deque[bytes]()
    for step in steps:
        if step is None:
            assert consumer.take() == (model.popleft() if model else None)
            continue
        taken = sum(WORD + -(-len(record) // WORD) * WORD for record in [*model, step])
        assert producer.put(step) == (taken <= 256)
        if taken <= 256:
            model.append(step)
        assert producer.has_waiting() == bool(model)
    while model:
        assert consumer.take() == model.popleft()
    assert consumer.take() is None


def test_a_record_has_its_bounds() -> None:
    words = ring()
    producer, consumer = Producer(words), Consumer(words)
    assert not producer.put(b"")
    assert not producer.put(bytes(RECORD_BYTES_MAX + 1))
    assert producer.put(bytes(RECORD_BYTES_MAX))
    assert consumer.take() == bytes(RECORD_BYTES_MAX)


def test_two_rings_of_a_pair_share_no_byte() -> None:
    memory = memoryview(bytearray(PAIR_BYTES))
    first, second = pair(memory)
    producers = Producer(first), Producer(second)
    for number, producer in enumerate(producers):
        while producer.put(bytes([number + 1]) * 1000):
            pass
    for number, words in enumerate((first, second)):
        consumer = Consumer(words)
        records = list(iter(consumer.take, None))
        assert len(records) == RING_BYTES // 1008
        assert set(records) == {bytes([number + 1]) * 1000}


def test_a_record_is_copied_before_it_is_looked_at() -> None:
    words = ring()
    producer, consumer = Producer(words), Consumer(words)
    producer.put(b"honest")
    record = consumer.take()
    words.bytes[:] = b"x" * RING_BYTES
    assert record == b"honest"


@contextmanager
def refused_at_most() -> Iterator[None]:
    """Lets a refusal pass, of the one kind that there is."""
    try:
        yield
    except FsError as failure:
        if failure.kind != Kind.CORRUPT_FRAME:
            raise


words64 = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 3 * RING_BYTES),
    st.sampled_from([WORD, 2 * WORD, RING_BYTES, RING_BYTES + WORD, 2**63, 2**64 - WORD]))


@given(words64, words64, st.binary(max_size=64), words64)
@settings(max_examples=1000, deadline=None)
def test_a_hostile_producer_is_refused_or_read_within_the_ring(
    tail: int, length: int, noise: bytes, later: int
) -> None:
    words = ring()
    consumer = Consumer(words)
    words.bytes[WORD : WORD + len(noise)] = noise
    words.words[0] = length
    for claim in (tail, later):
        words.control[TAIL] = claim
        taken = 0
        with refused_at_most():
            while (record := consumer.take()) is not None:
                assert 0 < len(record) <= RECORD_BYTES_MAX
                taken += WORD + len(record)
                assert taken <= RING_BYTES  # it ends: nothing is taken twice for one claim


@given(words64)
@settings(max_examples=500, deadline=None)
def test_a_hostile_consumer_has_nothing_overwritten(head: int) -> None:
    words = ring()
    producer = Producer(words)
    for _ in range(3):
        producer.put(b"a" * 1000)
    words.control[HEAD] = head
    if head <= 3 * 1008:
        assert producer.put(b"b")
        return
    with pytest.raises(FsError) as caught:
        producer.put(b"b")
    assert caught.value.kind == Kind.CORRUPT_FRAME


# The doorbell under x86-64's memory: each processor's stores wait in a queue of their own before
# the others see them, its loads look into that queue first, and a barrier empties it.

T = TypeVar("T")
Step = tuple[str, str]
PUT: list[Step] = [("store", "tail"), ("barrier", ""), ("load", "sleeps")]
SLEEP: list[Step] = [("store", "sleeps"), ("barrier", ""), ("load", "tail")]
State = tuple[tuple[int, int], tuple[tuple[str, ...], tuple[str, ...]], frozenset[str],
              tuple[bool, bool]]


def outcomes(programs: tuple[list[Step], list[Step]]) -> Iterator[tuple[bool, bool]]:
    """What both last loads saw, in every order of steps and of stores that become seen."""
    todo: list[State] = [((0, 0), ((), ()), frozenset(), (False, False))]
    known: set[State] = set()
    while todo:
        state = todo.pop()
        if state in known:
            continue
        known.add(state)
        places, queues, memory, seen = state
        if all(place == len(program) for place, program in zip(places, programs, strict=True)):
            yield seen
        for who in (0, 1):
            if queues[who]:  # its oldest store becomes seen
                todo.append((places, _put(queues, who, queues[who][1:]), memory | {queues[who][0]},
                             seen))
            if places[who] == len(programs[who]):
                continue
            kind, word = programs[who][places[who]]
            after = _put(places, who, places[who] + 1)
            if kind == "store":
                todo.append((after, _put(queues, who, (*queues[who], word)), memory, seen))
            elif kind == "load":
                found = word in memory or word in queues[who]
                todo.append((after, queues, memory, _put(seen, who, found)))
            elif not queues[who]:
                todo.append((after, queues, memory, seen))


def _put(both: tuple[T, T], who: int, value: T) -> tuple[T, T]:
    return (value, both[1]) if who == 0 else (both[0], value)


def test_nobody_sleeps_over_a_record_in_any_order() -> None:
    asleep_unrung = (False, False)  # the producer saw nobody asleep, the consumer no record
    found = set(outcomes((PUT, SLEEP)))
    assert found == {(True, False), (False, True), (True, True)}
    # The model would show it: without either barrier a record is slept over.
    for programs in (([PUT[0], PUT[2]], SLEEP), (PUT, [SLEEP[0], SLEEP[2]])):
        assert asleep_unrung in set(outcomes(programs))


def test_the_barriers_stand_where_the_model_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    words, steps = ring(), []

    class Noting:
        def __init__(self, view: memoryview) -> None:
            self._view = view

        def __getitem__(self, word: int) -> int:
            steps.append(("load", word))
            return int(self._view[word])

        def __setitem__(self, word: int, value: int) -> None:
            steps.append(("store", word))
            self._view[word] = value

    producer, consumer = Producer(words), Consumer(words)
    monkeypatch.setattr(words, "control", Noting(words.control))
    for side in (producer, consumer):
        monkeypatch.setattr(side, "_barrier", lambda: steps.append(("barrier", 0)))
    producer.put(b"x")
    producer.must_ring()
    assert steps[-3:] == [("store", 0), ("barrier", 0), ("load", 16)]
    steps.clear()
    assert not consumer.may_sleep()
    assert steps == [("store", 16), ("barrier", 0), ("load", 0)]
    steps.clear()
    consumer.woke()
    assert steps == [("store", 16)]
