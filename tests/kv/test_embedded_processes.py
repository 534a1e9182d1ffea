"""The embedded engine shared by processes, killed, and on a failing disk: real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from luciole.errors import Kind
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.lmdb_watch import SETTLED_S
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.kv_subject import Session
from luciole.tests.kv.processes import COUNTER, PARTS, part

KILLS = 10


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "luciole.tests.kv.processes", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_processes_increment_one_counter(tmp_path: Path) -> None:
    processes = [start("increment", tmp_path, 60) for _ in range(3)]
    try:
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    assert drive(store.transaction().get(COUNTER)) == b"180"
    store.close()


def _kill_after(process: subprocess.Popen[bytes], acknowledged: int) -> list[int]:
    """Kills the process once it printed so many numbers; returns all that it printed."""
    assert process.stdout is not None
    numbers = [int(process.stdout.readline()) for _ in range(acknowledged)]
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    return numbers + [int(line) for line in rest.split()]


def _check(store: EmbeddedStore, acknowledged: set[int]) -> None:
    """Every acknowledged commit is there, and no commit is there in part."""
    transaction = store.transaction()
    found = []
    for index in range(PARTS):
        prefix = part(0, index)[:-12]
        records = drive(transaction.get_range(prefix, prefix[:-1] + b"0"))
        found.append({int(record.key[-12:]) for record in records})
    assert acknowledged <= found[0]
    assert all(numbers == found[0] for numbers in found)


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """This process keeps the store open, so that it takes over the locks of the killed ones."""
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    acknowledged: set[int] = set()
    for kill in range(1, KILLS + 1):
        process = start("write", tmp_path, kill)
        try:
            numbers = _kill_after(process, random.Random(kill).randrange(1, 200))
        finally:
            process.kill()
            process.wait(30)
        assert numbers
        acknowledged.update(numbers)
        _check(store, acknowledged)
        # It can write at once, and its own history takes in what the other one committed.
        transaction = store.transaction()
        drive(transaction.get(COUNTER))
        transaction.set(COUNTER, b"%d" % kill)
        drive(transaction.commit())
    store.close()
    reopened = EmbeddedStore(tmp_path, ThreadRuntime())
    _check(reopened, acknowledged)
    reopened.close()


def test_other_processes_commits_are_conflicts(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    session = Session(store.transaction())
    assert session.get(COUNTER) is None
    session.inner.set(COUNTER, b"lost")
    with start("increment", tmp_path, 3) as process:
        process.communicate(timeout=30)
    assert session.outcome() == Kind.KV_CONFLICT
    assert drive(store.transaction().get(COUNTER)) == b"3"
    store.close()


def test_failing_disk_is_an_error_and_keeps_what_was(tmp_path: Path) -> None:
    process = start("fill", tmp_path, 1 << 20)
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(30)
    failed, message = output.decode().split(" ", 1)
    assert "disk failed" in message
    assert int(failed) > 10
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    records = drive(store.transaction().get_range(b"0", b"\xff"))
    assert len(records) in {int(failed), int(failed) + 1}
    store.close()


def test_watchers_hear_of_other_processes_commits(tmp_path: Path) -> None:
    """Each value is seen long before the time is over, also past a watcher that was killed."""
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    with start("watch", tmp_path, 1) as dead:
        assert dead.stdout is not None
        assert dead.stdout.readline() == b"watching\n"
        dead.kill()
    seen = None
    with start("increment", tmp_path, 20) as process:
        while seen != b"20":
            began = time.monotonic()
            seen = drive(store.watch(COUNTER, seen, 60.0))
            assert time.monotonic() - began < 30.0
        process.communicate(timeout=30)
    store.close()
    assert os.listdir(tmp_path / "watchers") == []


def _put(store: EmbeddedStore, key: bytes, value: bytes) -> None:
    transaction = store.transaction()
    transaction.set(key, value)
    drive(transaction.commit())


def test_a_watcher_that_came_late_is_rung(tmp_path: Path) -> None:
    """Also when whoever commits has long believed to know all watchers."""
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    end = time.monotonic() + 2 * SETTLED_S
    while time.monotonic() < end:
        _put(store, b"another key", b"1")
    with start("watch", tmp_path, 1) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"watching\n"
        try:
            _put(store, COUNTER, b"1")
            assert watcher.wait(20) == 0  # by itself it looks after a minute
        finally:
            watcher.kill()
    store.close()


def test_own_commits_wake_own_watchers_without_a_ring(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, ThreadRuntime())
    drive(store.watch(COUNTER, None, 0.0))
    (name,) = os.listdir(tmp_path / "watchers")
    os.rename(tmp_path / "watchers" / name, tmp_path / name)  # nobody can be rung
    seen: list[bytes | None] = []
    waiting = threading.Thread(
        target=lambda: seen.append(drive(store.watch(COUNTER, None, 30.0))))
    began = time.monotonic()
    waiting.start()
    _put(store, COUNTER, b"1")
    waiting.join(30)
    assert seen == [b"1"]
    assert time.monotonic() - began < 15.0
    os.rename(tmp_path / name, tmp_path / "watchers" / name)
    store.close()
