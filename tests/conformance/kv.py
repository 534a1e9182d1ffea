"""The conformance suite of `KeyValueStore`: FoundationDB's contract, case by case.

Every case is a function of a `Subject` and uses only keys under the subject's prefix, so that it
can run on a cluster that holds other things. `CASES` names them all.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from luciole.errors import FsError, Kind
from luciole.kv.interface import (
    KEY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    VALUE_BYTES_MAX,
    KeyValue,
    Transaction,
    prefix_end,
)
from luciole.runtime import drive
from luciole.tests.conformance.kv_subject import (
    Session,
    Subject,
    number,
    on_threads,
    raises,
    waited,
)


def written_is_read(subject: Subject) -> None:
    assert subject.read(b"a") is None
    subject.put(a=b"1", b=b"")
    assert (subject.read(b"a"), subject.read(b"b")) == (b"1", b"")
    session = subject.begin()
    session.inner.clear(subject.key(b"a"))
    session.inner.clear(subject.key(b"missing"))
    session.commit()
    assert subject.names() == [b"b"]
    keys = [subject.key(b"b"), subject.key(b"a")]
    assert waited(subject.store.transaction().get_many(keys)) == [b"", None]


def dropped_transaction_has_no_effect(subject: Subject) -> None:
    session = subject.begin()
    session.inner.set(subject.key(b"a"), b"1")
    del session
    assert subject.names() == []


def ended_transaction_is_refused(subject: Subject) -> None:
    session = subject.begin()
    session.inner.set(subject.key(b"a"), b"1")
    session.commit()
    raises(Kind.INVALID_ARGUMENT, lambda: session.inner.set(subject.key(b"a"), b"2"))
    raises(Kind.INVALID_ARGUMENT, lambda: session.get(subject.key(b"b")))
    raises(Kind.INVALID_ARGUMENT, session.commit)


def ranges_in_both_directions(subject: Subject) -> None:
    subject.put(a=b"1", b=b"2", c=b"3", d=b"4")
    assert subject.names() == [b"a", b"b", b"c", b"d"]
    assert subject.names(reverse=1) == [b"d", b"c", b"b", b"a"]
    assert subject.names(limit=2) == [b"a", b"b"]
    assert subject.names(limit=3, reverse=1) == [b"d", b"c", b"b"]
    assert subject.names(limit=9) == [b"a", b"b", b"c", b"d"]
    begin, end = subject.key(b"b"), subject.key(b"d")
    found = subject.begin().range(begin, end)
    assert found == [KeyValue(begin, b"2"), KeyValue(subject.key(b"c"), b"3")]
    assert subject.begin().range(begin, begin) == []
    raises(Kind.INVALID_ARGUMENT, lambda: subject.begin().range(end, begin))
    raises(Kind.INVALID_ARGUMENT, lambda: subject.begin().range(begin, end, limit=-1))


def own_writes_are_seen(subject: Subject) -> None:
    subject.put(a=b"1", c=b"3", e=b"5", n=number(40))
    session = subject.begin()
    inner = session.inner
    inner.set(subject.key(b"b"), b"own")
    inner.clear(subject.key(b"c"))
    inner.set(subject.key(b"e"), b"own")
    inner.add(subject.key(b"n"), 2)
    inner.add(subject.key(b"m"), -1)
    seen = [(b"a", b"1"), (b"b", b"own"), (b"e", b"own"), (b"m", number(-1)), (b"n", number(42))]
    for reverse in (0, 1):
        for limit in range(7):
            found = session.range(
                subject.prefix, prefix_end(subject.prefix), limit=limit, reverse=reverse
            )
            wanted = seen[::-1] if reverse else seen
            wanted = wanted[:limit] if limit else wanted
            assert [(r.key[len(subject.prefix) :], r.value) for r in found] == wanted
    assert session.get(subject.key(b"c")) is None
    assert session.get(subject.key(b"n")) == number(42)
    inner.clear_range(subject.key(b"a"), subject.key(b"f"))
    inner.set(subject.key(b"d"), b"after")
    inner.add(subject.key(b"a"), 7)
    assert session.get(subject.key(b"e")) is None
    assert session.get(subject.key(b"a")) == number(7)
    session.commit()
    assert subject.names() == [b"a", b"d", b"m", b"n"]
    assert subject.read(b"n") == number(42)


def snapshot_stands_still(subject: Subject) -> None:
    subject.put(a=b"1", b=b"1", c=b"1")
    reader = subject.begin()
    assert reader.get(subject.key(b"a")) == b"1"
    other = subject.begin()
    other.inner.set(subject.key(b"a"), b"2")
    other.inner.clear(subject.key(b"b"))
    other.inner.clear_range(subject.key(b"c"), subject.key(b"d"))
    other.inner.set(subject.key(b"e"), b"2")
    other.commit()
    assert [reader.get(subject.key(name)) for name in (b"a", b"b", b"e")] == [b"1", b"1", None]
    found = reader.range(subject.prefix, prefix_end(subject.prefix))
    assert [record.value for record in found] == [b"1", b"1", b"1"]
    assert reader.outcome() is None, "a transaction without writes always commits"
    assert subject.names() == [b"a", b"e"]


def snapshot_is_of_the_first_read(subject: Subject) -> None:
    early = subject.begin()
    subject.put(a=b"1")
    assert early.get(subject.key(b"a")) == b"1"


Act = Callable[[Subject, Session], object]


def _clashes(subject: Subject, mine: Act, theirs: Act) -> Kind | None:
    """Outcome of a transaction that reads by `mine` while another commits `theirs`, and writes."""
    subject.put(a=b"1", c=b"1", n=number(0))
    session = subject.begin()
    session.get(subject.key(b"unrelated"))
    mine(subject, session)
    other = subject.begin()
    theirs(subject, other)
    other.commit()
    session.inner.set(subject.key(b"result"), b"")
    return session.outcome()


def _get(name: bytes, *, snapshot: bool = False) -> Act:
    return lambda s, t: t.get(s.key(name), snapshot=snapshot)


def _range(begin: bytes, end: bytes, **options: int) -> Act:
    return lambda s, t: t.range(s.key(begin), s.key(end), **options)


def _set(name: bytes) -> Act:
    return lambda s, t: t.inner.set(s.key(name), b"2")


def _clear(name: bytes) -> Act:
    return lambda s, t: t.inner.clear(s.key(name))


def _clear_range(begin: bytes, end: bytes) -> Act:
    return lambda s, t: t.inner.clear_range(s.key(begin), s.key(end))


def _add(name: bytes) -> Act:
    return lambda s, t: t.inner.add(s.key(name), 1)


def _stamp(prefix: bytes) -> Act:
    return lambda s, t: t.inner.set_versionstamped_key(s.key(prefix), b"", b"")


def _mark_read(begin: bytes, end: bytes) -> Act:
    return lambda s, t: t.inner.add_read_conflict(s.key(begin), s.key(end))


def _mark_written(begin: bytes, end: bytes) -> Act:
    return lambda s, t: t.inner.add_write_conflict(s.key(begin), s.key(end))


def _set_then_get(name: bytes) -> Act:
    def act(subject: Subject, session: Session) -> None:
        session.inner.set(subject.key(name), b"own")
        session.get(subject.key(name))

    return act


def _add_then_get(name: bytes) -> Act:
    def act(subject: Subject, session: Session) -> None:
        session.inner.add(subject.key(name), 1)
        session.get(subject.key(name))

    return act


CONFLICTS: dict[str, tuple[Act, Act]] = {
    "get against set": (_get(b"a"), _set(b"a")),
    "get of nothing against set": (_get(b"b"), _set(b"b")),
    "get against clear": (_get(b"a"), _clear(b"a")),
    "get against clear of nothing": (_get(b"b"), _clear(b"b")),
    "get against clear_range": (_get(b"a"), _clear_range(b"", b"b")),
    "get against add": (_get(b"n"), _add(b"n")),
    "get against write mark": (_get(b"b"), _mark_written(b"a", b"c")),
    "range against phantom": (_range(b"a", b"d"), _set(b"b")),
    "range against clear": (_range(b"a", b"d"), _clear(b"c")),
    "range against clear_range": (_range(b"a", b"b"), _clear_range(b"", b"aa")),
    "empty range against phantom": (_range(b"x", b"z"), _set(b"y")),
    "range against versionstamp": (_range(b"v", b"w"), _stamp(b"v")),
    "limited range against its part": (_range(b"a", b"d", limit=1), _set(b"a")),
    "reverse limited range": (_range(b"a", b"d", limit=1, reverse=1), _set(b"cc")),
    "reverse limited range against its record": (
        _range(b"a", b"d", limit=1, reverse=1),
        _set(b"c"),
    ),
    "read mark against set": (_mark_read(b"x", b"z"), _set(b"y")),
    "read mark against write mark": (_mark_read(b"x", b"z"), _mark_written(b"y", b"zz")),
    "get of own add": (_add_then_get(b"n"), _set(b"n")),
}

PEACEFUL: dict[str, tuple[Act, Act]] = {
    "get against other key": (_get(b"a"), _set(b"b")),
    "get against next key": (_get(b"a"), _set(b"a\0")),
    "snapshot get": (_get(b"a", snapshot=True), _set(b"a")),
    "snapshot range": (_range(b"a", b"d", snapshot=1), _set(b"b")),
    "blind set against set": (_set(b"a"), _set(b"a")),
    "blind clear_range": (_clear_range(b"a", b"d"), _set(b"b")),
    "add against add": (_add(b"n"), _add(b"n")),
    "write mark against set": (_mark_written(b"a", b"d"), _set(b"b")),
    "get of own set": (_set_then_get(b"a"), _set(b"a")),
    "range up to its end": (_range(b"a", b"b"), _set(b"b")),
    "limited range beyond its part": (_range(b"a", b"d", limit=1), _set(b"b")),
    "reverse limited range beyond": (_range(b"a", b"d", limit=1, reverse=1), _set(b"b")),
    "read only": (_get(b"a"), _get(b"a")),
}


def conflicts(subject: Subject) -> None:
    for name, (mine, theirs) in CONFLICTS.items():
        _clear_all(subject)
        assert _clashes(subject, mine, theirs) == Kind.KV_CONFLICT, name
        assert subject.read(b"result") is None, name


def no_conflicts(subject: Subject) -> None:
    for name, (mine, theirs) in PEACEFUL.items():
        _clear_all(subject)
        assert _clashes(subject, mine, theirs) is None, name
        assert subject.read(b"result") == b"", name


def _clear_all(subject: Subject) -> None:
    session = subject.begin()
    session.inner.clear_range(subject.prefix, prefix_end(subject.prefix))
    session.commit()


def earlier_commit_is_no_conflict(subject: Subject) -> None:
    subject.put(a=b"1")
    session = subject.begin()
    session.get(subject.key(b"a"))
    session.inner.set(subject.key(b"a"), b"2")
    assert session.outcome() is None


def add_counts(subject: Subject) -> None:
    key = subject.key(b"n")
    for delta in (5, -7, (1 << 63) - 1):
        session = subject.begin()
        session.inner.add(key, delta)
        session.commit()
    assert subject.read(b"n") == number((1 << 63) - 3)
    session = subject.begin()
    session.inner.add(key, 1 << 62)
    session.inner.add(key, 1 << 62)
    session.commit()
    assert subject.read(b"n") == number(-3), "numbers wrap"
    subject.put(n=b"\x01")
    session = subject.begin()
    session.inner.add(key, 1)
    session.commit()
    assert subject.read(b"n") == number(2), "short numbers are filled up"
    raises(Kind.INVALID_ARGUMENT, lambda: subject.begin().inner.add(key, 1 << 63))


def limits_hold(subject: Subject) -> None:
    session = subject.begin()
    longest = subject.prefix + b"k" * (KEY_BYTES_MAX - len(subject.prefix))
    session.inner.set(longest, b"v" * VALUE_BYTES_MAX)
    session.commit()
    assert subject.begin().get(longest) == b"v" * VALUE_BYTES_MAX
    inner = subject.begin().inner
    raises(Kind.KV_TOO_LARGE, lambda: inner.set(longest + b"k", b""))
    raises(Kind.KV_TOO_LARGE, lambda: inner.set_versionstamped_key(longest[:-9], b"", b""))
    raises(Kind.KV_TOO_LARGE, lambda: inner.set(longest, b"v" * (VALUE_BYTES_MAX + 1)))
    raises(Kind.INVALID_ARGUMENT, lambda: inner.set(b"", b""))
    raises(Kind.INVALID_ARGUMENT, lambda: inner.set(b"\xff", b""))
    raises(Kind.INVALID_ARGUMENT, lambda: inner.clear_range(subject.prefix, b"\xff\x01"))
    raises(Kind.INVALID_ARGUMENT, lambda: subject.begin().get(b"\xff\xff"))
    big = subject.begin()
    for index in range(TRANSACTION_BYTES_MAX // VALUE_BYTES_MAX + 1):
        big.inner.set(subject.key(b"big%d" % index), b"v" * VALUE_BYTES_MAX)
    assert big.outcome() == Kind.KV_TOO_LARGE
    assert subject.read(b"big0") is None


def long_keys_are_ordered(subject: Subject) -> None:
    """Keys around every length at which an engine may store them in another way."""
    stem = b"s" * 600
    names = sorted(
        [
            stem[:size] + tail
            for size in (508, 509, 510, 511, 512, 550)
            for tail in (b"", b"a", b"z")
        ]
    )
    session = subject.begin()
    for name in names:
        session.inner.set(subject.key(name), name[-1:])
    session.commit()
    assert subject.names() == names
    assert subject.names(reverse=1) == names[::-1]
    for low in range(0, len(names), 3):
        for high in range(low, len(names), 2):
            begin, end = subject.key(names[low]), subject.key(names[high])
            wanted = [subject.key(name) for name in names[low:high]]
            assert [record.key for record in subject.begin().range(begin, end)] == wanted
            backwards = subject.begin().range(begin, end, reverse=1)
            assert [record.key for record in backwards] == wanted[::-1]
    session = subject.begin()
    session.inner.clear(subject.key(names[-1]))
    session.inner.clear_range(subject.key(names[2]), subject.key(names[10]))
    session.commit()
    assert subject.names() == names[:2] + names[10:-1]
    assert [subject.read(name) for name in names[9:11]] == [None, names[10][-1:]]


def old_transactions_end(subject: Subject) -> None:
    subject.put(a=b"1")
    reader, writer, blind = subject.begin(), subject.begin(), subject.begin()
    for session in (reader, writer):
        session.get(subject.key(b"a"))
    writer.inner.set(subject.key(b"b"), b"1")
    blind.get(subject.key(b"a"), snapshot=True)
    blind.inner.set(subject.key(b"c"), b"1")
    subject.pass_time(6.0)
    subject.put(d=b"1")
    raises(Kind.KV_TOO_OLD, lambda: reader.get(subject.key(b"a")))
    assert writer.outcome() == Kind.KV_TOO_OLD
    assert blind.outcome() is None, "what read nothing that counts cannot be too old"
    assert subject.names() == [b"a", b"c", b"d"]


def versionstamps_ascend(subject: Subject) -> None:
    for index in range(20):
        session = subject.begin()
        session.inner.set_versionstamped_key(subject.key(b"log/"), b"/a", b"%d" % index)
        session.inner.set_versionstamped_key(subject.key(b"log/"), b"/b", b"%d" % index)
        session.commit()
    start = len(subject.key(b"log/"))
    found = subject.begin().range(subject.prefix, prefix_end(subject.prefix))
    assert [int(record.value) for record in found] == [i // 2 for i in range(40)]
    stamps = [record.key[start : start + 10] for record in found]
    assert [record.key[start + 10 :] for record in found] == [b"/a", b"/b"] * 20
    assert len(set(stamps)) == 20
    assert stamps[::2] == stamps[1::2], "a transaction has one stamp"


def own_versionstamps_are_unreadable(subject: Subject) -> None:
    session = subject.begin()
    session.inner.set_versionstamped_key(subject.key(b"log/"), b"", b"")
    end = prefix_end(subject.prefix)
    raises(Kind.INVALID_ARGUMENT, lambda: session.range(subject.prefix, end))


def concurrent_versionstamps_are_unique(subject: Subject) -> None:
    async def append(transaction: Transaction) -> None:
        transaction.set_versionstamped_key(subject.key(b""), b"", b"")

    on_threads(8, lambda _: [drive(subject.store.run(append)) for _ in range(10)])
    assert len(subject.names()) == 80


def increments_are_serialized(subject: Subject) -> None:
    key = subject.key(b"n")

    async def increment(transaction: Transaction) -> None:
        value = int.from_bytes(await transaction.get(key) or b"", "little")
        transaction.set(key, number(value + 1))

    on_threads(6, lambda _: [drive(subject.store.run(increment)) for _ in range(15)])
    assert subject.read(b"n") == number(90)


def transfers_keep_the_total(subject: Subject) -> None:
    accounts = [subject.key(b"account%d" % index) for index in range(5)]
    opening = subject.begin()
    for account in accounts:
        opening.inner.set(account, number(100))
    opening.commit()

    async def total(transaction: Transaction) -> int:
        records = await transaction.get_range(subject.prefix, prefix_end(subject.prefix))
        return sum(struct.unpack("<q", record.value)[0] for record in records)

    def work(thread: int) -> None:
        for step in range(12):
            source, target = accounts[(thread + step) % 5], accounts[(thread * 3 + step + 1) % 5]

            async def transfer(
                transaction: Transaction, source: bytes = source, target: bytes = target
            ) -> None:
                values = await transaction.get_many([source, target])
                if source != target and all(value is not None for value in values):
                    before = [struct.unpack("<q", value or b"")[0] for value in values]
                    transaction.set(source, number(before[0] - 7))
                    transaction.set(target, number(before[1] + 7))

            drive(subject.store.run(transfer))
            assert drive(subject.store.run(total)) == 500

    on_threads(5, work)
    assert drive(subject.store.run(total)) == 500


def write_skew_is_refused(subject: Subject) -> None:
    """Two transactions that each read what the other writes: only one may commit."""
    subject.put(a=b"1", b=b"1")
    first, second = subject.begin(), subject.begin()
    for session, write in ((first, b"a"), (second, b"b")):
        session.range(subject.prefix, prefix_end(subject.prefix))
        session.inner.clear(subject.key(write))
    assert first.outcome() is None
    assert second.outcome() == Kind.KV_CONFLICT
    assert subject.names() == [b"b"]


def run_passes_on_other_errors(subject: Subject) -> None:
    calls = 0

    async def body(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        transaction.set(subject.key(b"a"), b"1")
        raise FsError(Kind.NOT_FOUND, "no such thing")

    raises(Kind.NOT_FOUND, lambda: drive(subject.store.run(body)))
    assert calls == 1
    assert subject.names() == []


def run_repeats_what_may_help(subject: Subject) -> None:
    for kind in (Kind.KV_CONFLICT, Kind.KV_TOO_OLD, Kind.KV_MAYBE_COMMITTED):
        failures = [kind, kind]

        async def body(transaction: Transaction, failures: list[Kind] = failures) -> int:
            transaction.add(subject.key(b"n"), 1)
            if failures:
                raise FsError(failures.pop(), "try again")
            return 42

        assert drive(subject.store.run(body)) == 42
    assert subject.read(b"n") == number(3), "abandoned attempts leave nothing"


def closed_store_is_refused(subject: Subject) -> None:
    subject.put(a=b"1")
    subject.store.close()
    raises(Kind.UNAVAILABLE, lambda: subject.read(b"a"))
    subject.store.close()


def open_transactions_fail_on_close(subject: Subject) -> None:
    """Only for engines whose data lives in this process."""
    subject.put(a=b"1")
    reader, writer = subject.begin(), subject.begin()
    reader.get(subject.key(b"a"))
    writer.inner.set(subject.key(b"b"), b"1")
    subject.store.close()
    raises(Kind.UNAVAILABLE, lambda: reader.get(subject.key(b"a")))
    raises(Kind.UNAVAILABLE, writer.commit)


def watch_returns_what_changed(subject: Subject) -> None:
    key = subject.key(b"watched")
    subject.put(watched=b"1")
    assert waited(subject.store.watch(key, None, 0.0)) == b"1"
    assert waited(subject.store.watch(key, b"1", 0.01)) == b"1"
    found: list[bytes | None] = []
    begun = threading.Barrier(3, timeout=30)

    def work(index: int) -> None:
        if index < 2:
            begun.wait()
            found.append(waited(subject.store.watch(key, b"1", 30.0)))
            return
        begun.wait()
        for _ in range(20):
            subject.put(beside=b"2")
        session = subject.begin()
        session.inner.clear(key)
        session.commit()

    on_threads(3, work)
    assert found == [None, None]


def flushed_is_still_there(subject: Subject) -> None:
    subject.put(a=b"1")
    waited(subject.store.flush())
    waited(subject.store.flush())
    assert subject.read(b"a") == b"1"

    def work(number: int) -> None:
        for step in range(5):
            session = subject.begin()
            session.inner.set(subject.key(b"%d/%d" % (number, step)), b"")
            session.commit()
            waited(subject.store.flush())

    on_threads(4, work)
    assert len(subject.names()) == 21


CASES: list[Callable[[Subject], None]] = [
    flushed_is_still_there,
    watch_returns_what_changed,
    written_is_read,
    dropped_transaction_has_no_effect,
    ended_transaction_is_refused,
    ranges_in_both_directions,
    own_writes_are_seen,
    snapshot_stands_still,
    snapshot_is_of_the_first_read,
    conflicts,
    no_conflicts,
    earlier_commit_is_no_conflict,
    add_counts,
    limits_hold,
    long_keys_are_ordered,
    old_transactions_end,
    versionstamps_ascend,
    own_versionstamps_are_unreadable,
    concurrent_versionstamps_are_unique,
    increments_are_serialized,
    transfers_keep_the_total,
    write_skew_is_refused,
    run_passes_on_other_errors,
    run_repeats_what_may_help,
    closed_store_is_refused,
]
