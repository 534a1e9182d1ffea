"""The memory engine: the conformance suite, and its faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.kv.memory import Faults, MemoryStore
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.kv import CASES, open_transactions_fail_on_close
from luciole.tests.conformance.kv_subject import Subject, number, raises


class SteppedRuntime(ThreadRuntime):
    """Sleeping moves the clock and takes no time."""

    def __init__(self, seed: int = 1) -> None:
        self.manual = ManualClock()
        super().__init__(self.manual, SeededEntropy(seed))

    async def sleep(self, seconds: float) -> None:
        self.manual.advance(seconds)


def subject_with(faults: Faults = Faults()) -> Subject:  # noqa: B008 - it is immutable
    runtime = SteppedRuntime()
    return Subject(MemoryStore(runtime, faults), b"test/", runtime.manual.advance)


@pytest.mark.parametrize(
    "case", [*CASES, open_transactions_fail_on_close], ids=lambda case: case.__name__
)
def test_conforms(case: Callable[[Subject], None]) -> None:
    clock = ManualClock()
    # Pauses of `run` are real here, since the cases use threads.
    store = MemoryStore(ThreadRuntime(clock, SeededEntropy(1)))
    case(Subject(store, b"test/", clock.advance))


def test_injected_faults_do_what_they_say() -> None:
    for faults, kind, applied in (
        (Faults(conflict=1.0), Kind.KV_CONFLICT, False),
        (Faults(unknown_dropped=1.0), Kind.KV_MAYBE_COMMITTED, False),
        (Faults(unknown_applied=1.0), Kind.KV_MAYBE_COMMITTED, True),
    ):
        subject = subject_with(faults)
        raises(kind, partial(subject.put, a=b"1"))
        assert subject.read(b"a") == (b"1" if applied else None)


def test_read_only_transactions_have_no_faults() -> None:
    subject = subject_with(Faults(1.0, 1.0, 1.0))
    session = subject.begin()
    assert session.get(b"test/a") is None
    assert session.outcome() is None


def test_run_gives_up_after_ten_seconds() -> None:
    runtime = SteppedRuntime()
    store = MemoryStore(runtime, Faults(conflict=1.0))
    started = runtime.manual.now()
    calls = 0

    async def body(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        transaction.set(b"a", b"1")

    raises(Kind.KV_CONFLICT, lambda: drive(store.run(body)))
    assert 9.8 < runtime.manual.now() - started <= 10.0
    assert calls > 100, "pauses are at most a tenth of a second"


def _outcomes(seed: int) -> tuple[list[str], bytes | None]:
    store = MemoryStore(SteppedRuntime(seed), Faults(0.2, 0.2, 0.2))
    outcomes = []
    for index in range(200):
        transaction = store.transaction()
        transaction.add(b"n", 1)
        try:
            drive(transaction.commit())
            outcomes.append("committed")
        except FsError as failure:
            outcomes.append(f"{index} {failure}")
    return outcomes, drive(store.transaction().get(b"n"))


def test_faults_depend_on_the_seed_alone() -> None:
    assert _outcomes(7) == _outcomes(7)
    assert _outcomes(7) != _outcomes(8)
    outcomes, total = _outcomes(7)
    kinds = Counter(outcome.rsplit(": ", 1)[-1] for outcome in outcomes)
    assert total == number(kinds["committed"] + kinds["it was"])
    assert min(kinds["committed"], kinds["it was"], kinds["it was not"]) > 0


def test_removed_records_are_forgotten() -> None:
    runtime = SteppedRuntime()
    subject = Subject(MemoryStore(runtime), b"test/", runtime.manual.advance)
    for round_number in range(3):
        subject.put(a=b"%d" % round_number, b=b"1")
        session = subject.begin()
        session.inner.clear_range(b"test/", b"test0")
        session.inner.set(b"test/b", b"2")
        session.commit()
        subject.pass_time(6.0)
    subject.put(c=b"1")
    assert subject.names() == [b"b", b"c"]
    assert isinstance(subject.store, MemoryStore)
    assert subject.store._keys == [b"test/b", b"test/c"], "a removed key stays after five seconds"
