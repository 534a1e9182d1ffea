"""The storage service's process: opens its targets, serves them, keeps them in their chains."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import trio

from luciole.boot import boot_id
from luciole.client.remote.node import Node, cluster_config
from luciole.config import StorageConfig
from luciole.errors import FsError, Kind
from luciole.process import Loop, run_loops
from luciole.proto import mgmtd_pb2, services
from luciole.routing import RoutingTable
from luciole.rpc.dispatch import Services
from luciole.rpc.serving import serving
from luciole.runtime import ThreadRuntime
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.file import FileEngine
from luciole.storage.fencing import LateFence
from luciole.storage.neighbours import Neighbours
from luciole.storage.repair import Repair
from luciole.storage.resync import Resync
from luciole.storage.scrub import STEP_S, Scrub
from luciole.storage.service import StorageService
from luciole.storage.settling import Settling
from luciole.storage.targets import Target, Targets

RELEASE_S = 60.0  # room of removed chunks is back on the disk after two of these


def unmoved(table: RoutingTable) -> None:
    """What a process does with new routing that has nothing else."""


@dataclass(frozen=True)
class Beside:
    """What else lives in the storage service's process (the KV cache's volume)."""

    services: Services = ()
    loops: Sequence[Loop] = ()
    kv_capacity: int = 0
    observe: Callable[[RoutingTable], None] = unmoved


Company = Callable[[StorageConfig, Node], AbstractContextManager[Beside]]


def alone(config: StorageConfig, node: Node) -> AbstractContextManager[Beside]:
    """Nothing else."""
    return nullcontext(Beside())


def target_id(node_id: int, disk: int, number: int) -> int:
    """The id of a node's target: node, disk and number in decimal places that a person can read."""
    return node_id * 100_000 + disk * 1000 + number


def serve(config: StorageConfig, company: Company = alone) -> None:
    """Runs until SIGTERM, with what `company` opens. Raises FsError when it cannot start."""
    runtime = ThreadRuntime()
    config = cluster_config(runtime, config, mgmtd_pb2.STORAGE)
    node = Node(runtime, config, mgmtd_pb2.STORAGE)
    with ExitStack() as resources:
        targets = Targets(_open_targets(config, resources))
        beside = resources.enter_context(company(config, node))
        fence = LateFence()
        service = StorageService(runtime, targets, node.routing, node.connections, fence)
        ports_of_chains = (runtime, targets, node.routing, node.connections, service.replica)
        resync = Resync(*ports_of_chains, bytes_per_second=config.resync_bytes_per_second)
        repair = Repair(*ports_of_chains)
        settling = Settling(runtime, targets, node.routing, service.replica)
        neighbours = Neighbours(
            runtime, targets, node.routing, node.connections,
            interval_seconds=config.heartbeat_seconds)
        scrub = Scrub(
            runtime, targets, bytes_per_second=config.scrub_bytes_per_second,
            interval_seconds=config.scrub_interval_seconds)

        async def follow_routing() -> None:
            await node.manager.follow()
            targets.observe(node.routing.current())
            beside.observe(node.routing.current())
            neighbours.sever_lost()

        async def flush() -> None:
            for target in targets.all():
                await target.engine.sync()

        async def release() -> None:
            for target in targets.all():
                await target.engine.release_idle()

        with serving(
            config, services.STORAGE, service, beside.services, node.memory) as ports:
            member = node.membership(
                ports, targets.reports, unreachable=neighbours.unreachable,
                step_down=targets.step_down, kv_capacity=beside.kv_capacity)
            fence.member = member
            trio.run(run_loops, [
                Loop("heartbeat", config.heartbeat_seconds, member.beat),
                Loop("routing", 0, follow_routing),
                Loop("neighbours", config.heartbeat_seconds, neighbours.probe_once),
                Loop("resync", config.resync_interval_seconds, fence.guards(resync.run_once)),
                Loop("settle", config.resync_interval_seconds,
                     fence.guards(settling.run_once)),
                Loop("repair", config.resync_interval_seconds, repair.run_once),
                Loop("scrub", STEP_S, scrub.run_once),
                Loop("release", RELEASE_S, release),
                Loop("flush", config.sync_seconds, flush),
                *beside.loops,
            ])


def _open_targets(config: StorageConfig, resources: ExitStack) -> list[Target]:
    found = []
    for disk, path in enumerate(config.disks):
        root = Path(path)
        device = _device(root)
        for number in range(config.targets_per_disk):
            identity = target_id(config.node_id, disk, number)
            engine = FileEngine.open(
                root / "targets" / str(identity), cluster_id=config.cluster_id,
                target_id=identity, create=True, durability=config.durability,
                reserve=config.reserve_bytes, boot_id=boot_id(),
                calls=FileCalls(config.direct_write_bytes))
            resources.callback(engine.close)
            found.append(Target(identity, disk, engine, device=device))
    return found


def _device(root: Path) -> str:
    """Names the physical device under a path. Raises FsError DISK_FAILED."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return f"{socket.gethostname()}:{os.stat(root).st_dev}"
    except OSError as failure:
        raise FsError(Kind.DISK_FAILED, f"the disk's directory cannot be used: "
                      f"{failure.strerror}", str(root)) from failure
