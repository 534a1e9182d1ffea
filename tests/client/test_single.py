"""Reads one at a time over real connections: what is taken as it comes, and what is asked again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luciole.checksum import block_checksums, crc32c
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.packed import PackedReader
from luciole.client.remote.single import SingleReader
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import NOT_READ, READ, pack_numbers
from luciole.proto.services import STORAGE, Call, Caller
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import ThreadRuntime, drive

CHUNK = 1 << 20
CLUSTER = "single reads"
INODE = meta_pb2.Inode(inode_id=9, layout=meta_pb2.Layout(
    table_id=1, table_version=1, chunk_size=CHUNK, stripe=1))
DATA = bytes(range(256)) * 64  # all that the chunk holds


class Replica:
    """A chunk of a storage service that may answer packed reads in some wrong way."""

    def __init__(self) -> None:
        self.mood = ""
        self.packed = self.plain = 0

    async def read_packed(
        self, request: storage_pb2.ReadPackedRequest, call: Call
    ) -> storage_pb2.ReadPackedReply:
        self.packed += 1
        [(_, offset, size)] = READ.iter_unpack(request.batches[0].records)
        if self.mood == "refuses":
            raise FsError(Kind.NOT_SERVING, "not now")
        part = DATA[offset : offset + size]
        if self.mood == "busy":
            return storage_pb2.ReadPackedReply(
                lengths=pack_numbers([NOT_READ]), checksums=pack_numbers([crc32c(b"")]))
        checksum = crc32c(part)
        if self.mood == "damages":
            part = bytes(len(part))
        call.reply_payload([part])
        return storage_pb2.ReadPackedReply(
            lengths=pack_numbers([len(part)]), checksums=pack_numbers([checksum]))

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        self.plain += 1
        [io] = request.ios
        part = DATA[io.offset : io.offset + io.length]
        call.reply_payload([part])
        return storage_pb2.ReadReply(results=[storage_pb2.ReadResult(
            length=len(part), checksums=block_checksums(io.offset, memoryview(part)))])


class World:
    """Two replicas of one chain behind real servers."""

    def __init__(self) -> None:
        self.replicas = [Replica(), Replica()]
        self.servers = [
            FramedServer(("127.0.0.1", 0), [(STORAGE, replica)], cluster_id=CLUSTER, name="replica")
            for replica in self.replicas]
        self.ports = [server.start() for server in self.servers]
        self.routing = RoutingCache(ThreadRuntime())
        self.version = 0
        self.route(2)
        runtime = ThreadRuntime()
        self.connections = Connections(self._connect)
        chunks = ChunkClient(runtime, self.connections, self.routing, b"c" * 16,
                             attempt_seconds=2.0, total_seconds=5.0)
        self.reader = PackedReader(
            runtime, self.connections, self.routing, chunks, attempt_seconds=2.0)
        self.single = SingleReader(self.connections, self.routing, 0, 2.0)
        for port in self.ports:
            caller = self.connections.caller(("127.0.0.1", port))
            assert isinstance(caller, BlockingCaller)
            caller.probe()

    def _connect(self, address: tuple[str, int]) -> Caller:
        return BlockingCaller(address, cluster_id=CLUSTER)

    def route(self, serving: int) -> None:
        self.version += 1
        routing = mgmtd_pb2.Routing(version=self.version, tables=[
            mgmtd_pb2.ChainTable(table_id=1, version=1, chain_ids=[1])])
        chain = routing.chains.add(chain_id=1, version=self.version)
        for number, port in enumerate(self.ports):
            routing.nodes.add(node_id=number, host="127.0.0.1", rpc_port=port)
            routing.targets.add(target_id=number, node_id=number, chain_id=1)
            chain.targets.add(
                target_id=number,
                state=mgmtd_pb2.SERVING if number < serving else mgmtd_pb2.OFFLINE)
        self.routing.replace(routing)

    def read(self, offset: int, size: int) -> bytes:
        room = bytearray(b"?" * size)
        drive(self.reader.read_one(INODE, offset, memoryview(room)))
        return bytes(room)

    def end(self) -> None:
        self.connections.close()
        for server in self.servers:
            server.stop(1.0)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


def test_one_message_brings_the_bytes_and_replicas_take_turns(world: World) -> None:
    for number in range(10):
        assert world.read(100 * number, 4096) == DATA[100 * number :][:4096]
    assert [replica.packed for replica in world.replicas] == [5, 5]
    assert [replica.plain for replica in world.replicas] == [0, 0]


def test_behind_the_end_of_a_chunk_there_are_zeros(world: World) -> None:
    assert world.read(len(DATA) - 10, 50) == DATA[-10:] + bytes(40)
    assert world.read(len(DATA) + 10, 50) == bytes(50)
    assert sum(replica.packed for replica in world.replicas) == 2


@pytest.mark.parametrize("mood", ["refuses", "busy", "damages"])
def test_what_a_replica_does_not_answer_well_is_asked_otherwise(world: World, mood: str) -> None:
    for replica in world.replicas:
        replica.mood = mood
    assert not world.single._turn
    with pytest.raises(FsError):
        world.single.read(INODE, 0, memoryview(bytearray(64)))
    for _ in range(4):
        assert world.read(7, 4096) == DATA[7:][:4096]
    assert sum(replica.plain for replica in world.replicas) == 4


def test_a_replica_that_died_is_not_missed(world: World) -> None:
    assert world.read(0, 64) == DATA[:64]
    world.servers[0].stop(0.5)
    for number in range(6):
        assert world.read(number, 64) == DATA[number:][:64]


def test_new_routing_counts_at_once(world: World) -> None:
    assert world.read(0, 64) == world.read(0, 64) == DATA[:64]
    world.route(1)
    before = world.replicas[1].packed
    for _ in range(4):
        assert world.read(0, 64) == DATA[:64]
    assert world.replicas[1].packed == before


def test_reads_over_a_border_or_that_are_large_are_not_for_this_way(world: World) -> None:
    assert not world.single.read(INODE, CHUNK - 10, memoryview(bytearray(20)))
    assert not world.single.read(INODE, 0, memoryview(bytearray(1 << 17)))
    assert world.read(0, 1 << 17) == DATA + bytes((1 << 17) - len(DATA))
