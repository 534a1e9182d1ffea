"""A cluster in one trio task tree: real storage services, engines in memory, a fake manager.

Layer: tests. Time is trio's mock clock, the schedule and all chance come from one seed. The manager
is `mgmtd.core.next_chain` over what the services report; routing reaches every live node at once
unless a test publishes it by hand.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from luciole.client.core.layout import chunk_id
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.clock import SeededEntropy
from luciole.errors import FsError, Kind
from luciole.mgmtd.core.chain_table import next_chain
from luciole.proto import meta_pb2, mgmtd_pb2, services, storage_pb2
from luciole.proto.services import StorageStub
from luciole.runtime import TrioRuntime
from luciole.storage.engine.interface import ChunkState, ReadOutcome, Update, Version
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.resync import Resync
from luciole.storage.service import StorageService
from luciole.storage.settling import Settling
from luciole.storage.targets import Target, Targets
from luciole.tests.sim.network import Network
from luciole.tests.sim.schedule import run_seeded

CHUNK = 64 * 1024
SERVING, SYNCING, OFFLINE = mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING, mgmtd_pb2.OFFLINE


class SimEngine(MemoryEngine):
    """Gives way before every step, so that handlers interleave where threads would."""

    async def state(self, chunk_id: bytes) -> ChunkState | None:
        await trio.lowlevel.checkpoint()
        return await super().state(chunk_id)

    async def read(
        self, chunk_id: bytes, offset: int, buffer: memoryview, *, pending: bool = False
    ) -> ReadOutcome:
        await trio.lowlevel.checkpoint()
        return await super().read(chunk_id, offset, buffer, pending=pending)

    async def stage(
        self, chunk_id: bytes, version: int, update: Update, data: memoryview
    ) -> Version:
        await trio.lowlevel.checkpoint()
        return await super().stage(chunk_id, version, update, data)

    async def commit(self, chunk_id: bytes, version: int) -> Version:
        await trio.lowlevel.checkpoint()
        return await super().commit(chunk_id, version)


class SimFence:
    """Open or closed by hand."""

    def __init__(self) -> None:
        self.closed = False

    def check(self) -> None:
        if self.closed:
            raise FsError(Kind.NOT_SERVING, "fenced")


class SimNode:
    """One storage process with one target, whose id is the node's."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self._cluster = cluster
        self.number = number
        self.engine = SimEngine()
        self.start()

    def start(self) -> None:
        """The process starts on what the disk holds."""
        cluster = self._cluster
        self.fence = SimFence()
        self.routing = RoutingCache(cluster.runtime)
        self.targets = Targets([Target(self.number, 0, self.engine)])
        connections = cluster.connections(self.number)
        self.service = StorageService(
            cluster.runtime, self.targets, self.routing, connections, self.fence)
        self.resync = Resync(
            cluster.runtime, self.targets, self.routing, connections, self.service.replica)
        self.settling = Settling(
            cluster.runtime, self.targets, self.routing, self.service.replica)
        cluster.network.serve(self.number, [(services.STORAGE, self.service)])

    @property
    def target(self) -> Target:
        """Its one target."""
        return self.targets.get(self.number)

    def learn(self, routing: mgmtd_pb2.Routing) -> None:
        """New routing arrives, as in storage/server.py."""
        self.routing.replace(routing)
        self.targets.observe(self.routing.current())


