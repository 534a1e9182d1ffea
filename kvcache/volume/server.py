"""The volume as a part of the storage service's process.

Layer: shell. Its limits follow routing: a namespace's quota is divided over the volumes of the
nodes that are there, by the buckets that each holds, so that all parts together are the quota.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luciole.boot import boot_id
from luciole.client.remote.node import Node
from luciole.config import StorageConfig
from luciole.kvcache.core.placement import Placement
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.kvcache.volume.service import KvCacheService
from luciole.kvcache.volume.volume import Limits, Volume
from luciole.process import Loop
from luciole.proto import services
from luciole.routing import RoutingTable
from luciole.storage.server import Beside

SWEEP_S = 0.5
VOLUME_NAME = "kvcache"


@contextmanager
def beside_storage(config: StorageConfig, node: Node) -> Iterator[Beside]:
    """Opens the node's volume, if it has one, and closes it at the end. Raises FsError."""
    if config.kv_capacity_bytes == 0:
        yield Beside()
        return
    disk = VolumeDisk.open(
        Path(config.disks[0]) / VOLUME_NAME, cluster_id=config.cluster_id)
    try:
        volume = Volume(disk, config.kv_capacity_bytes, node.runtime.clock, node.runtime.entropy,
                        boot_id())
    except BaseException:
        disk.close()
        raise
    try:
        yield company_of(volume, config.node_id, config.sync_seconds)
    finally:
        volume.close()


def company_of(volume: Volume, node_id: int, sync_seconds: float) -> Beside:
    """What a volume is to the process of its node's storage service."""
    limits = VolumeLimits(volume, node_id)

    async def sweep() -> None:
        volume.sweep()

    async def flush() -> None:
        volume.flush()

    return Beside(
        services=[(services.KVCACHE, KvCacheService(volume))],
        loops=[Loop("kv sweep", SWEEP_S, sweep), Loop("kv flush", sync_seconds, flush)],
        kv_capacity=volume.capacity, observe=limits.observe)


class VolumeLimits:
    """What routing says of a node's volume."""

    def __init__(self, volume: Volume, node_id: int) -> None:
        self._volume = volume
        self._node_id = node_id
        self._placement = Placement({})

    def observe(self, table: RoutingTable) -> None:
        """Takes new routing over. This node's own volume counts even if it is not listed yet."""
        capacities = table.kv_volumes() | {self._node_id: self._volume.capacity}
        if capacities != self._placement.capacities:
            self._placement = Placement(capacities)
        self._volume.configure({
            record.namespace_id: Limits(
                self._placement.quota_of(
                    self._node_id, record.quota_bytes, record.replication)
                if record.quota_bytes else None,
                record.ttl_seconds * 10**9)
            for record in table.kv_namespaces()})
