"""Bit rot under a running chain: reads stay right, the damage is repaired and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.client.core.layout import chunk_id
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2
from luciole.runtime import drive
from luciole.storage.engine.file import FileEngine
from luciole.storage.engine.interface import ChunkState, Tag
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.scrub import Scrub
from luciole.tests.conformance.engine_model import pattern, replace, write
from luciole.tests.storage.chain_fixture import (
    CHUNK,
    SERVING,
    ChainFixture,
    Replica,
    stage,
)

FILE = 7
CHUNK_ID = chunk_id(FILE, 0)
DATA = pattern(1, 300_000)


@pytest.fixture
def chain() -> ChainFixture:
    fixture = ChainFixture([MemoryEngine(), MemoryEngine(), MemoryEngine()])
    fixture.write(FILE, 0, DATA)
    return fixture


def corrupt(replica: Replica, offset: int, chunk: bytes = CHUNK_ID) -> None:
    assert isinstance(replica.engine, MemoryEngine)
    replica.engine.corrupt(chunk, offset)


def counts(replica: Replica) -> tuple[int, int, int]:
    [report] = drive(replica.targets.reports())
    return report.damaged, report.repaired, report.unrepairable


def test_a_read_of_rot_is_answered_by_another_replica_and_repaired(chain: ChainFixture) -> None:
    for replica in chain.replicas[:2]:
        corrupt(replica, 70_000)
    for _ in range(6):
        assert chain.read(FILE, 0, len(DATA)) == DATA
    for replica in chain.replicas:
        drive(replica.repair.run_once())
    assert [counts(replica) for replica in chain.replicas] == [(1, 1, 0), (1, 1, 0), (0, 0, 0)]
    for replica in chain.replicas:
        assert chain.read_from(replica.number, CHUNK_ID, CHUNK) == DATA
        state = drive(replica.engine.state(CHUNK_ID))
        assert state is not None
        assert state.pending is None
        assert state.committed is not None
        assert state.committed.tag is not None  # so that a retry of the write is still known


def test_rot_that_every_replica_has_is_counted_once(chain: ChainFixture) -> None:
    for replica in chain.replicas:
        corrupt(replica, 70_000)
    with pytest.raises(FsError) as raised:
        chain.read_from(1, CHUNK_ID, CHUNK)
    assert raised.value.kind == Kind.CHECKSUM_MISMATCH
    for _ in range(3):
        chain.replicas[0].target.damage.report(CHUNK_ID)
        drive(chain.replicas[0].repair.run_once())
    assert counts(chain.replicas[0]) == (1, 0, 1)
    # What is written over the rot ends it.
    chain.write(FILE, 0, DATA)
    chain.replicas[0].target.damage.report(CHUNK_ID)
    drive(chain.replicas[0].repair.run_once())
    assert counts(chain.replicas[0]) == (1, 0, 0)


def test_the_only_serving_replica_waits_for_help(chain: ChainFixture) -> None:
    chain.route([SERVING, mgmtd_pb2.OFFLINE, mgmtd_pb2.OFFLINE])
    corrupt(chain.replicas[0], 0)
    chain.replicas[0].target.damage.report(CHUNK_ID)
    drive(chain.replicas[0].repair.run_once())
    assert counts(chain.replicas[0]) == (1, 0, 1)
    chain.route([SERVING, SERVING, SERVING])
    chain.replicas[0].target.damage.report(CHUNK_ID)
    drive(chain.replicas[0].repair.run_once())
    assert counts(chain.replicas[0])[1:] == (1, 0)
    assert chain.read_from(1, CHUNK_ID, CHUNK) == DATA


def test_a_write_into_rot_goes_on_after_the_repair(chain: ChainFixture) -> None:
    """Head and successor each read the damaged edge of an overwrite."""
    for replica in chain.replicas[:2]:
        corrupt(replica, 10)
        with pytest.raises(FsError) as raised:
            stage(replica.engine, CHUNK_ID, 1 << 50, write(100, b"new"), b"new")
        assert raised.value.kind == Kind.CHECKSUM_MISMATCH
    assert drive(chain.replicas[0].service.replica.whole_chunk(
        chain.replicas[2].target, _state(chain.replicas[2]), pending=False))[1] == DATA
    with pytest.raises(FsError):
        drive(chain.replicas[0].service.replica.whole_chunk(
            chain.replicas[0].target, _state(chain.replicas[0]), pending=False))
    drive(chain.replicas[0].repair.run_once())
    # The successor's repair is waited for by the write, in the head's retries.
    chain.replicas[1].target.damage.report(CHUNK_ID)
    drive(chain.replicas[1].repair.run_once())
    chain.write(FILE, 100, b"new")
    expected = DATA[:100] + b"new" + DATA[103:]
    for replica in chain.replicas:
        assert chain.read_from(replica.number, CHUNK_ID, CHUNK) == expected


def test_a_damaged_pending_version_is_repaired_and_settled(chain: ChainFixture) -> None:
    """The tail has committed what the head still holds as pending, damaged."""
    head, others = chain.replicas[0], chain.replicas[1:]
    corrupt(head, 200_000)
    number = _committed(head) + 1
    update = write(0, b"y" * 65536, tag=Tag(b"c" * 16, 9, 9))
    for replica in chain.replicas:
        stage(replica.engine, CHUNK_ID, number, update, b"y" * 65536)
    for replica in others:
        drive(replica.engine.commit(CHUNK_ID, number))
    assert drive(head.repair.look_at(head.target, CHUNK_ID)) == 1  # nobody has the old version
    assert _state(head).pending is not None
    assert drive(head.settling.run_once()) == 1
    assert chain.read_from(1, CHUNK_ID, CHUNK) == b"y" * 65536 + DATA[65536:]
    assert counts(head)[1] == 1
    drive(head.repair.look_at(head.target, CHUNK_ID))
    assert counts(head)[2] == 0


def test_repair_takes_nothing_but_the_right_bytes(chain: ChainFixture) -> None:
    engine = chain.replicas[0].engine
    number = _committed(chain.replicas[0])
    with pytest.raises(FsError) as raised:
        drive(engine.repair(CHUNK_ID, number, memoryview(DATA[:-1] + b"\0")))
    assert raised.value.kind == Kind.CHECKSUM_MISMATCH
    with pytest.raises(FsError) as raised:
        drive(engine.repair(CHUNK_ID, number + 1, memoryview(DATA)))
    assert raised.value.kind == Kind.CHUNK_NOT_FOUND


def test_a_false_report_changes_nothing(chain: ChainFixture) -> None:
    replica = chain.replicas[0]
    replica.target.damage.report(CHUNK_ID)
    replica.target.damage.report(b"x" * 16)
    assert drive(replica.repair.run_once()) == 0
    assert counts(replica) == (0, 0, 0)


def test_scrub_finds_rot_that_nobody_reads_within_its_rate() -> None:
    chain = ChainFixture([MemoryEngine(), MemoryEngine()])
    for number in range(1, 9):
        chain.write(number, 0, DATA)
    for number in (2, 7):
        corrupt(chain.replicas[0], 150_000, chunk_id(number, 0))
    replica = chain.replicas[0]
    scrub = Scrub(
        chain.runtime, replica.targets, bytes_per_second=600_000, interval_seconds=1000)
    assert [drive(scrub.run_once()) for _ in range(6)] == [2, 2, 2, 2, 0, 0]
    assert drive(replica.repair.run_once()) == 2
    assert counts(replica) == (2, 2, 0)
    [report] = drive(replica.targets.reports())
    assert (report.scrubbed_chunks, report.scrubbed_bytes) == (8, 8 * len(DATA))
    off = Scrub(chain.runtime, replica.targets, bytes_per_second=0, interval_seconds=1)
    assert drive(off.run_once()) == 0


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[FileEngine]]:
    opened = [
        FileEngine.open(tmp_path / str(number), cluster_id="a", target_id=number, create=True,
                        durability="process", reserve=0)
        for number in (1, 2)]
    yield opened
    for engine in opened:
        engine.close()


def test_bytes_flipped_in_a_block_file(engines: list[FileEngine], tmp_path: Path) -> None:
    chain = ChainFixture(engines)
    chain.write(FILE, 0, DATA)
    files = list((tmp_path / "1" / "blocks").iterdir())
    for path in files:
        with path.open("r+b") as file:
            content = file.read()
            position = content.find(DATA[100_000:100_100])
            if position >= 0:
                file.seek(position)
                file.write(bytes(byte ^ 0xFF for byte in DATA[100_000:100_100]))
    for _ in range(2):
        assert chain.read(FILE, 0, len(DATA)) == DATA
    assert drive(chain.replicas[0].repair.run_once()) == 1
    assert chain.read_from(1, CHUNK_ID, CHUNK) == DATA
    assert counts(chain.replicas[0]) == (1, 1, 0)


def _state(replica: Replica) -> ChunkState:
    state = drive(replica.engine.state(CHUNK_ID))
    assert state is not None
    return state


def _committed(replica: Replica) -> int:
    committed = _state(replica).committed
    assert committed is not None
    return committed.number


def test_a_repair_survives_beside_a_pending_version(chain: ChainFixture) -> None:
    head = chain.replicas[0]
    corrupt(head, 200_000)
    stage(head.engine, CHUNK_ID, 1 << 50, replace(b"z"), b"z")
    assert drive(head.repair.look_at(head.target, CHUNK_ID)) == 1
    buffer = memoryview(bytearray(len(DATA)))
    drive(head.engine.read(CHUNK_ID, 0, buffer))
    assert buffer == DATA
    drive(head.engine.read(CHUNK_ID, 0, buffer[:1], pending=True))
    assert bytes(buffer[:1]) == b"z"
