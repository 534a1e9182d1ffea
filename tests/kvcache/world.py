"""Volumes of several nodes on real sockets in one process, and routing that shows them."""

from __future__ import annotations

import os
from pathlib import Path

from luciole.client.remote.connections import connections_of
from luciole.client.remote.manager import RoutingCache
from luciole.clock import SystemClock
from luciole.config import ClientConfig
from luciole.kvcache.asking import Volumes
from luciole.kvcache.memory import MemoryTier
from luciole.kvcache.namespace import Blocks
from luciole.kvcache.statistics import Statistics
from luciole.kvcache.store import Namespace
from luciole.kvcache.volume.server import VolumeLimits
from luciole.kvcache.volume.service import KvCacheService
from luciole.kvcache.volume.volume import Volume
from luciole.proto import mgmtd_pb2, services
from luciole.routing import RoutingTable
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import ThreadRuntime
from luciole.tests.kvcache.volumes import SPACE, open_volume

CLUSTER = "cluster-a"


class World:
    """Some volumes and one client."""

    def __init__(
        self, path: Path, nodes: int = 3, *, slabs: int = 8, replication: int = 1, quota: int = 0,
        memory: int = 0, shared: bool = False,
    ) -> None:
        self.runtime = ThreadRuntime()
        self.routing = RoutingCache(self.runtime)
        self.record = mgmtd_pb2.KvNamespace(
            namespace_id=SPACE, name="test", replication=replication, quota_bytes=quota)
        self.volumes: dict[int, Volume] = {}
        self.servers: dict[int, FramedServer] = {}
        self.local: list[FramedServer] = []  # for callers that share their memory
        table = mgmtd_pb2.Routing(version=1, cluster_id=CLUSTER, kv_namespaces=[self.record])
        for node_id in range(1, nodes + 1):
            volume = open_volume(path / str(node_id), slabs=slabs)
            server = FramedServer(
                ("127.0.0.1", 0), [(services.KVCACHE, KvCacheService(volume))],
                cluster_id=CLUSTER, name=f"storage-{node_id}")
            port = server.start()
            self.volumes[node_id], self.servers[node_id] = volume, server
            node = table.nodes.add(
                node_id=node_id, kind=mgmtd_pb2.STORAGE, state=mgmtd_pb2.CONNECTED,
                host="127.0.0.1", rpc_port=port, kv_capacity_bytes=volume.capacity)
            if shared:
                node.local = f"luciole-test-{os.getpid()}-{port}"
                self.local.append(FramedServer(
                    "\0" + node.local, [(services.KVCACHE, KvCacheService(volume))],
                    cluster_id=CLUSTER, name=f"storage-{node_id}"))
                self.local[-1].start()
        self.routing.replace(table)
        for node_id, volume in self.volumes.items():
            VolumeLimits(volume, node_id).observe(RoutingTable(table))
        self.tier = MemoryTier(memory, SystemClock())
        self.statistics = Statistics()
        self.connections = connections_of(ClientConfig(cluster_id=CLUSTER), "test")
        self.asked = Volumes(self.runtime, self.connections, self.routing)
        self.blocks = Blocks(self.record, self.asked, self.tier, self.statistics)
        self.namespace = Namespace(self.blocks)

    def stop(self, node_id: int) -> None:
        """A node's process is gone."""
        self.servers.pop(node_id).stop()

    def close(self) -> None:
        self.connections.close()
        for server in [*self.servers.values(), *self.local]:
            server.stop()
        for volume in self.volumes.values():
            volume.close()