class SimCluster:
    """Chains of nodes 1 to `replicas`; chain 1 has them in this order, chain 2 from node 2 on."""

    def __init__(
        self, nursery: trio.Nursery, seed: int, *, replicas: int = 3, chains: int = 1
    ) -> None:
        self.random = random.Random(seed)
        self.runtime = TrioRuntime(entropy=SeededEntropy(seed))
        self.network = Network(self.runtime, nursery)
        self.routing = mgmtd_pb2.Routing(version=1, cluster_id="sim")
        self.caches: list[RoutingCache] = []
        for number in range(1, replicas + 1):
            self.routing.nodes.add(
                node_id=number, kind=mgmtd_pb2.STORAGE, state=mgmtd_pb2.CONNECTED,
                host="sim", rpc_port=number)
            self.routing.targets.add(target_id=number, node_id=number, chain_id=1)
        chain = self.routing.chains.add(chain_id=1, version=1)
        for number in range(1, replicas + 1):
            chain.targets.add(target_id=number, state=SERVING)
        assert chains == 1
        self.routing.tables.add(table_id=1, version=1, chain_ids=[1])
        self.nodes = {n: SimNode(self, n) for n in range(1, replicas + 1)}
        self.publish()

    @property
    def chain(self) -> mgmtd_pb2.Chain:
        """The chain as the manager has it."""
        return self.routing.chains[0]

    def connections(self, sender: int) -> Connections:
        """Connections of one node to all."""
        return Connections(lambda address: self.network.link(sender, address[1]))

    def stub(self, receiver: int, sender: int = 0) -> StorageStub:
        """A node's storage service as a client sees it."""
        return StorageStub(self.network.link(sender, receiver))

    def client(self, number: int = 0, *, attempt: float = 1.0, total: float = 20.0) -> ChunkClient:
        """A client of its own."""
        cache = RoutingCache(self.runtime)
        cache.replace(self.copy())
        self.caches.append(cache)
        return ChunkClient(
            self.runtime, self.connections(-number), cache, bytes([number]) * 16,
            attempt_seconds=attempt, total_seconds=total)

    # The manager.

    def copy(self) -> mgmtd_pb2.Routing:
        """Routing as it is now."""
        routing = mgmtd_pb2.Routing()
        routing.CopyFrom(self.routing)
        return routing

    def publish(self, nodes: Sequence[int] | None = None) -> None:
        """Tells nodes (all that are up) and clients the routing."""
        for number in nodes if nodes is not None else self.nodes:
            if self.network.up(number):
                self.nodes[number].learn(self.copy())
        for cache in self.caches:
            cache.replace(self.copy())

    def set_chain(self, *states: tuple[int, Any], publish: bool = True) -> None:
        """The manager decides: targets with their states, in order."""
        chain = self.chain
        del chain.targets[:]
        for target, state in states:
            chain.targets.add(target_id=target, state=state)
        chain.version += 1
        self.routing.version += 1
        if publish:
            self.publish()

    async def tick(self) -> bool:
        """The manager judges the chain once by what live nodes report."""
        reports = {}
        for number, node in self.nodes.items():
            if self.network.up(number) and not node.fence.closed:
                report = (await node.targets.reports())[0]
                stale = report.chain_version != self.chain.version
                up_to_date = report.state == mgmtd_pb2.LOCAL_UP_TO_DATE
                reports[number] = (
                    mgmtd_pb2.LOCAL_ONLINE if stale and up_to_date else report.state)
        after = next_chain(self.chain, reports)
        if after is self.chain:
            return False
        self.chain.CopyFrom(after)
        self.routing.version += 1
        return True

    def crash(self, number: int) -> None:
        """kill -9: the disk keeps what the engine had."""
        self.network.kill(number)

    def restart(self, number: int) -> None:
        """The process comes back and learns routing."""
        self.nodes[number].engine.restart()
        self.nodes[number].start()
        self.nodes[number].learn(self.copy())

    async def heal(self) -> None:
        """Faults are over: until every target serves."""
        for _ in range(50):
            if await self.tick():
                self.publish()
            for number, node in self.nodes.items():
                if self.network.up(number):
                    await node.resync.run_once()
            if all(target.state == SERVING for target in self.chain.targets):
                return
            await self.runtime.sleep(0.5)
        raise AssertionError(f"the chain does not heal: {self.chain}")

    # What replicas hold.

    async def contents(self, number: int) -> dict[bytes, tuple[int, bytes]]:
        """Committed (version, bytes) of every chunk of a replica; nothing may be pending."""
        engine = self.nodes[number].engine
        found = {}
        states, _ = await engine.list(b"", None, 10_000)
        for state in states:
            assert state.pending is None, f"node {number} has {state}"
            assert state.committed is not None
            buffer = memoryview(bytearray(state.committed.length))
            await engine.read(state.chunk_id, 0, buffer)
            found[state.chunk_id] = (state.committed.number, bytes(buffer))
        return found

    async def same_everywhere(self) -> dict[bytes, tuple[int, bytes]]:
        """The contents, which all replicas must have alike."""
        first, *others = [await self.contents(number) for number in self.nodes]
        for other in others:
            assert other == first
        return first


def file(inode_id: int = 7, length: int = 1 << 30) -> meta_pb2.Inode:
    """A file on chain 1."""
    return meta_pb2.Inode(
        inode_id=inode_id, type=meta_pb2.REGULAR, length=length,
        layout=meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=1))


def chunk(index: int = 0, inode_id: int = 7) -> bytes:
    """The id of a chunk of `file`."""
    return chunk_id(inode_id, index)


def versioned(cluster: SimCluster) -> storage_pb2.VersionedChain:
    """The chain as a well-informed sender names it."""
    return storage_pb2.VersionedChain(
        chain_id=cluster.chain.chain_id, version=cluster.chain.version)


def simulate(
    body: Callable[[SimCluster], Awaitable[None]], seed: int = 1, *, replicas: int = 3
) -> None:
    """Runs `body` on a fresh cluster under the mock clock, with the schedule of `seed`."""
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(3600):
                await body(SimCluster(nursery, seed, replicas=replicas))
            nursery.cancel_scope.cancel()

    run_seeded(main, seed)
