"""The KV cache in a world: volumes beside the storage services, and processes that use them.

Layer: tests. A volume is put together as `kvcache/volume/server.py` does it, on a simulated disk;
its calls run on a stage, where they meet as threads would.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from luciole.config import ClientConfig
from luciole.errors import FsError
from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.slots import Slot
from luciole.kvcache.store import Cluster
from luciole.kvcache.volume.checking import check
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.kvcache.volume.server import company_of
from luciole.kvcache.volume.volume import Volume
from luciole.process import FAILURE_PAUSE_S, Loop
from luciole.routing import RoutingTable
from luciole.rpc.dispatch import Services
from luciole.rpc.interface import ServerCall
from luciole.runtime import drive
from luciole.storage.server import Beside
from luciole.tests.sim.platter import Platter, SimFiles
from luciole.tests.sim.process import CLUSTER, SYNC_S, Process
from luciole.tests.sim.promises import Watch
from luciole.tests.sim.stage import Stage

if TYPE_CHECKING:
    from luciole.tests.sim.world import World

SLAB = 32 * 1024
MEMORY_BYTES = 30_000
Method = Callable[[Message, ServerCall], Coroutine[Any, Any, Message]]


class StagedService:
    """A handler whose calls run on a stage, watched."""

    def __init__(self, service: object, stage: Stage, watch: Watch) -> None:
        self._service = service
        self._stage = stage
        self._watch = watch

    def __getattr__(self, name: str) -> Method:
        method: Method = getattr(self._service, name)

        async def handle(request: Message, call: ServerCall) -> Message:
            self._watch.before(request)
            try:
                reply = await self._stage.run(lambda: drive(method(request, call)))
            except FsError:
                self._watch.verify()
                raise
            finally:
                self._watch.ended(request)
            self._watch.after(request, reply)
            return reply

        return handle


class SeenVolume(Volume):
    """Tells of each block that it finds to be damaged, before it removes it."""

    watch: Watch
    world: World

    def damaged(self, namespace_id: int, entry: Entry[Slot]) -> bool:
        """See Volume."""
        if self.space(namespace_id).holds(entry):
            self.watch.damaged((namespace_id, entry.key))
        gone = super().damaged(namespace_id, entry)
        self.world.count("kv read while its slot was taken away", not gone)
        return gone


class Cache:
    """The volume of one storage node, in all its incarnations."""

    volume: SeenVolume
    watch: Watch

    def __init__(self, world: World, number: int, capacity: int) -> None:
        self._world = world
        self._number = number
        self._capacity = capacity
        self._stage = Stage()
        self.platter = Platter(world.draw("platter", number))

    def open(self, process: Process) -> Beside:
        """What lives beside the storage service. Raises FsError."""
        stage = self._stage = Stage()
        files = SimFiles(self.platter, stage)
        disk = VolumeDisk.open(
            Path(process.name), cluster_id=CLUSTER, slab_bytes=SLAB, calls=files)
        volume = self.volume = SeenVolume(
            disk, self._capacity, process.runtime.clock, process.runtime.entropy,
            f"boot-{self.platter.boots}")
        volume.world = self._world
        files.guard = volume.guard
        watch = self.watch = volume.watch = Watch(
            self._world, process.name, volume, process.runtime.clock, self.platter)
        self._world.count("kv recovered", volume.recovered)
        beside = company_of(volume, process.number, SYNC_S)

        def observe(table: RoutingTable) -> None:
            watch.verify()
            beside.observe(table)
            watch.configured()

        def staged(step: Callable[[], Coroutine[Any, Any, object]]) -> Callable[
                [], Coroutine[Any, Any, object]]:
            async def run() -> None:
                await stage.run(lambda: drive(step()))
                watch.verify()
            return run

        return Beside(
            services=[(service, StagedService(handler, stage, watch))
                      for service, handler in beside.services],
            loops=[Loop(loop.name, loop.seconds, staged(loop.step)) for loop in beside.loops],
            kv_capacity=beside.kv_capacity, observe=observe)

    def problems(self) -> list[str]:
        """What `luciole fsck` would say of the volume, and rot does not explain."""
        _, problems = check(self.volume)
        rotten = [key.hex() for _, key in self.platter.rotten]
        return [problem for problem in problems if not any(key in problem for key in rotten)]

    def crash(self, *, power: bool) -> None:
        """The process has died; its calls reach the disk no more."""
        self._stage.dead = True
        if power:
            self.platter.lose_power()


class CacheClient(Process):
    """A process that uses the KV cache, as an inference engine does."""

    kind = "engine"

    @property
    def memory_bytes(self) -> int:
        """Of its memory tier: every third has one."""
        return 0 if self.number % 3 else MEMORY_BYTES

    async def open(self) -> Services:
        """See kvcache/store.py."""
        config = ClientConfig(cluster_id=CLUSTER, mgmtd=self.world.manager_addresses)
        self.cluster = Cluster(config, self.runtime, self.connections, self.memory_bytes)
        return []

    async def connect(self) -> None:
        """As a store does before it is used, but for as long as it takes."""
        while True:
            try:
                await self.cluster.manager.wait_for_routing(1.0)
            except FsError:
                await self.runtime.sleep(FAILURE_PAUSE_S)
            else:
                return

    def loops(self) -> list[Loop]:
        """See kvcache/store.py."""
        return [Loop("routing", 0, self.cluster.follow)]


