"""A filesystem in one process: real services on stores in memory, called without a network.

Layer: tests. One storage target, one metadata service, any number of clients, on whichever runtime
the binding under test needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from luciole.client.operations import Operations
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.meta import MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.client.side_tree import OperationsWithTree, Tree
from luciole.client.write_buffer import Spawn
from luciole.kv.memory import MemoryStore
from luciole.meta.service import MetaService
from luciole.proto import meta_pb2, mgmtd_pb2, services
from luciole.rpc.inprocess import InProcessCaller
from luciole.runtime import Runtime, drive
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.service import StorageService
from luciole.storage.targets import Target, Targets

CHUNK = 256 * 1024
WRITE_LIMIT = 4 * CHUNK
META_NODE, STORAGE_NODE = 1, 2
CAPACITY = 1 << 40


class OpenFence:
    """The only node is never fenced."""

    def check(self) -> None:
        """Lets everything pass."""


class OneChain:
    """`meta.ports.Cluster`: every file lies on the one chain."""

    async def new_layout(self) -> meta_pb2.Layout:
        return meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=1)

    async def space(self) -> tuple[int, int, int]:
        return (CAPACITY, CAPACITY // 2, CAPACITY // 2)

    async def live_clients(self) -> set[bytes] | None:
        return None


def one_chain() -> mgmtd_pb2.Routing:
    """The routing of the whole cluster."""
    routing = mgmtd_pb2.Routing(version=1, cluster_id="memory")
    for number, kind in ((META_NODE, mgmtd_pb2.META), (STORAGE_NODE, mgmtd_pb2.STORAGE)):
        routing.nodes.add(node_id=number, kind=kind, state=mgmtd_pb2.CONNECTED, host="memory",
                          rpc_port=number)
    routing.targets.add(target_id=1, node_id=STORAGE_NODE, chain_id=1)
    chain = routing.chains.add(chain_id=1, version=1)
    chain.targets.add(target_id=1, state=mgmtd_pb2.SERVING)
    routing.tables.add(table_id=1, version=1, chain_ids=[1])
    return routing


class MemoryCluster:
    """Services, and what their clients need to reach them. Await `start` first."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._routing = RoutingCache(runtime)
        self._routing.replace(one_chain())
        self._connections = Connections(lambda address: self._callers[address[1]])
        targets = Targets([Target(1, 0, MemoryEngine())])
        targets.observe(self._routing.current())
        storage = StorageService(
            runtime, targets, self._routing, self._connections, OpenFence())
        self.store = MemoryStore(runtime)
        self._meta = MetaService(
            self.store, runtime, self._chunk_client(b"m" * 16), OneChain())
        self._callers = {
            META_NODE: InProcessCaller([(services.META, self._meta)], clock=runtime.clock),
            STORAGE_NODE: InProcessCaller([(services.STORAGE, storage)], clock=runtime.clock),
        }

    async def start(self) -> None:
        await self._meta.start()

    def _chunk_client(self, client_id: bytes) -> ChunkClient:
        return ChunkClient(self._runtime, self._connections, self._routing, client_id,
                           attempt_seconds=5.0, total_seconds=20.0)

    def client(
        self, client_id: bytes, spawn: Spawn | None, *, believe_seconds: float = 0.0,
        tree: Tree | None = None,
    ) -> Operations:
        """A client with caches and an identity (16 bytes) of its own, and perhaps a side tree."""
        meta = MetaClient(self._runtime, self._connections, self._routing, client_id,
                          attempt_seconds=5.0, total_seconds=20.0)
        chunks = self._chunk_client(client_id)
        packed = PackedReader(
            self._runtime, self._connections, self._routing, chunks, attempt_seconds=5.0)
        make: Callable[..., Operations] = Operations if tree is None else partial(
            OperationsWithTree, tree=tree)
        return make(self._runtime, meta, chunks, packed,
                    write_limit=WRITE_LIMIT, hold_seconds=3600.0,
                    believe_seconds=believe_seconds, spawn=spawn)


def two_clients(runtime: Runtime, believe_seconds: float) -> tuple[Operations, Operations]:
    """Two clients of a new cluster, on a runtime whose waits block."""
    cluster = MemoryCluster(runtime)
    drive(cluster.start())
    here, there = (
        cluster.client(name, None, believe_seconds=believe_seconds)
        for name in (b"a client is here", b"and one is there"))
    return here, there
