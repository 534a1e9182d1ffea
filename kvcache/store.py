"""The store as applications hold it: for threads (`Store`) and for trio (`TrioStore`).

Layer: shell. Both are thin: `Blocks` (namespace.py) does the work for either. A `Store` may be used
by any number of threads; one thread of its own keeps the routing up to date.

    with Store(config) as store:
        blocks = store.namespace("llama-70b")
        match = blocks.match_prefix(keys, lease=30.0)
        results = blocks.get(keys[: match.count], buffers)
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType

import trio

from luciole.client.remote.connections import Connections, connections_of
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.config import ClientConfig
from luciole.errors import FsError, Kind
from luciole.kvcache.asking import Volumes
from luciole.kvcache.buffers import BlockBuffer
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.memory import MemoryTier
from luciole.kvcache.namespace import DEADLINE_S, Blocks, Lease, Match
from luciole.kvcache.statistics import Statistics
from luciole.log import get_logger
from luciole.proto import mgmtd_pb2
from luciole.proto.services import Caller
from luciole.rpc.memory import Region
from luciole.rpc.tcp_client import TrioCaller
from luciole.runtime import Runtime, ThreadRuntime, TrioRuntime, drive

log = get_logger("kvcache")
FIRST_ROUTING_S = 10.0
RETRY_PAUSE_S = 0.5
CALLER_NAME = "kv cache"


class Cluster:
    """What both stores have: connections, routing, memory, statistics."""

    def __init__(
        self, config: ClientConfig, runtime: Runtime, connections: Connections,
        memory_bytes: int,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.connections = connections
        self.routing = RoutingCache(runtime)
        self.manager = Manager(runtime, self.connections, config.mgmtd, self.routing)
        self.volumes = Volumes(runtime, self.connections, self.routing)
        self.tier = MemoryTier(memory_bytes, runtime.clock)
        self.statistics = Statistics()
        self.closed = False

    async def blocks(self, name: str) -> Blocks:
        """A namespace; asks the manager if it is not known yet. Raises FsError NOT_FOUND."""
        for fresh in (False, True):
            if fresh:
                await self.manager.follow(wait_ms=0)
            for record in self.routing.current().kv_namespaces():
                if record.name == name:
                    return Blocks(record, self.volumes, self.tier, self.statistics)
        raise FsError(Kind.NOT_FOUND, "there is no such namespace: `luciole kv create` makes one",
                      repr(name))

    async def set_namespace(self, record: mgmtd_pb2.KvNamespace) -> int:
        """Makes a namespace (id 0), or changes one; its id. Raises FsError."""
        reply = await self.manager.call(lambda stub: stub.set_kv_namespace(
            mgmtd_pb2.SetKvNamespaceRequest(record=record), timeout=FIRST_ROUTING_S))
        return reply.namespace_id

    async def follow(self) -> None:
        """Keeps routing up to date until the store is closed."""
        while not self.closed:
            try:
                await self.manager.follow()
            except FsError as failure:
                if not self.closed:
                    log.info("routing_unavailable", error=str(failure))
                    await self.runtime.sleep(RETRY_PAUSE_S)

    def close(self) -> None:
        """Breaks all connections; calls under way end as if their volumes had failed."""
        self.closed = True
        self.connections.close()

    def stats(self) -> dict[str, dict[str, float]]:
        """By operation: calls, bytes, outcomes, latencies; and the memory tier."""
        counts = self.tier.counts
        return self.statistics.export() | {"memory": {
            "capacity": self.tier.capacity, "used": self.tier.used, "hits": counts.hits,
            "evicted": counts.evicted}}


class Store:
    """The KV cache of a cluster, for threads. Raises FsError if no manager answers.

    Args:
        config: of a client of the cluster.
        memory_bytes: bound of the memory tier; 0: none.
    """

    def __init__(self, config: ClientConfig, memory_bytes: int = 0) -> None:
        self.cluster = Cluster(
            config, ThreadRuntime(), connections_of(config, CALLER_NAME), memory_bytes)
        try:
            drive(self.cluster.manager.wait_for_routing(FIRST_ROUTING_S))
        except BaseException:
            self.cluster.close()
            raise
        self._follower = threading.Thread(
            target=lambda: drive(self.cluster.follow()), name="kv routing", daemon=True)
        self._follower.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def namespace(self, name: str) -> Namespace:
        """A namespace. Raises FsError NOT_FOUND."""
        return Namespace(drive(self.cluster.blocks(name)))

    def buffer(self, size: int) -> Region:
        """Memory that volumes on this machine reach in place: its `view` is `size` bytes.

        Cut blocks of whole pages (4 KiB) out of it: they come without a copy on their way, whatever
        lies elsewhere is sent. Any store may use it. Hold the region itself, not its view alone:
        without it the memory is like any other. Raises FsError NO_SPACE.
        """
        return Region(size)

    def stats(self) -> dict[str, dict[str, float]]:
        """What this store has done: see `Statistics.export`."""
        return self.cluster.stats()

    def close(self) -> None:
        """Ends its thread and its connections."""
        self.cluster.close()
        self._follower.join(RETRY_PAUSE_S * 4)


class Namespace:
    """`Blocks` for threads: the same methods, arguments and results (namespace.py)."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    @property
    def record(self) -> mgmtd_pb2.KvNamespace:
        """As the manager has it."""
        return self.blocks.record

    def match_prefix(
        self, keys: Sequence[bytes], lease: float = 0.0, deadline: float = DEADLINE_S
    ) -> Match:
        """See `Blocks.match_prefix`."""
        return drive(self.blocks.match_prefix(keys, lease, deadline))

    def get(
        self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer], offset: int | None = None,
        deadline: float = DEADLINE_S,
    ) -> list[Outcome]:
        """See `Blocks.get`."""
        return drive(self.blocks.get(keys, buffers, offset, deadline))

    def put(
        self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer], deadline: float = DEADLINE_S
    ) -> list[Outcome]:
        """See `Blocks.put`."""
        return drive(self.blocks.put(keys, buffers, deadline))

    def exists(self, keys: Sequence[bytes], deadline: float = DEADLINE_S) -> list[bool]:
        """See `Blocks.exists`."""
        return drive(self.blocks.exists(keys, deadline))

    def touch(self, keys: Sequence[bytes], deadline: float = DEADLINE_S) -> list[bool]:
        """See `Blocks.touch`."""
        return drive(self.blocks.touch(keys, deadline))

    def delete(self, keys: Sequence[bytes], deadline: float = DEADLINE_S) -> list[bool]:
        """See `Blocks.delete`."""
        return drive(self.blocks.delete(keys, deadline))

    def extend(self, lease: Lease, seconds: float, deadline: float = DEADLINE_S) -> bool:
        """See `Blocks.extend`."""
        return drive(self.blocks.extend(lease, seconds, deadline))

    def release(self, lease: Lease, deadline: float = DEADLINE_S) -> None:
        """See `Blocks.release`."""
        drive(self.blocks.release(lease, deadline))


class TrioStore:
    """The KV cache of a cluster, for trio tasks. Made by `open_trio_store`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def namespace(self, name: str) -> Blocks:
        """A namespace. Raises FsError NOT_FOUND."""
        return await self.cluster.blocks(name)

    def stats(self) -> dict[str, dict[str, float]]:
        """What this store has done: see `Statistics.export`."""
        return self.cluster.stats()


@asynccontextmanager
async def open_trio_store(
    config: ClientConfig, memory_bytes: int = 0
) -> AsyncIterator[TrioStore]:
    """As `Store`, under trio. Raises FsError if no manager answers."""

    def connect(address: tuple[str, int]) -> Caller:
        return TrioCaller(address, cluster_id=config.cluster_id, name=CALLER_NAME)

    cluster = Cluster(config, TrioRuntime(), Connections(connect), memory_bytes)
    try:
        await cluster.manager.wait_for_routing(FIRST_ROUTING_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.follow)
            yield TrioStore(cluster)
            nursery.cancel_scope.cancel()
    finally:
        cluster.close()
