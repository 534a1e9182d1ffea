"""The embedded engine and the loss of power: what comes back is its last checkpoint, whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.errors import Kind
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.lmdb_checkpoints import COMMITS_MAX
from luciole.kv.lmdb_saved import NAME, SLOT_BYTES, saved_in
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.kv_subject import raises, wait_until
from luciole.tests.kv.power import Disk, State, change, lose_power, opened, reopened, state_of
from luciole.tests.kv.processes import PARTS
from luciole.tests.kv.test_embedded_processes import start

KILLS = 4
CUTS = 4
MEMORY = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that need not be on a disk: there are thousands of flushes."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", range(3))
def test_a_power_loss_returns_to_the_last_checkpoint(place: Path, seed: int) -> None:
    lose_power(place, seed)


def test_without_pins_a_power_loss_would_destroy_the_store(place: Path) -> None:
    """The test above can fail, and it is the pin that keeps it from failing."""
    command = [sys.executable, "-m", "luciole.tests.kv.power", str(place)]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert b"the power goes" in ended.stdout
    assert ended.returncode != 0


def committed(store: EmbeddedStore, key: bytes) -> bytes:
    """The versionstamp of a commit that was just made."""
    transaction = store.transaction()
    transaction.set_versionstamped_key(key, b"", b"")
    drive(transaction.commit())
    rows = drive(store.transaction().get_range(key, key + b"\xff"))
    return rows[-1].key[len(key) :]


def test_versions_are_never_given_twice(place: Path) -> None:
    store = opened(place)
    disk = Disk(place / "kv")
    lost = [committed(store, b"stamp") for _ in range(5)]
    disk.cut(place / "found", 1)
    store.close()
    found = reopened(place / "found")
    assert state_of(found) == {}
    assert committed(found, b"stamp") > max(lost)
    found.close()


def test_a_transaction_from_before_is_judged_as_ever(place: Path) -> None:
    """The log of commits begins anew, and readers of another process still find conflicts."""
    opened(place).close()
    store = reopened(place / "kv")
    session, other = store.transaction(), store.transaction()
    drive(session.get(b"a"))
    other.set(b"a", b"theirs")
    drive(other.commit())
    session.set(b"a", b"mine")
    assert raises(Kind.KV_CONFLICT, lambda: drive(session.commit()))
    store.close()


def test_an_orderly_end_loses_nothing(place: Path) -> None:
    store = opened(place)
    state: State = {}
    for _ in range(20):
        change(store, random.Random(1), state)
    store.close()
    found = reopened(place / "kv")
    assert state_of(found) == state
    found.close()


def test_the_loop_flushes_by_itself_and_lets_pages_go(place: Path) -> None:
    """In a map that has room for few versions of a record, and far from a full one."""
    store = EmbeddedStore(
        place / "kv",
        ThreadRuntime(),
        map_bytes=4 << 20,
        durability="process",
        sync_seconds=3600.0,
        boot_id="boot",
    )
    for number in range(200):
        transaction = store.transaction()
        transaction.set(b"a", b"%03d" % number * 30_000)
        drive(transaction.commit())
    store.close()
    store = EmbeddedStore(
        place / "kv", ThreadRuntime(), durability="process", sync_seconds=0.01, boot_id="boot"
    )
    before = saved_in(str(place / "kv"))
    assert before is not None
    change(store, random.Random(1), {})
    wait_until(lambda: saved_in(str(place / "kv")) != before)
    store.close()


def test_many_commits_bring_the_checkpoint_forward(place: Path) -> None:
    """The file stays small, though its pages cannot be used again before the next checkpoint."""
    store = opened(place)
    before = saved_in(str(place / "kv"))
    for number in range(COMMITS_MAX):
        transaction = store.transaction()
        transaction.set(b"a", b"%d" % number)
        drive(transaction.commit())
    wait_until(lambda: saved_in(str(place / "kv")) != before)
    store.close()


def test_power_means_durable_on_return(place: Path) -> None:
    store = EmbeddedStore(place / "kv", ThreadRuntime(), sync_seconds=3600.0, boot_id="boot")
    state: State = {}
    for number in range(5):
        disk = Disk(place / "kv")
        change(store, random.Random(number), state)
        disk.look()
        shutil.copytree(
            place / "kv", place / f"now{number}", ignore=shutil.ignore_patterns("lock.mdb")
        )
        found = reopened(place / f"now{number}")
        assert state_of(found) == state
        found.close()
    store.close()


def test_a_failed_flush_is_final(place: Path) -> None:
    store = opened(place)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    store._checkpoints._sync = fail  # type: ignore[method-assign]
    state: State = {}
    change(store, random.Random(1), state)
    raises(Kind.DISK_FAILED, lambda: drive(store.flush()))
    del store._checkpoints._sync
    raises(Kind.DISK_FAILED, lambda: drive(store.flush()))
    raises(Kind.DISK_FAILED, lambda: change(store, random.Random(1), {}))
    assert state_of(store) == state
    store.close()


def test_what_is_missing_or_damaged_is_said(place: Path) -> None:
    store = opened(place)
    change(store, random.Random(1), {})
    store.close()
    file = place / "kv" / NAME
    whole = file.read_bytes()
    assert len(whole) == 2 * SLOT_BYTES
    file.write_bytes(b"\x55" * len(whole))
    assert "backup" in str(raises(Kind.DATA_LOST, lambda: opened(place)))
    file.write_bytes(whole)
    (place / "kv" / "data.mdb").unlink()
    assert "data.mdb is gone" in str(raises(Kind.DATA_LOST, lambda: opened(place)))


def check_triples(state: State, flushed: set[int]) -> None:
    """What the killed process had flushed is there, and no commit of it in part."""
    found = [
        {int(key[-12:]) for key in state if key.startswith(b"part%d/" % index)}
        for index in range(PARTS)
    ]
    assert flushed <= found[0]
    assert all(numbers == found[0] for numbers in found)


def test_one_process_is_killed_and_the_power_goes_later(place: Path) -> None:
    """The dead one saved the checkpoint that counts; the pin of the living one keeps its pages."""
    kv = place / "kv"
    store = EmbeddedStore(kv, ThreadRuntime(), durability="process", sync_seconds=3600.0)
    chance = random.Random(7)
    state: State = {}
    flushed: set[int] = set()
    for kill in range(1, KILLS + 1):
        with start("churn", kv, kill) as process:
            assert process.stdout is not None
            numbers = [int(process.stdout.readline()) for _ in range(chance.randrange(1, 40))]
            os.kill(process.pid, signal.SIGKILL)
            rest, _ = process.communicate(timeout=30)
        flushed.update(numbers, map(int, rest.split()))
        store._environment.handle.reader_check()
        disk = Disk(kv)
        disk.cut(place / "reference", 0)
        reference = reopened(place / "reference")
        wanted = state_of(reference)
        reference.close()
        shutil.rmtree(place / "reference")
        check_triples(wanted, flushed)
        for _ in range(20):
            change(store, chance, state)
            disk.look()
        for cut in range(CUTS):
            disk.cut(place / "found", cut)
            found = reopened(place / "found")
            assert state_of(found) == wanted
            found.close()
            shutil.rmtree(place / "found")
        if kill % 2:
            drive(store.flush())
    store.close()
