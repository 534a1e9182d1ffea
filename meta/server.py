"""The metadata service's process."""

from __future__ import annotations

import trio

from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.node import Node, cluster_config
from luciole.config import MetaConfig
from luciole.kv.open import open_store
from luciole.meta.cluster import ClusterView
from luciole.meta.gc import Collector
from luciole.meta.service import MetaService
from luciole.process import Loop, run_loops
from luciole.proto import mgmtd_pb2, services
from luciole.rpc.serving import serving
from luciole.runtime import ThreadRuntime, drive

ATTEMPT_SECONDS = 5.0
TOTAL_SECONDS = 30.0


def serve(config: MetaConfig) -> None:
    """Runs until SIGTERM. Raises FsError when it cannot start."""
    runtime = ThreadRuntime()
    config = cluster_config(runtime, config, mgmtd_pb2.META)
    node = Node(runtime, config, mgmtd_pb2.META)
    store = open_store(
        config.kv, runtime, durability=config.durability, sync_seconds=config.sync_seconds)
    try:
        chunks = ChunkClient(
            runtime, node.connections, node.routing, node.client_id,
            attempt_seconds=ATTEMPT_SECONDS, total_seconds=TOTAL_SECONDS)
        cluster = ClusterView(
            runtime, node.manager, chunk_size=config.chunk_size, stripe=config.stripe)
        service = MetaService(store, runtime, chunks, cluster)
        collector = Collector(
            store, runtime, chunks, cluster, grace_seconds=config.gc_grace_seconds)
        drive(service.start())
        with serving(config, services.META, service) as ports:
            member = node.membership(ports)
            trio.run(run_loops, [
                Loop("heartbeat", config.heartbeat_seconds, member.beat),
                Loop("routing", 0, node.manager.follow),
                Loop("collector", config.gc_interval_seconds, collector.run_once),
            ])
    finally:
        store.close()
