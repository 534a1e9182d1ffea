"""Reads that travel unverified, over real sockets: what arrives is right or refused.

Block files are sent unread, or read where the system does not tell what its page cache holds.
What changes between the look at a chunk and the sending of its files is done at that very moment:
when the page cache is asked what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from luciole.client.core.layout import chunk_id
from luciole.errors import FsError, Kind
from luciole.proto.services import STORAGE, Caller
from luciole.rpc.rdma_device import Settings
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.file import FileEngine
from luciole.storage.engine.interface import ChunkEngine
from luciole.tests.conformance.engine_model import pattern, replace, write
from luciole.tests.storage.chain_fixture import CHUNK, ChainFixture, stage

FILE = 7
CHUNK_ID = chunk_id(FILE, 0)
BLOCK = 64 * 1024
DATA = pattern(1, 300_000)
CLUSTER = "firefly"


class Calls(FileCalls):
    """Counts reads; does something once, just after the page cache was asked."""

    def __init__(self) -> None:
        super().__init__(direct_from=0)
        self.reads = 0
        self.blind = False  # what is in the page cache is not known
        self.then: Callable[[int, int], None] | None = None  # takes file and position

    def read(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        self.reads += 1
        return super().read(descriptor, views, position)

    def cached(self, descriptor: int, position: int, count: int) -> int:
        found = super().cached(descriptor, position, count)
        if self.then is not None:
            then, self.then = self.then, None
            then(descriptor, position)
        return 0 if self.blind else found


class ServedChain(ChainFixture):
    """A chain whose services are reached over TCP, or by a device for RDMA."""

    def __init__(
        self, engines: Sequence[FileEngine], rdma: Settings | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.rdma = rdma
        self.servers: list[FramedServer] = []
        self.callers: list[BlockingCaller] = []
        super().__init__(engines)
        for replica in self.replicas:
            server = FramedServer(
                (host, 0), [(STORAGE, replica.service)], cluster_id=CLUSTER,
                name=str(replica.number), frame_s=2.0, rdma=rdma)
            server.start()
            self.servers.append(server)

    def _connect(self, address: tuple[str, int]) -> Caller:
        caller = BlockingCaller(
            self.servers[address[1] - 1].address, cluster_id=CLUSTER, rdma=self.rdma)
        self.callers.append(caller)
        return caller

    def close(self) -> None:
        for caller in self.callers:
            caller.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def calls() -> list[Calls]:
    return [Calls(), Calls()]


@contextmanager
def served(
    calls: Sequence[Calls], folder: Path, rdma: Settings | None = None
) -> Iterator[ServedChain]:
    """A chain with a file, on engines that call the system so."""
    engines = [
        FileEngine.open(folder / str(number), cluster_id="a", target_id=number, create=True,
                        durability="process", reserve=0, calls=own)
        for number, own in enumerate(calls, start=1)]
    fixture = ServedChain(engines, rdma)
    try:
        fixture.write(FILE, 0, DATA)
        yield fixture
    finally:
        fixture.close()
        for engine in engines:
            engine.close()


@pytest.fixture
def chain(calls: list[Calls], tmp_path: Path) -> Iterator[ServedChain]:
    with served(calls, tmp_path) as fixture:
        if not _all_cached(fixture.replicas[0].engine):
            pytest.skip("this system does not tell what the page cache holds")
        yield fixture


def _all_cached(engine: ChunkEngine) -> bool:
    return engine.locate_clean(CHUNK_ID, 0, CHUNK) is not None


def reads(calls: list[Calls]) -> int:
    return sum(own.reads for own in calls)


@pytest.mark.parametrize(("offset", "length"), [
    (0, len(DATA)), (0, BLOCK), (BLOCK, 2 * BLOCK), (3 * BLOCK, len(DATA) - 3 * BLOCK),
    (0, CHUNK)])
def test_whole_blocks_are_sent_unread(
    chain: ServedChain, calls: list[Calls], offset: int, length: int
) -> None:
    before = reads(calls)
    wanted = DATA.ljust(CHUNK, b"\0")[offset : offset + length]
    for _ in range(3):
        assert chain.read(FILE, offset, length) == wanted
    assert reads(calls) == before


@pytest.mark.parametrize(("offset", "length"), [
    (1, 2 * BLOCK), (0, BLOCK + 1), (4 * BLOCK, len(DATA) - 4 * BLOCK), (0, BLOCK - 1)])
def test_parts_of_blocks_are_read_and_verified(
    chain: ServedChain, calls: list[Calls], offset: int, length: int
) -> None:
    before = reads(calls)
    assert chain.read(FILE, offset, length) == DATA[offset : offset + length]
    assert reads(calls) > before


def test_patched_chunks_are_sent_from_all_their_places(
    chain: ServedChain, calls: list[Calls]
) -> None:
    content = bytearray(DATA)
    for at in (BLOCK + 5, 3 * BLOCK + 100):
        chain.write(FILE, at, b"patched")
        content[at : at + 7] = b"patched"
    located = chain.replicas[0].engine.locate_clean(CHUNK_ID, 0, CHUNK)
    assert located is not None
    assert len(located.ranges) > 3
    before = reads(calls)
    for _ in range(2):
        assert chain.read(FILE, 0, len(content)) == content
    assert reads(calls) == before


def test_what_is_not_in_memory_or_not_at_rest_is_read(
    chain: ServedChain, calls: list[Calls], tmp_path: Path
) -> None:
    for replica, own in zip(chain.replicas, calls, strict=True):
        drive(replica.engine.sync())
        for path in (tmp_path / str(replica.number) / "blocks").iterdir():
            descriptor = own.open(path)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    engine = chain.replicas[0].engine
    if _all_cached(engine):
        pytest.skip("a file system that keeps its pages")
    assert chain.read(FILE, 0, len(DATA)) == DATA
    assert reads(calls)
    for replica in chain.replicas:
        stage(replica.engine, CHUNK_ID, 1 << 50, replace(b"z"), b"z")
        assert replica.engine.locate_clean(CHUNK_ID, 0, CHUNK) is None


def test_who_does_not_verify_gets_what_was_verified(
    chain: ServedChain, calls: list[Calls]
) -> None:
    before = reads(calls)
    assert chain.read_from(1, CHUNK_ID, len(DATA)) == DATA
    assert reads(calls) == before + 1


def flip(descriptor: int, position: int) -> None:
    byte = os.pread(descriptor, 1, position + 100)
    os.pwrite(descriptor, bytes([byte[0] ^ 1]), position + 100)


def test_what_is_read_to_travel_is_verified_once(
    chain: ServedChain, calls: list[Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in calls:
        own.blind = True
    for length in (len(DATA), BLOCK, CHUNK):
        assert chain.read(FILE, 0, length) == DATA.ljust(CHUNK, b"\0")[:length]
    assert reads(calls) == 3

    def verified(*_: object) -> None:
        pytest.fail("the client verifies it")

    for replica in chain.replicas:
        monkeypatch.setattr(replica.engine, "_read_version", verified)
    assert chain.read(FILE, 0, len(DATA)) == DATA


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("victim", [0, 1])
def test_rot_is_noticed_by_its_replica_and_repaired(
    chain: ServedChain, calls: list[Calls], victim: int, blind: bool
) -> None:
    calls[victim].blind = blind
    calls[victim].then = flip
    for _ in range(2):
        assert chain.read(FILE, 0, len(DATA)) == DATA
    assert calls[victim].then is None
    replica = chain.replicas[victim]
    assert drive(replica.repair.run_once()) == 1
    [report] = drive(replica.targets.reports())
    assert (report.damaged, report.repaired, report.unrepairable) == (1, 1, 0)
    assert chain.read_from(replica.number, CHUNK_ID, CHUNK) == DATA


@pytest.mark.parametrize("victim", [0, 1])
def test_a_block_that_is_used_again_before_it_is_sent(
    chain: ServedChain, calls: list[Calls], victim: int
) -> None:
    """The chunk is written anew and another one gets its block, between look and sending."""
    engine = chain.replicas[victim].engine
    newer, other = pattern(2, 300_000), pattern(3, 300_000)
    before = engine.locate_clean(CHUNK_ID, 0, CHUNK)
    assert before is not None
    used_again = []

    def rewrite(descriptor: int, position: int) -> None:
        state = drive(engine.state(CHUNK_ID))
        assert state is not None
        assert state.committed is not None
        version = state.committed.number + 1
        stage(engine, CHUNK_ID, version, replace(newer), newer)
        drive(engine.commit(CHUNK_ID, version))
        for number in range(2, 12):
            drive(engine.sync())
            chunk = chunk_id(FILE, number)
            stage(engine, chunk, 1, write(0, other), other)
            drive(engine.commit(chunk, 1))
            found = engine.locate_clean(chunk, 0, CHUNK)
            assert found is not None
            if found.ranges == before.ranges:
                used_again.append(number)
                return

    calls[victim].then = rewrite
    for _ in range(2):  # both replicas are asked; the other one keeps the older version
        assert chain.read(FILE, 0, len(DATA)) in {DATA, newer}
    assert used_again
    assert not calls[victim].then
    assert chain.read_from(victim + 1, CHUNK_ID, CHUNK) == newer
    assert drive(chain.replicas[victim].repair.run_once()) == 0  # nothing was damaged


@pytest.mark.parametrize("blind", [False, True])
def test_a_file_that_ends_early_is_no_data(
    chain: ServedChain, calls: list[Calls], blind: bool
) -> None:
    calls[0].blind = blind

    def shorten(descriptor: int, position: int) -> None:
        os.ftruncate(descriptor, position + BLOCK + 10)

    calls[0].then = shorten
    for _ in range(4):
        assert chain.read(FILE, 0, len(DATA)) == DATA
    with pytest.raises(FsError) as caught:
        chain.read_from(1, CHUNK_ID, CHUNK)
    assert caught.value.kind == Kind.CHECKSUM_MISMATCH
    assert drive(chain.replicas[0].repair.run_once()) == 1
