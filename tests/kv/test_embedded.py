"""The embedded engine: the conformance suite, its format, its bounds and its group commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import pytest

from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import Kind
from luciole.kv.embedded import Durability, EmbeddedStore
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.kv import CASES, open_transactions_fail_on_close
from luciole.tests.conformance.kv_subject import Session, Subject, raises, wait_until

Open = Callable[..., EmbeddedStore]
UNWRITABLE = Path("/proc/luciole")  # also for root


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_store(tmp_path: Path, clock: ManualClock) -> Iterator[Open]:
    stores: list[EmbeddedStore] = []

    def open_one(
        path: Path = tmp_path / "kv", map_bytes: int = 1 << 30, durability: Durability = "power"
    ) -> EmbeddedStore:
        runtime = ThreadRuntime(clock, SeededEntropy(1))
        stores.append(EmbeddedStore(path, runtime, map_bytes=map_bytes, durability=durability))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "case", [*CASES, open_transactions_fail_on_close], ids=lambda case: case.__name__
)
@pytest.mark.parametrize("durability", ["power", "process"])
def test_conforms(
    case: Callable[[Subject], None], durability: Durability, open_store: Open, clock: ManualClock
) -> None:
    case(Subject(open_store(durability=durability), b"test/", clock.advance))


def subject_of(store: EmbeddedStore, clock: ManualClock) -> Subject:
    return Subject(store, b"test/", clock.advance)


def test_reopening_keeps_data_and_versions(open_store: Open, clock: ManualClock) -> None:
    stamps = []
    for index in range(3):
        store = open_store()
        subject = subject_of(store, clock)
        session = subject.begin()
        session.inner.set_versionstamped_key(b"log/", b"", b"%d" % index)
        session.inner.set(subject.key(b"%d" % index), b"1")
        session.commit()
        found = subject.begin().range(b"log/", b"log0")
        assert [record.value for record in found] == [b"%d" % each for each in range(index + 1)]
        stamps.append(found[-1].key)
        assert subject.names() == [b"0", b"1", b"2"][: index + 1]
        store.close()
    assert stamps == sorted(set(stamps))


def test_threads_share_batches(open_store: Open) -> None:
    store = open_store()
    threads_count, each = 16, 25

    def work(thread: int) -> None:
        for step in range(each):
            transaction = store.transaction()
            transaction.set(b"%d/%d" % (thread, step), b"value")
            drive(transaction.commit())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    statistics = store.statistics()
    assert statistics.commits == threads_count * each
    assert statistics.batches < statistics.commits / 2
    assert len(drive(store.transaction().get_range(b"0", b"\xff"))) == threads_count * each


def test_read_only_commits_write_nothing(open_store: Open, clock: ManualClock) -> None:
    store = open_store()
    subject = subject_of(store, clock)
    subject.read(b"a")
    session = subject.begin()
    session.get(b"a")
    session.inner.add_read_conflict(b"a", b"b")
    session.commit()
    assert store.statistics().batches == 0


def _queued(store: EmbeddedStore, count: int) -> bool:
    # The leader has left the queue, and waits for the lock.
    return store._committers._led and len(store._committers._queue) == count


def commit_in_one_batch(store: EmbeddedStore, sessions: list[Session]) -> list[Kind | None]:
    """Commits the first session alone and all others in one batch after it."""
    outcomes: list[Kind | None] = [Kind.INTERNAL] * len(sessions)

    def work(index: int) -> None:
        outcomes[index] = sessions[index].outcome()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    # While LMDB's writer lock is taken, one becomes the leader and all others queue up.
    with store._environment.handle.begin(write=True):
        for index, thread in enumerate(threads):
            thread.start()
            wait_until(partial(_queued, store, index))
    for thread in threads:
        thread.join(30)
    return outcomes


def test_conflict_in_a_batch_leaves_the_others(open_store: Open, clock: ManualClock) -> None:
    """Requests that one leader finds queued: each is judged by the writes of those before it."""
    store = open_store()
    subject = subject_of(store, clock)
    subject.put(a=b"1")
    sessions = [subject.begin() for _ in range(8)]
    for index, session in enumerate(sessions):
        # The even ones all read and write one key; the odd ones touch nothing of others.
        name = b"a" if index % 2 == 0 else b"%d" % index
        session.get(subject.key(name))
        session.inner.set(subject.key(name), b"2")
    outcomes = commit_in_one_batch(store, sessions)
    assert outcomes[1::2] == [None] * 4
    assert outcomes[::2] == [None] + [Kind.KV_CONFLICT] * 3
    statistics = store.statistics()
    assert (statistics.batches, statistics.commits, statistics.refused) == (3, 6, 3)


def test_full_map_is_no_space_and_harms_nobody(open_store: Open, clock: ManualClock) -> None:
    store = open_store(map_bytes=4 << 20)
    subject = subject_of(store, clock)
    subject.put(a=b"1")
    big = subject.begin()
    for index in range(60):
        big.inner.set(subject.key(b"big%d" % index), bytes(100_000))
    error = raises(Kind.NO_SPACE, big.commit)
    assert "map_bytes" in str(error)
    subject.put(b=b"2")
    assert subject.names() == [b"a", b"b"]


def test_what_does_not_fit_leaves_the_others_of_its_batch(
    open_store: Open, clock: ManualClock
) -> None:
    store = open_store(map_bytes=4 << 20)
    subject = subject_of(store, clock)
    sessions = [subject.begin() for _ in range(4)]
    for index, session in enumerate(sessions):
        session.inner.set(subject.key(b"%d" % index), b"1")
    for index in range(60):
        sessions[2].inner.set(subject.key(b"big%d" % index), bytes(100_000))
    assert commit_in_one_batch(store, sessions) == [None, None, Kind.NO_SPACE, None]
    assert subject.names() == [b"0", b"1", b"3"]


def test_log_is_bounded_and_then_too_old(tmp_path: Path, clock: ManualClock) -> None:
    runtime = ThreadRuntime(clock, SeededEntropy(1))
    store = EmbeddedStore(tmp_path / "kv", runtime, map_bytes=1 << 30, log_versions_max=10)
    subject = subject_of(store, clock)
    subject.put(a=b"1")
    sessions = [subject.begin(), subject.begin()]
    for index, session in enumerate(sessions):
        session.get(subject.key(b"a"))
        session.inner.set(subject.key(b"result%d" % index), b"")
    for index in range(10):
        subject.put(b=b"%d" % index)
    assert sessions[0].outcome() is None, "ten versions back are remembered"
    assert sessions[1].outcome() == Kind.KV_TOO_OLD
    environment = store._environment
    with environment.handle.begin() as transaction:
        assert transaction.stat(environment.log)["entries"] == 10
    store.close()


def test_abandoned_snapshots_free_their_slots(open_store: Open) -> None:
    store = open_store()
    for _ in range(2000):
        drive(store.transaction().get(b"a"))
    assert store._environment.handle.info()["num_readers"] < 10


def _put_in_main(path: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(path), max_dbs=2) as environment, environment.begin(write=True) as writer:
        writer.put(key, value)


def test_newer_format_is_refused(open_store: Open, tmp_path: Path) -> None:
    open_store().close()
    _put_in_main(tmp_path / "kv", b"luciole-kv-format", b"3")
    error = raises(Kind.CONFIG_INVALID, open_store)
    assert "format 3" in str(error)
    assert "newer" in str(error)


def test_foreign_directories_are_refused(open_store: Open, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    (tmp_path / "lmdb").mkdir()
    _put_in_main(tmp_path / "lmdb", b"theirs", b"data")
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "data.mdb").write_bytes(b"noise" * 4096)
    (tmp_path / "file").write_text("")
    for path in (*(tmp_path / name for name in ("home", "lmdb", "noise", "file")), UNWRITABLE):
        error = raises(Kind.CONFIG_INVALID, partial(open_store, path))
        assert str(path) in str(error)
    assert (tmp_path / "home" / "letter").read_text() == "dear"
    assert [each.name for each in (tmp_path / "home").iterdir()] == ["letter"]


def test_second_opening_in_a_process_is_refused(open_store: Open) -> None:
    open_store()
    error = raises(Kind.CONFIG_INVALID, open_store)
    assert "already open" in str(error)
