"""Many small reads at once: one message to each node, of a few bytes for each read.

Layer: shell, beside `ChunkClient`, which does what does not go so: reads that cross a chunk's
border, chunks with an update under way, holes and failures. So nothing is retried here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from luciole.checksum import crc32c
from luciole.client.core.layout import KIND_FILE
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.single import SingleReader
from luciole.errors import FsError, Kind
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import CHUNK_READ, NOT_READ, unpack_numbers
from luciole.routing import serving_targets
from luciole.runtime import Runtime, side_by_side

READS_MAX = 1024  # of one message
BYTES_MAX = 4 << 20  # of one message: more goes side by side
# Shorter reads are answered from pieces that services keep verified; longer ones, if their bytes
# travel, carry the checksums of their blocks as they are stored.
LARGE_BYTES = 64 * 1024
# What a message more is worth: nodes that work side by side gain time where processors are free.
MESSAGE_READS = 24 if (os.cpu_count() or 1) > 2 else 64

Wanted = tuple[meta_pb2.Inode, int, memoryview]  # file, offset, where the bytes go


class Reads:
    """Reads of one chain, in order: as records, whose they are, and where the bytes go."""

    __slots__ = ("owners", "records", "views")

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.owners: list[int] = []
        self.views: list[memoryview] = []

    def parts(self) -> Iterator[tuple[Reads, int]]:
        """Itself, or pieces of it that fit one message each; each with its size in bytes."""
        size = sum(map(len, self.views))
        if len(self.owners) <= READS_MAX and size <= BYTES_MAX:
            yield self, size
            return
        part, size = Reads(), 0
        for record, owner, view in zip(self.records, self.owners, self.views, strict=True):
            if part.owners and (len(part.owners) == READS_MAX or size + len(view) > BYTES_MAX):
                yield part, size
                part, size = Reads(), 0
            part.records.append(record)
            part.owners.append(owner)
            part.views.append(view)
            size += len(view)
        yield part, size


class Batch:
    """The reads of one message."""

    def __init__(self, node: mgmtd_pb2.Node) -> None:
        self.node = node
        self.count = 0
        self.size = 0
        self.parts: list[tuple[mgmtd_pb2.Chain, Reads]] = []

    def has_room(self, count: int, size: int) -> bool:
        """Whether so many more reads and bytes go into this message."""
        return self.count + count <= READS_MAX and self.size + size <= BYTES_MAX

    def add(self, chain: mgmtd_pb2.Chain, reads: Reads, size: int) -> None:
        """Takes reads of a chain that the node serves."""
        self.parts.append((chain, reads))
        self.count += len(reads.owners)
        self.size += size


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
        self._far: set[int] = set()  # nodes whose last large reply travelled
        self._single = SingleReader(connections, routing, self._turn, attempt_seconds)

    async def read_one(self, inode: meta_pb2.Inode, offset: int, view: memoryview) -> None:
        """As `ChunkClient.read`, in fewer steps if the bytes lie in one chunk at rest."""
        try:
            if self._single.read(inode, offset, view):
                return
        except FsError:
            # Others are asked; a replica that needs others' word for its chunk may ask them.
            await self._chunks.read(inode, offset, view)
            return
        if len(view) >= LARGE_BYTES:
            await self._chunks.read(inode, offset, view)
            return
        for failure in (await self._read_together([(inode, offset, view)])).values():
            raise failure

    async def read(self, wanted: Sequence[Wanted]) -> dict[int, FsError]:
        """Fills all buffers; returns the failures, by the place in `wanted`.

        What was never written reads as zeros. Buffers are not empty.
        """
        if len(wanted) != 1:
            return await self._read_together(wanted)
        try:
            await self.read_one(*wanted[0])
        except FsError as failure:
            return {0: failure}
        return {}

    async def _read_together(self, wanted: Sequence[Wanted]) -> dict[int, FsError]:
        left: list[int] = []
        batches = self._deal(self._by_chain(wanted, left), left)
        if batches:
            at_once = side_by_side(self._runtime, sum(batch.size for batch in batches))
            for rest in await at_once([partial(self._send, batch) for batch in batches]):
                left += rest
        failures: dict[int, FsError] = {}
        if left:
            again = await self._chunks.read_each([wanted[index] for index in left])
            for index, failure in zip(left, again, strict=True):
                if failure is not None:
                    failures[index] = failure
        return failures

    def _by_chain(self, wanted: Sequence[Wanted], left: list[int]) -> dict[int, Reads]:
        """The reads by chain id; `left` gets those that are not for this way.

        What a read costs here and where its room is lent is most of what it costs its client,
        so what is the same for all reads of a file is looked up when the file changes.
        """
        by_chain: dict[int, Reads] = {}
        pack = CHUNK_READ.pack
        file: meta_pb2.Inode | None = None
        for owner, (inode, offset, view) in enumerate(wanted):
            if inode is not file:
                file, layout, inode_id = inode, inode.layout, inode.inode_id
                chunk_size, seed, stripe = layout.chunk_size, layout.seed, layout.stripe
                chain_ids = self._chunks.table_of(layout).chain_ids
                chains = len(chain_ids)
            index = offset // chunk_size
            start = offset % chunk_size
            size = len(view)
            if start + size > chunk_size or index > CHUNKS_PER_FILE_MAX:
                left.append(owner)
                continue
            chain_id = chain_ids[(seed + index % stripe) % chains]
            reads = by_chain.get(chain_id)
            if reads is None:
                reads = by_chain[chain_id] = Reads()
            reads.records.append(pack(KIND_FILE, inode_id, index, start, size))
            reads.owners.append(owner)
            reads.views.append(view)
        return by_chain

    def _deal(self, by_chain: dict[int, Reads], left: list[int]) -> list[Batch]:
        """Gives each chain's reads to a node that serves it, so that nodes have equal parts.

        A message costs both sides as much as MESSAGE_READS reads in one that is sent anyway, so a
        node without one counts as having these. `left` gets reads of chains that no node serves.
        """
        table = self._routing.current()
        batches: list[Batch] = []
        load: dict[int, int] = {}  # node -> its reads
        self._turn += 1
        for chain_id, reads in sorted(by_chain.items(), key=_most_first):
            try:
                chain = table.chain(chain_id)
                nodes = [table.node_of(target) for target in serving_targets(chain)]
            except FsError:
                nodes = []
            if not nodes or (self._far and self._better_alone(nodes, reads)):
                left += reads.owners
                continue
            first = self._turn % len(nodes)  # of equal ones
            for part, size in reads.parts():
                node = min(nodes[first:] + nodes[:first],
                           key=lambda node: load.get(node.node_id, MESSAGE_READS))
                node_id, count = node.node_id, len(part.owners)
                load[node_id] = load.get(node_id, 0) + count
                batch = next((batch for batch in batches if batch.node.node_id == node_id
                              and batch.has_room(count, size)), None)
                if batch is None:
                    batch = Batch(node)
                    batches.append(batch)
                batch.add(chain, part, size)
        return batches

    def _better_alone(self, nodes: list[mgmtd_pb2.Node], reads: Reads) -> bool:
        """Whether these are large, and nobody has them who reaches our memory: then whoever
        answers may send files as they are, which goes with `Read` alone."""
        large = sum(map(len, reads.views)) >= LARGE_BYTES * len(reads.views)
        return large and self._far.issuperset(node.node_id for node in nodes)

    async def _send(self, batch: Batch) -> list[int]:
        """One message; returns whose reads are left over."""
        owners: list[int] = []
        views: list[memoryview] = []
        request = storage_pb2.ReadPackedRequest()
        for chain, reads in batch.parts:
            owners += reads.owners
            views += reads.views
            request.batches.add(
                chain=storage_pb2.VersionedChain(chain_id=chain.chain_id, version=chain.version),
                records=b"".join(reads.records))
        sizes = tuple(map(len, views))
        sent = False

        def sink(reply: storage_pb2.ReadPackedReply) -> list[memoryview]:
            nonlocal sent
            sent = True
            return [view[:length] for view, length
                    in zip(views, _lengths(reply, sizes), strict=True) if length != NOT_READ]

        try:
            reply = await self._connections.storage(batch.node).read_packed(
                request, timeout=self._attempt_seconds, sink=sink, into=views)
            lengths = _lengths(reply, sizes)
        except FsError:
            return owners  # they are tried again, with newer routing and other replicas
        if batch.size >= LARGE_BYTES * batch.count:
            (self._far.add if sent else self._far.discard)(batch.node.node_id)
        if not sent and lengths == sizes:
            return []
        checksums = unpack_numbers(reply.checksums) if sent else ()
        if sent and len(checksums) != len(views):
            return owners
        left: list[int] = []
        for number, length in enumerate(lengths):
            view = views[number]
            if length == NOT_READ or (sent and crc32c(view[:length]) != checksums[number]):
                left.append(owners[number])
            elif length < len(view):
                view[length:] = bytes(len(view) - length)  # a hole
        return left


def _most_first(entry: tuple[int, Reads]) -> int:
    return -len(entry[1].owners)


def _lengths(reply: storage_pb2.ReadPackedReply, sizes: tuple[int, ...]) -> tuple[int, ...]:
    lengths = unpack_numbers(reply.lengths)
    if lengths != sizes and (len(lengths) != len(sizes) or any(
            length > size and length != NOT_READ
            for length, size in zip(lengths, sizes, strict=True))):
        raise FsError(Kind.CORRUPT_FRAME, "not the answer to these reads")
    return lengths
