"""Many small reads at once: one message to each node, of a few bytes for each read.

Layer: shell, beside `ChunkClient`, which does what does not go so: reads that cross a chunk's
border, chunks with an update under way, holes and failures. So nothing is retried here.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from luciole.client.core.layout import KIND_FILE
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.packed_messages import Batch, Message, Reads
from luciole.client.remote.single import SingleReader
from luciole.errors import FsError
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import CHUNK_READ
from luciole.proto.services import STORAGE_READ_PACKED
from luciole.routing import serving_targets
from luciole.rpc.reach import NodeCaller
from luciole.rpc.ring_client import Ask
from luciole.runtime import Runtime, side_by_side

# Shorter reads are answered from pieces that services keep verified; longer ones, if their bytes
# travel, carry the checksums of their blocks as they are stored.
LARGE_BYTES = 64 * 1024
# What a message more is worth: nodes that work side by side gain time where processors are free.
MESSAGE_READS = 24 if (os.cpu_count() or 1) > 2 else 64
READ_BYTES = 64 * 1024  # that a service reads and verifies while it handles one read more

Wanted = tuple[meta_pb2.Inode, int, memoryview]  # file, offset, where the bytes go


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
            sends, travelling = self._sends(batches)
            for rest in await side_by_side(self._runtime, travelling)(sends):
                left += rest
        failures: dict[int, FsError] = {}
        if left:
            again = await self._chunks.read_each([wanted[index] for index in left])
            for index, failure in zip(left, again, strict=True):
                if failure is not None:
                    failures[index] = failure
        return failures

    def _sends(
        self, batches: Sequence[Batch]
    ) -> tuple[list[Callable[[], Awaitable[list[int]]]], int]:
        """How the batches leave, and how many bytes may travel: not those of our machine."""
        of_nodes: dict[int, list[Batch]] = {}
        for batch in batches:
            of_nodes.setdefault(batch.node.node_id, []).append(batch)
        sends: list[Callable[[], Awaitable[list[int]]]] = []
        travelling = 0
        for of_node in of_nodes.values():
            caller = self._connections.node(of_node[0].node)
            if isinstance(caller, NodeCaller) and caller.reaches_memory:
                if len(of_node) > 1 and not caller.why_no_rings():
                    sends.append(partial(self._send_all, caller, of_node))
                    continue
            else:
                travelling += sum(batch.size for batch in of_node)
            sends += [partial(self._send, batch) for batch in of_node]
        return sends, travelling

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
        load: dict[int, int] = {}  # node -> its work, in small reads
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
                load[node_id] = load.get(node_id, 0) + count + size // READ_BYTES
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
        message = Message(batch)
        try:
            reply = await self._connections.storage(batch.node).read_packed(
                message.request, timeout=self._attempt_seconds, sink=message.sink,
                into=message.views)
        except FsError:
            return message.owners  # they are tried again, with newer routing and other replicas
        return self._take(message, reply)

    async def _send_all(self, caller: NodeCaller, batches: Sequence[Batch]) -> list[int]:
        """Messages for one node, all at once through a ring; returns whose reads are left over."""
        messages = [Message(batch) for batch in batches]
        try:
            replies = await caller.call_many(
                STORAGE_READ_PACKED,
                [Ask(message.request, sink=message.sink, into=message.views)
                 for message in messages], timeout=self._attempt_seconds)
        except FsError:
            return [owner for message in messages for owner in message.owners]
        left: list[int] = []
        for message, reply in zip(messages, replies, strict=True):
            left += message.owners if isinstance(reply, FsError) else self._take(message, reply)
        return left

    def _take(self, message: Message, reply: storage_pb2.ReadPackedReply) -> list[int]:
        """Takes the answer to a message; returns whose reads are left over."""
        if message.batch.size >= LARGE_BYTES * message.batch.count:
            node_id = message.batch.node.node_id
            (self._far.add if message.sent else self._far.discard)(node_id)
        try:
            return message.left(reply)
        except FsError:
            return message.owners


def _most_first(entry: tuple[int, Reads]) -> int:
    return -len(entry[1].owners)
