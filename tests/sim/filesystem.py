"""A whole filesystem in one process: metadata service, storage chain, mounts.

Layer: tests. `Mount` is what a kernel binding would hold: `Operations` of one client.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.meta import MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.kv.memory import MemoryStore
from luciole.meta.gc import Collector
from luciole.meta.service import MetaService
from luciole.proto import common_pb2, meta_pb2, mgmtd_pb2, services
from luciole.tests.sim.cluster import CHUNK, SimCluster, simulate

META_NODE = 100
ROOT = 1
CREDENTIAL = common_pb2.Credential(uid=0, gid=0)
GRACE = 30.0
READ = OpenFlags(read=True)
BOTH = OpenFlags(read=True, write=True)


class SimClusterView:
    """`meta.ports.Cluster` without a manager."""

    def __init__(self) -> None:
        self.alive: set[bytes] | None = None

    async def new_layout(self) -> meta_pb2.Layout:
        return meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=1)

    async def space(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    async def live_clients(self) -> set[bytes] | None:
        return self.alive


class FileSystem:
    """Services and mounts on a `SimCluster`."""

    def __init__(self, cluster: SimCluster, *, background: bool) -> None:
        self.cluster = cluster
        self.background = background
        cluster.routing.nodes.add(
            node_id=META_NODE, kind=mgmtd_pb2.META, state=mgmtd_pb2.CONNECTED, host="sim",
            rpc_port=META_NODE)
        cluster.routing.version += 1
        cluster.publish()
        self.store = MemoryStore(cluster.runtime)
        self.view = SimClusterView()
        self.chunks = cluster.client(200)
        self.meta = MetaService(self.store, cluster.runtime, self.chunks, self.view)
        self.collector = Collector(
            self.store, cluster.runtime, self.chunks, self.view, grace_seconds=GRACE)
        cluster.network.serve(META_NODE, [(services.META, self.meta)])

    def mount(self, number: int) -> Operations:
        """A client with its own caches and identity."""
        cluster = self.cluster
        cache = RoutingCache(cluster.runtime)
        cache.replace(cluster.copy())
        cluster.caches.append(cache)
        meta = MetaClient(
            cluster.runtime, cluster.connections(-number), cache, bytes([number]) * 16,
            attempt_seconds=1.0, total_seconds=20.0)

        def spawn(run: Callable[[], Awaitable[None]]) -> None:
            cluster.network.nursery.start_soon(run)

        chunks = cluster.client(number)
        packed = PackedReader(
            cluster.runtime, cluster.connections(-number), cache, chunks, attempt_seconds=1.0)
        return Operations(
            cluster.runtime, meta, chunks, packed, write_limit=2 * CHUNK,
            hold_seconds=10.0, spawn=spawn if self.background else None)

    async def sleep(self, seconds: float) -> None:
        """Virtual time passes."""
        await trio.sleep(seconds)


def run_filesystem(
    body: Callable[[FileSystem], Awaitable[None]], *, background: bool = True, seed: int = 1
) -> None:
    """Runs `body` on a fresh filesystem under the mock clock."""

    async def scenario(cluster: SimCluster) -> None:
        filesystem = FileSystem(cluster, background=background)
        await filesystem.meta.start()
        await body(filesystem)

    state = random.getstate()
    simulate(scenario, seed)
    random.setstate(state)
