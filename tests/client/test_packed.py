"""How small reads are dealt to messages and nodes: services in this process note what comes."""

from __future__ import annotations

from luciole.checksum import crc32c
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.packed import MESSAGE_READS, PackedReader
from luciole.client.remote.packed_messages import BYTES_MAX, READS_MAX
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import CHUNK_READ, pack_numbers
from luciole.proto.services import STORAGE, Call
from luciole.rpc.inprocess import InProcessCaller
from luciole.runtime import ThreadRuntime, drive

CHUNK = 1 << 20
CHAINS = 4
PAGE = 4096


class Service:
    """Answers each read with what tells its place; notes how many reads and bytes came at once."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int]] = []

    async def read_packed(
        self, request: storage_pb2.ReadPackedRequest, call: Call
    ) -> storage_pb2.ReadPackedReply:
        """As the storage service's."""
        reads = [read for batch in request.batches
                 for read in CHUNK_READ.iter_unpack(batch.records)]
        parts = [content(inode_id, index * CHUNK + start, size)
                 for _, inode_id, index, start, size in reads]
        self.messages.append((len(parts), sum(map(len, parts))))
        call.reply_payload(parts)
        return storage_pb2.ReadPackedReply(
            lengths=pack_numbers(list(map(len, parts))),
            checksums=pack_numbers(list(map(crc32c, parts))))


def content(inode_id: int, offset: int, size: int) -> bytes:
    """What is at a place."""
    return (b"%d:%d " % (inode_id, offset)).ljust(16) * (size // 16)


class World:
    """Two nodes that both serve every chain, and a file over all chains."""

    def __init__(self) -> None:
        self.services = {node_id: Service() for node_id in (1, 2)}
        routing = mgmtd_pb2.Routing(version=1, tables=[
            mgmtd_pb2.ChainTable(table_id=1, version=1, chain_ids=range(1, CHAINS + 1))])
        for node_id in self.services:
            routing.nodes.add(node_id=node_id, host="node", rpc_port=node_id)
        for chain_id in range(1, CHAINS + 1):
            chain = routing.chains.add(chain_id=chain_id, version=1)
            for node_id in self.services:
                target_id = 100 * node_id + chain_id
                routing.targets.add(target_id=target_id, node_id=node_id, chain_id=chain_id)
                chain.targets.add(target_id=target_id, state=mgmtd_pb2.SERVING)
        runtime, cache = ThreadRuntime(), RoutingCache(ThreadRuntime())
        cache.replace(routing)
        connections = Connections(
            lambda address: InProcessCaller([(STORAGE, self.services[address[1]])]))
        chunks = ChunkClient(
            runtime, connections, cache, bytes(16), attempt_seconds=1.0, total_seconds=1.0)
        self.packed = PackedReader(runtime, connections, cache, chunks, attempt_seconds=1.0)
        self.inode = meta_pb2.Inode(inode_id=7, layout=meta_pb2.Layout(
            table_id=1, table_version=1, chunk_size=CHUNK, stripe=CHAINS, seed=2))

    def read(self, count: int, size: int = PAGE, chunks: int = CHAINS) -> list[tuple[int, int]]:
        """Reads the beginning of so many chunks in turn, and checks it; the messages it took."""
        for service in self.services.values():
            service.messages = []
        memory = memoryview(bytearray(count * size))
        wanted = [
            (self.inode, number % chunks * CHUNK + number // chunks % 200 * PAGE,
             memory[number * size : (number + 1) * size])
            for number in range(count)]
        assert drive(self.packed.read(wanted)) == {}
        for inode, offset, view in wanted:
            assert view == content(inode.inode_id, offset, size)
        return [one for service in self.services.values() for one in service.messages]


def test_few_reads_are_one_message() -> None:
    world = World()
    for count in (1, 5, MESSAGE_READS):
        assert world.read(count) == [(count, count * PAGE)]


def test_many_reads_are_shared_by_the_nodes() -> None:
    world = World()
    count = 4 * MESSAGE_READS
    assert world.read(count) == [(count // 2, count // 2 * PAGE)] * 2
    # Of one chain alone they stay together.
    assert world.read(count, chunks=1) == [(count, count * PAGE)]


def test_large_reads_are_shared_by_the_nodes() -> None:
    """Few as they are, they are more work than a message is; each of these has 4 MiB."""
    world = World()
    assert world.read(8 * CHAINS, CHUNK // 2) == [(8, 8 * CHUNK // 2)] * CHAINS
    assert [len(service.messages) for service in world.services.values()] == [CHAINS // 2] * 2


def test_messages_are_bounded() -> None:
    for count, size in ((3 * READS_MAX + 1, 16), (50, BYTES_MAX // 16)):
        for chunks in (1, CHAINS):
            world = World()  # one whose nodes are not known to be far
            messages = world.read(count, size, chunks)
            assert sum(reads for reads, _ in messages) == count
            assert len(messages) >= 4
            assert all(reads <= READS_MAX and size <= BYTES_MAX for reads, size in messages)
