"""How fast a chain answers reads when every replica takes part, and when only the tail does.

Layer: tests. The services and the client are the real ones; what is modelled is time. Each node is
one server that does one thing at a time: a read of a chunk takes it `READ_S`, a look at a chunk's
state (which the answer to a version query is, too) `STATE_S`. So the figures depend on these two
and on nothing of the machine: what is compared is the work that each node has to do, CRAQ's point.

Source: Terrace and Freedman, "Object Storage on CRAQ", USENIX ATC 2009, section 6.
"""

from __future__ import annotations

import trio

from luciole.checksum import block_checksums
from luciole.client.remote.chunks import ChunkClient
from luciole.proto import storage_pb2
from luciole.routing import RoutingTable, serving_targets
from luciole.storage.engine.interface import ChunkState, ReadOutcome, Update
from luciole.tests.sim.cluster import CHUNK, SimCluster, SimEngine, chunk, file, simulate

READ_S = 0.001  # 1 MiB at 1 GiB/s: a core that reads and checks, or a modest disk
STATE_S = 0.00007  # a small call of the framed protocol (docs/performance.md)
CHUNKS = 20
READERS = 24
READS = 12  # of each reader
UNDER_WAY = 1 << 40  # a version
FILE = file(length=CHUNKS * CHUNK)


class TimedEngine(SimEngine):
    """An engine on a node that does one thing at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.server = trio.CapacityLimiter(1)
        self.timed = False

    async def _work(self, seconds: float) -> None:
        if self.timed:
            async with self.server:
                await trio.sleep(seconds)

    async def state(self, chunk_id: bytes) -> ChunkState | None:
        """See ChunkEngine."""
        await self._work(STATE_S)
        return await super().state(chunk_id)

    async def read(
        self, chunk_id: bytes, offset: int, buffer: memoryview, *, pending: bool = False
    ) -> ReadOutcome:
        """See ChunkEngine."""
        await self._work(READ_S)
        return await super().read(chunk_id, offset, buffer, pending=pending)

    async def read_unverified(
        self, chunk_id: bytes, offset: int, room: memoryview
    ) -> ReadOutcome | None:
        """See ChunkEngine. That a chunk is not at rest is seen without any work."""
        found = await super().read_unverified(chunk_id, offset, room)
        if found is not None:
            await self._work(READ_S)
        return found


def tail_only(client: ChunkClient) -> None:
    """From now on the client reads as from a plain replicated chain."""

    def tail(table: RoutingTable, piece: object) -> int:
        return serving_targets(table.chains()[0])[-1]

    client._reader_of = tail  # type: ignore[method-assign]


def reads_per_second(*, dirty: float, spread: bool) -> float:
    """Reads of whole chunks by many readers of one chain of three, per virtual second.

    Args:
        dirty: the share of chunks under an update that has not come to the tail yet.
        spread: whether all replicas are read, or only the tail.
    """
    taken: list[float] = []

    async def body(cluster: SimCluster) -> None:
        await prepare(cluster, round(CHUNKS * dirty))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                nursery.start_soon(read_many, cluster, number, spread)
        taken.append(trio.current_time() - began)

    simulate(body)
    return READERS * READS / taken[0]


async def prepare(cluster: SimCluster, dirty: int) -> None:
    """Writes all chunks, begins an update of the first `dirty`, and lets work take time."""
    engines = []
    for node in cluster.nodes.values():
        engine = node.engine = TimedEngine()
        engines.append(engine)
        node.start()
    cluster.publish()
    client = cluster.client()
    data = memoryview(bytes(CHUNK))
    for index in range(CHUNKS):
        await client.write(FILE, index * CHUNK, data)
    update = Update(int(storage_pb2.REPLACE), 0, CHUNK, CHUNK, tuple(block_checksums(0, data)))
    for index in range(dirty):
        for engine in engines[:-1]:
            await engine.stage(chunk(index), UNDER_WAY, update, data)
    for engine in engines:
        engine.timed = True


async def read_many(cluster: SimCluster, number: int, spread: bool) -> None:
    """One reader, who takes its chunks by chance."""
    client = cluster.client(number + 1)
    if not spread:
        tail_only(client)
    buffer = memoryview(bytearray(CHUNK))
    for _ in range(READS):
        await client.read(FILE, cluster.random.randrange(CHUNKS) * CHUNK, buffer)
