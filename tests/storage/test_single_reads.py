"""`ReadPacked` of one read in few steps: the same answer as the service's, or none."""

from __future__ import annotations

import pytest

from luciole.checksum import block_checksums
from luciole.client.core.layout import KIND_FILE, chunk_id
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.packed import CHUNK_READ, NOT_READ, pack_numbers, single_read
from luciole.runtime import drive
from luciole.storage.engine.interface import Update
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.service import READ_BYTES_MAX
from luciole.tests.storage.chain_fixture import CHAIN, CHUNK, ChainFixture, stage

DATA = bytes(range(256)) * 1024


class Never:
    """A fence that has fallen."""

    def check(self) -> None:
        raise FsError(Kind.NOT_SERVING, "out of touch")


@pytest.fixture
def chain() -> ChainFixture:
    fixture = ChainFixture([MemoryEngine(), MemoryEngine()])
    fixture.write(1, 0, DATA)
    return fixture


def record(offset: int, size: int, number: int = 1) -> bytes:
    return CHUNK_READ.pack(KIND_FILE, number, 0, offset, size)


def both(chain: ChainFixture, message: bytes) -> tuple[bytes | None, bytes]:
    """What the second replica answers at once, with its bytes behind, and in the ordinary way."""
    service = chain.replicas[1].service
    short, long = chain.call(), chain.call()
    answer = service.read_packed_at_once(message, short)
    reply = drive(service.read_packed(storage_pb2.ReadPackedRequest.FromString(message), long))
    assert answer is None or b"".join(short.response) == b"".join(long.response)
    return answer, reply.SerializeToString()


def lengths(answer: bytes | None) -> bytes:
    assert answer is not None
    return storage_pb2.ReadPackedReply.FromString(answer).lengths


def test_it_answers_as_the_service_does(chain: ChainFixture) -> None:
    named = single_read(CHAIN, chain.version)
    for offset, size in ((0, 4096), (5, 100_000), (len(DATA) - 10, 50), (len(DATA) + 1, 8)):
        answer, ordinary = both(chain, named + record(offset, size))
        assert answer == ordinary
    assert lengths(both(chain, named + record(0, 64))[0]) == pack_numbers([64])
    assert lengths(both(chain, named + record(0, 64, 2))[0]) == pack_numbers([NOT_READ])


def test_a_chunk_that_is_being_written_is_left_to_read(chain: ChainFixture) -> None:
    stage(chain.replicas[1].engine, chunk_id(1, 0), 99, Update(
        storage_pb2.WRITE, 0, 3, CHUNK, tuple(block_checksums(0, memoryview(b"new")))), b"new")
    answer, ordinary = both(chain, single_read(CHAIN, chain.version) + record(0, 64))
    assert answer == ordinary
    assert lengths(answer) == pack_numbers([NOT_READ])


def test_new_routing_counts_at_once(chain: ChainFixture) -> None:
    message = single_read(CHAIN, chain.version) + record(0, 64)
    assert both(chain, message)[0] is not None
    chain.route([mgmtd_pb2.SERVING, mgmtd_pb2.SERVING])
    assert both(chain, message)[0] is None, "it names an old version of the chain"
    assert both(chain, single_read(CHAIN, chain.version) + record(0, 64))[0] is not None
    chain.route([mgmtd_pb2.SERVING, mgmtd_pb2.OFFLINE])
    assert both(chain, single_read(CHAIN, chain.version) + record(0, 64))[0] is None


def test_a_target_that_is_not_trusted_answers_nothing(chain: ChainFixture) -> None:
    message = single_read(CHAIN, chain.version) + record(0, 64)
    assert both(chain, message)[0] is not None
    chain.replicas[1].targets.set_offline(chain.replicas[1].target)
    assert both(chain, message)[0] is None


def test_nothing_is_answered_behind_the_fence(chain: ChainFixture) -> None:
    fence = chain.replicas[1].fence
    fence.member = Never()
    with pytest.raises(FsError) as caught:
        chain.replicas[1].service.read_packed_at_once(
            single_read(CHAIN, chain.version) + record(0, 64), chain.call())
    assert caught.value.kind == Kind.NOT_SERVING


def test_what_our_clients_do_not_send_is_for_the_service(chain: ChainFixture) -> None:
    service = chain.replicas[1].service
    named = single_read(CHAIN, chain.version)
    two = storage_pb2.ReadPackedRequest(batches=[storage_pb2.PackedReads(
        chain=storage_pb2.VersionedChain(chain_id=CHAIN, version=chain.version),
        records=record(0, 64) * 2)]).SerializeToString()
    unknown = named + record(0, 64)
    for message in (
            b"", b"short", record(0, 64), two, unknown + b"\x50\x01", b"\x50\x01" + unknown,
            named + record(0, READ_BYTES_MAX + 1), b"\xff" * 60):
        assert service.read_packed_at_once(message, chain.call()) is None
