"""`FileEngine` keeps the interface, its files, and its promises when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.runtime import drive
from luciole.storage.engine.blocks import BlockFiles
from luciole.storage.engine.directory import BLOCKS_NAME, METADATA_NAME
from luciole.storage.engine.engine import Durability
from luciole.storage.engine.file import FileEngine
from luciole.storage.engine.interface import Tag
from luciole.storage.engine.ports import Batch
from luciole.storage.engine.records import (
    FORMAT,
    MARKER_KEY,
    Marker,
    Record,
    chunk_key,
    decode_marker,
    decode_record,
    encode_marker,
)
from luciole.storage.engine.store import MetadataStore
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
from luciole.tests.storage import crash_child

KILLS = 15


def open_engine(
    path: Path, *, durability: Durability = "process", quota: int | None = None
) -> FileEngine:
    return FileEngine.open(
        path,
        cluster_id="cluster-a",
        target_id=7,
        create=True,
        durability=durability,
        quota=quota,
        reserve=0,
    )


class TestFileEngine(EngineConformance, QuotaConformance):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[Driver]:
        engine = open_engine(tmp_path / "target")
        yield Driver(engine)
        engine.close()

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Driver]:
        engine = open_engine(tmp_path / "target", quota=4 * MIB)
        yield Driver(engine)
        engine.close()


def check_no_leak(engine: FileEngine) -> None:
    """Blocks that are neither free nor held by a record do not exist."""
    drive(engine.sync())
    drive(engine.sync())
    states, _ = drive(engine.list(b"", None, 10**6))
    held = {block for state in states for block in record_of(engine, state.chunk_id).blocks()}
    ever, free = engine._allocator.census()
    assert len(held) == ever - free
    assert drive(engine.space()).used == sum(state.allocated for state in states)


def record_of(engine: FileEngine, chunk: bytes) -> Record:
    return decode_record(engine._store.get(chunk_key(chunk)) or b"")


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from(["power", "process"]))
def test_any_sequence_does_what_the_model_does(
    steps: list[tuple[int, ...]], durability: Durability
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "target"

        def reopen(driver: Driver) -> Driver:
            driver.engine.close()
            return Driver(open_engine(path, durability=durability))

        driver = run_steps(Driver(open_engine(path, durability=durability)), steps, reopen)
        assert isinstance(driver.engine, FileEngine)
        check_no_leak(driver.engine)
        driver.engine.close()


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, 100_000)
    driver.put(A, 1, write(0, data, tag=Tag(b"c" * 16, 2, 3)), data)
    driver.stage(A, 2, write(100_000, data), data)
    driver.stage(B, 1, remove())
    engine.close()
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    check_chunk(driver, A, Expected((1, data), (2, data + data)))
    check_chunk(driver, B, Expected(None, (1, None)))
    applied = drive(engine.applied(b"c" * 16, 2))
    assert applied is not None
    assert (applied.sequence, applied.version) == (3, 1)
    driver.commit(A, 2)
    check_chunk(driver, A, Expected((2, data + data), None))
    engine.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(
    tmp_path: Path, durability: Durability
) -> None:
    """A child works and reports each step before and after; it dies by SIGKILL, many times."""
    path = tmp_path / "target"
    open_engine(path).close()
    history = crash_child.History()
    for kill in range(KILLS if durability == "process" else 5):
        arguments = [sys.executable, "-m", crash_child.__name__, str(path), durability, str(kill)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                # Steps differ in length, so that the kill falls on every kind of moment.
                for _ in range(3 + kill * 7 % 40):
                    line = child.stdout.readline()
                    assert line, "the child ended by itself"
                    history.take(line.decode())
            finally:
                child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                if line.endswith(b"\n"):
                    history.take(line.decode())
        assert child.returncode == -signal.SIGKILL
        engine = open_engine(path)
        history.settle(Driver(engine))
        check_no_leak(engine)
        engine.close()
    assert history.steps > 30


def place_of(engine: FileEngine, chunk: bytes) -> tuple[Path, int, int]:
    """Where the committed version of a chunk lies: file, position and length."""
    version = record_of(engine, chunk).committed
    assert version is not None
    assert version.block is not None
    files = engine._disk
    assert isinstance(files, BlockFiles)
    _, position = files.locate(version.block)
    return Path(files.where(version.block)), position, version.length


def test_bit_rot_on_disk_is_detected(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, 150_000)
    driver.put(A, 1, write(0, data), data)
    path, position, _ = place_of(engine, A)
    engine.close()
    with path.open("r+b") as file:
        file.seek(position + 140_000)
        file.write(bytes([data[140_000] ^ 0x10]))
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    assert driver.read(A, 0, 131_072) == data[:131_072]
    for offset, length in ((0, MIB), (131_072, 100), (149_999, 1)):
        with pytest.raises(FsError) as raised:
            driver.read(A, offset, length)
        assert raised.value.kind == Kind.CHECKSUM_MISMATCH
        assert raised.value.subject == A.hex()
        assert "block 2 " in raised.value.message
    engine.close()


def test_power_loss_that_kept_records_and_lost_bytes(tmp_path: Path) -> None:
    """The directory as a power loss may leave it: new records, and zeros in their blocks."""
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    old, new = pattern(1, 100_000), pattern(2, 100_000)
    driver.put(A, 1, write(0, old), old)
    driver.sync()
    driver.put(A, 2, replace(new), new)
    driver.put(B, 1, replace(new), new)
    lost = [place_of(engine, A), place_of(engine, B)]
    with engine._resources:  # closes the files without the flush of close()
        pass
    for path, position, length in lost:
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes(length))
    engine = open_engine(tmp_path)
    check_chunk(Driver(engine), A, Expected((1, old), None))
    check_chunk(Driver(engine), B, None)
    check_no_leak(engine)
    engine.close()


def refused(path: Path, **arguments: object) -> FsError:
    settings: dict[str, object] = {"cluster_id": "cluster-a", "target_id": 7, **arguments}
    with pytest.raises(FsError) as raised:
        FileEngine.open(path, **settings)  # type: ignore[arg-type]
    assert str(path) in raised.value.subject
    return raised.value


def test_directories_that_are_not_this_target_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing").kind == Kind.CONFIG_INVALID
    assert not (tmp_path / "missing").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    assert refused(tmp_path / "other", create=True).kind == Kind.CONFIG_INVALID
    path = tmp_path / "target"
    open_engine(path).close()
    foreign = refused(path, cluster_id="cluster-b")
    assert foreign.kind == Kind.WRONG_CLUSTER
    assert "cluster-a" in foreign.message
    assert "cluster-b" in foreign.message
    swapped = refused(path, target_id=8)
    assert swapped.kind == Kind.CONFIG_INVALID
    assert "target 7" in swapped.message
    assert "target 8" in swapped.message
    store = MetadataStore(path / METADATA_NAME)
    batch = Batch()
    batch.put(MARKER_KEY, encode_marker(Marker(FORMAT + 1, "cluster-a", 7)))
    store.write(batch)
    store.close()
    newer = refused(path)
    assert newer.kind == Kind.CONFIG_INVALID
    assert f"format {FORMAT + 1}" in newer.message


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    assert refused(tmp_path).kind == Kind.BUSY
    script = (
        "import sys, pathlib\n"
        "from luciole.storage.engine.file import FileEngine\n"
        "FileEngine.open(pathlib.Path(sys.argv[1]), cluster_id='cluster-a', target_id=7)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=20, check=False
    )
    assert child.returncode != 0
    assert b"another storage process has this target open" in child.stderr
    engine.close()
    open_engine(tmp_path).close()


def test_the_reserve_of_the_disk_is_kept(tmp_path: Path) -> None:
    facts = os.statvfs(tmp_path)
    beyond = facts.f_blocks * facts.f_frsize
    engine = FileEngine.open(
        tmp_path, cluster_id="a", target_id=1, create=True, reserve=beyond * 2 + MIB
    )
    with pytest.raises(FsError) as raised:
        Driver(engine).stage(A, 1, replace(b"x"), b"x")
    assert raised.value.kind == Kind.NO_SPACE
    assert drive(engine.space()).free == 0
    Driver(engine).put(A, 1, remove())
    engine.close()


def disk_use(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in (path / BLOCKS_NAME).iterdir())


def test_trimming_gives_room_back_and_holes_are_used_again(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, MIB)
    for number in range(24):
        driver.put(chunk_name(number), 1, write(0, data), data)
    full = disk_use(tmp_path)
    drive(engine.remove_range(chunk_name(4), chunk_name(20), 100))
    driver.sync()
    driver.sync()
    engine.trim()
    assert disk_use(tmp_path) <= full - 16 * MIB
    for number in range(30, 46):
        driver.put(chunk_name(number), 1, write(0, data), data)
    assert disk_use(tmp_path) <= full + MIB  # the file system keeps a few blocks of its own
    for number in (*range(4), *range(20, 24), *range(30, 46)):
        assert driver.read(chunk_name(number)) == data
    engine.close()


def test_a_failing_disk_is_reported(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    driver.put(A, 1, replace(b"x"), b"x")
    path, _, _ = place_of(engine, A)
    files = engine._disk
    assert isinstance(files, BlockFiles)
    # Every later call on this descriptor meets a file that cannot be read or written.
    (block,) = record_of(engine, A).blocks()
    descriptor, _ = files.locate(block)
    nothing = os.open(tmp_path, os.O_RDONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
    for attempt in (lambda: driver.read(A), lambda: driver.stage(B, 1, replace(b"y"), b"y")):
        with pytest.raises(FsError) as raised:
            attempt()
        assert raised.value.kind == Kind.DISK_FAILED
        assert raised.value.subject == str(path)
    # The block that the refused update had taken was given back.
    assert drive(engine.space()).used == 65536
    engine.close()


def run_threads(bodies: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_threads_on_different_chunks_and_readers_of_changing_ones(
    tmp_path: Path, durability: Durability
) -> None:
    engine = open_engine(tmp_path, durability=durability)
    rounds = 60 if durability == "process" else 15

    def writer(number: int) -> None:
        driver = Driver(engine)
        for version in range(1, rounds):
            data = bytes([version]) * (1000 * version + number)
            driver.put(chunk_name(number), version, replace(data), data)
            assert driver.read(chunk_name(number)) == data
            driver.sync()

    def reader(number: int) -> None:
        driver = Driver(engine)
        for _ in range(rounds * 3):
            state = driver.state(chunk_name(number))
            if state is not None and state.committed is not None:
                data, outcome = driver.read_outcome(chunk_name(number), 0, MIB)
                assert data == bytes([outcome.version]) * (1000 * outcome.version + number)

    bodies = [lambda number=number: writer(number) for number in range(4)]
    bodies += [lambda number=number: reader(number) for number in range(4)]
    run_threads(bodies)  # type: ignore[arg-type]
    check_no_leak(engine)
    engine.close()


def test_truncate_across_classes_moves_to_the_smaller_block(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, MIB)
    driver.put(A, 1, write(0, data), data)
    driver.put(A, 2, truncate(70_000))
    state = driver.state(A)
    assert state is not None
    assert state.allocated == 131_072
    assert driver.read(A) == data[:70_000]
    check_no_leak(engine)
    engine.close()


def test_patches_survive_reopening_and_format_1_is_taken_over(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, MIB)
    driver.put(A, 1, write(0, data), data)
    engine.close()
    store = MetadataStore(tmp_path / METADATA_NAME)
    batch = Batch()
    batch.put(MARKER_KEY, encode_marker(Marker(1, "cluster-a", 7)))
    store.write(batch)
    store.close()
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    driver.put(A, 2, write(100_000, b"one"), b"one")
    driver.stage(A, 3, write(900_000, b"two"), b"two")
    engine.close()
    store = MetadataStore(tmp_path / METADATA_NAME)
    assert decode_marker(store.get(MARKER_KEY) or b"").format == FORMAT
    store.close()
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    first = data[:100_000] + b"one" + data[100_003:]
    second = first[:900_000] + b"two" + first[900_003:]
    check_chunk(driver, A, Expected((2, first), (3, second)))
    assert len(record_of(engine, A).blocks()) == 3
    check_no_leak(engine)
    driver.put(B, 1, write(0, data), data)  # takes no block of a patch
    check_chunk(driver, A, Expected((2, first), (3, second)))
    driver.commit(A, 3)
    driver.put(A, 4, remove())
    check_no_leak(engine)
    engine.close()


def test_room_that_stays_free_goes_back_to_the_disk(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    driver = Driver(engine)
    data = pattern(1, MIB)
    for number in range(24):
        driver.put(chunk_name(number), 1, write(0, data), data)
    drive(engine.release_idle())
    full = disk_use(tmp_path)
    drive(engine.remove_range(chunk_name(4), chunk_name(20), 100))
    driver.sync()
    driver.sync()
    drive(engine.release_idle())
    assert disk_use(tmp_path) >= full - MIB  # only just freed: it may be wanted at once
    for number in range(30, 34):
        driver.put(chunk_name(number), 1, write(0, data), data)
    drive(engine.release_idle())
    assert full - 13 * MIB <= disk_use(tmp_path) <= full - 12 * MIB
    for number in range(40, 60):
        driver.put(chunk_name(number), 1, write(0, data), data)
    for number in (*range(4), *range(20, 24), *range(30, 34), *range(40, 60)):
        assert driver.read(chunk_name(number)) == data
    check_no_leak(engine)
    engine.close()
