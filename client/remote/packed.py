"""Many small reads at once: one message to each node, of a few bytes for each read.

Layer: shell, beside `ChunkClient`, which does what does not go so: reads that cross a chunk's
border, chunks with an update under way, holes and failures. So nothing is retried here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from luciole.checksum import crc32c
from luciole.client.core.layout import KIND_FILE
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import CHUNK_READ, NOT_READ, unpack_numbers
from luciole.routing import RoutingTable, serving_targets
from luciole.runtime import Runtime

READS_MAX = 1024  # of one message
BYTES_MAX = 4 << 20  # of one message: more goes side by side

Wanted = tuple[meta_pb2.Inode, int, memoryview]  # file, offset, where the bytes go


class Striping(NamedTuple):
    """What of a file's layout each read needs."""

    inode_id: int
    chunk_size: int
    seed: int
    stripe: int
    chains: Sequence[int]


class Batch:
    """The reads of one node."""

    def __init__(self, node: mgmtd_pb2.Node) -> None:
        self.node = node
        self.count = 0
        self.size = 0
        self.chains: dict[int, Chain] = {}

    def is_full(self, size: int) -> bool:
        """Whether one more read of `size` bytes is for another message."""
        return self.count >= READS_MAX or self.size + size > BYTES_MAX


class Chain:
    """The reads of one chain in a batch, in order."""

    def __init__(self, batch: Batch, version: int) -> None:
        self.batch = batch
        self.version = version
        self.records: list[bytes] = []
        self.owners: list[int] = []


class PackedReader:
    """Reads of one client. Threads may share it."""

    def __init__(
        self, runtime: Runtime, connections: Connections, routing: RoutingCache,
        chunks: ChunkClient, *, attempt_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._connections = connections
        self._routing = routing
        self._chunks = chunks
        self._attempt_seconds = attempt_seconds
        self._turn = runtime.entropy.below(1 << 16)

    async def read_one(self, inode: meta_pb2.Inode, offset: int, view: memoryview) -> None:
        """As `ChunkClient.read`, in fewer steps if the bytes lie in one chunk at rest."""
        failure = (await self.read([(inode, offset, view)]))[0]
        if failure is not None:
            raise failure

    async def read(self, wanted: Sequence[Wanted]) -> list[FsError | None]:
        """Fills all buffers; returns each one's failure, or None.

        What was never written reads as zeros. Buffers are not empty.
        """
        left: list[int] = []
        batches = self._plan(wanted, left)
        if batches:
            done = await self._runtime.gather([
                partial(self._send, wanted, batch) for batch in batches])
            for rest in done:
                left += rest
        failures: list[FsError | None] = [None] * len(wanted)
        if left:
            again = await self._chunks.read_each([wanted[index] for index in left])
            for index, failure in zip(left, again, strict=True):
                failures[index] = failure
        return failures

    def _plan(self, wanted: Sequence[Wanted], left: list[int]) -> list[Batch]:
        """Deals the reads to nodes; `left` gets those that are not for this way."""
        table = self._routing.current()
        stripings: dict[int, Striping] = {}
        chains: dict[int, Chain | None] = {}
        batches: list[Batch] = []
        pack = CHUNK_READ.pack
        for owner, (inode, offset, view) in enumerate(wanted):
            striping = stripings.get(id(inode))
            if striping is None:
                striping = stripings[id(inode)] = self._striping(inode)
            inode_id, chunk_size, seed, stripe, chain_ids = striping
            index, start = divmod(offset, chunk_size)
            size = len(view)
            if start + size > chunk_size or index > CHUNKS_PER_FILE_MAX:
                left.append(owner)
                continue
            chain_id = chain_ids[(seed + index % stripe) % len(chain_ids)]
            chain = chains.get(chain_id)
            if chain is None or chain.batch.is_full(size):
                chain = chains[chain_id] = self._chain(table, chain_id, batches, size)
                if chain is None:
                    left.append(owner)
                    continue
            chain.records.append(pack(KIND_FILE, inode_id, index, start, size))
            chain.owners.append(owner)
            chain.batch.count += 1
            chain.batch.size += size
        return batches

    def _striping(self, inode: meta_pb2.Inode) -> Striping:
        layout = inode.layout
        return Striping(inode.inode_id, layout.chunk_size, layout.seed, layout.stripe,
                        list(self._chunks.table_of(layout).chain_ids))

    def _chain(
        self, table: RoutingTable, chain_id: int, batches: list[Batch], size: int
    ) -> Chain | None:
        """A place for a chain's reads, with a node that has a message already if one serves it."""
        try:
            chain = table.chain(chain_id)
            nodes = {table.node_of(target).node_id: table.node_of(target)
                     for target in serving_targets(chain)}
        except FsError:
            return None
        if not nodes:
            return None
        batch = next((batch for batch in batches
                      if batch.node.node_id in nodes and not batch.is_full(size)), None)
        if batch is None:
            self._turn += 1
            batch = Batch(list(nodes.values())[self._turn % len(nodes)])
            batches.append(batch)
        made = batch.chains[chain_id] = batch.chains.get(chain_id) or Chain(batch, chain.version)
        return made

    async def _send(self, wanted: Sequence[Wanted], batch: Batch) -> list[int]:
        """One message; returns whose reads are left over."""
        owners = [owner for chain in batch.chains.values() for owner in chain.owners]
        views = [wanted[owner][2] for owner in owners]
        request = storage_pb2.ReadPackedRequest(batches=[
            storage_pb2.PackedReads(
                chain=storage_pb2.VersionedChain(chain_id=chain_id, version=chain.version),
                records=b"".join(chain.records))
            for chain_id, chain in batch.chains.items()])
        sent = False

        def sink(reply: storage_pb2.ReadPackedReply) -> list[memoryview]:
            nonlocal sent
            sent = True
            return [view[:length] for view, length
                    in zip(views, _lengths(reply, views), strict=True) if length != NOT_READ]

        try:
            reply = await self._connections.storage(batch.node).read_packed(
                request, timeout=self._attempt_seconds, sink=sink, into=views)
            lengths = _lengths(reply, views)
        except FsError:
            return owners  # they are tried again, with newer routing and other replicas
        checksums = unpack_numbers(reply.checksums) if sent else ()
        if sent and len(checksums) != len(views):
            return owners
        left: list[int] = []
        if not sent and lengths == tuple(map(len, views)):
            return left
        for number, length in enumerate(lengths):
            view = views[number]
            if length == NOT_READ or (sent and crc32c(view[:length]) != checksums[number]):
                left.append(owners[number])
            elif length < len(view):
                view[length:] = bytes(len(view) - length)  # a hole
        return left


def _lengths(
    reply: storage_pb2.ReadPackedReply, views: Sequence[memoryview]
) -> tuple[int, ...]:
    lengths = unpack_numbers(reply.lengths)
    whole = lengths == tuple(map(len, views))
    if not whole and (len(lengths) != len(views) or any(
            length > len(view) and length != NOT_READ
            for length, view in zip(lengths, views, strict=True))):
        raise FsError(Kind.CORRUPT_FRAME, "not the answer to these reads")
    return lengths
