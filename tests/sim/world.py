"""A world: managers, metadata services, storage nodes and clients on one wire, from one seed.

Layer: tests. Numbers of processes: managers 1 to 9, storage from 10, metadata from 30, clients
from 50 on, engines that use the KV cache from 70; they are addresses, node ids and names in traces
at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio

from luciole.clock import SeededEntropy
from luciole.proto import mgmtd_pb2
from luciole.routing import RoutingTable
from luciole.rpc.interface import ServerCall
from luciole.runtime import TrioRuntime
from luciole.storage.engine.engine import Durability
from luciole.tests.sim.caches import Cache, CacheClient
from luciole.tests.sim.disk import SimEngine, SimStore
from luciole.tests.sim.process import (
    ClientProcess,
    ManagerProcess,
    MetaProcess,
    Process,
    StorageProcess,
)
from luciole.tests.sim.schedule import chance_for, number_from
from luciole.tests.sim.trace import Trace
from luciole.tests.sim.wire import Wire

SERVING = mgmtd_pb2.SERVING
DISK_BYTES = 1 << 30
START_TICKS = 300
FOREVER = float("inf")


class ViolationError(AssertionError):
    """Something that may not be has happened."""


@dataclass(frozen=True)
class Shape:
    """How large a world is."""

    nodes: int = 3
    targets: int = 2  # of each node
    replicas: int = 3
    metas: int = 2
    managers: int = 1
    clients: int = 3
    stripe: int = 2
    durability: Durability = "process"
    volume_bytes: int = 0  # of the KV cache's volume of each node; 0: it has none
    engines: int = 0  # processes that use the KV cache
    skew: float = 0.0  # clocks run up to so much faster or slower, as a fraction


class World:
    """Everything that is simulated."""

    def __init__(self, nursery: trio.Nursery, seed: int, shape: Shape, trace: Trace) -> None:
        self.nursery = nursery
        self.seed = seed
        self.shape = shape
        self.trace = trace
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.wire = Wire(nursery, chance_for(seed, "wire"), trace)
        numbers = range(1, 1 + shape.managers)
        self.manager_addresses = [f"sim:{number}" for number in numbers]
        self.store = SimStore(TrioRuntime(entropy=SeededEntropy(number_from(seed, "store"))))
        self.engines: dict[int, SimEngine] = {}
        self.managers = [ManagerProcess(self, number) for number in numbers]
        self.storages = [
            StorageProcess(self, number, self._disks(number), self._cache(number))
            for number in range(10, 10 + shape.nodes)]
        self.caches = {
            node.number: node.cache for node in self.storages if node.cache is not None}
        self.metas = [MetaProcess(self, number) for number in range(30, 30 + shape.metas)]
        self.clients = [ClientProcess(self, number) for number in range(50, 50 + shape.clients)]
        self.inferring = [CacheClient(self, number) for number in range(70, 70 + shape.engines)]

    @property
    def servers(self) -> list[Process]:
        """All processes but the clients."""
        return [*self.managers, *self.storages, *self.metas]

    @property
    def callers(self) -> list[ClientProcess | CacheClient]:
        """All processes that serve nobody."""
        return [*self.clients, *self.inferring]

    def _cache(self, node: int) -> Cache | None:
        return Cache(self, node, self.shape.volume_bytes) if self.shape.volume_bytes else None

    def _disks(self, node: int) -> dict[int, SimEngine]:
        made = {}
        for number in range(self.shape.targets):
            engine = SimEngine(capacity=DISK_BYTES, durability=self.shape.durability)
            engine.chance = chance_for(self.seed, "disk", node, number)
            made[node * 100 + number] = engine
        self.engines.update(made)
        return made

    def skew(self, number: int) -> tuple[float, float]:
        """(rate, offset in seconds) of a process's clock."""
        chance = chance_for(self.seed, "clock", number)
        return 1 + self.shape.skew * chance.uniform(-1, 1), chance.uniform(0, 1000)

    def draw(self, *names: object) -> random.Random:
        """A generator of its own for one part of the run."""
        return chance_for(self.seed, *names)

    async def start(self) -> None:
        """Everything is up, chains are made, clients are connected."""
        for process in [*self.managers, *self.storages]:
            await process.start()
        await self._until(lambda: len(self.table().routing.targets) == len(self.engines)
                          and self.table().kv_volumes().keys() == self.caches.keys()
                          and self.primary() is not None)
        manager = self.primary()
        assert manager is not None
        if self.engines:
            await manager.service.create_chains(
                mgmtd_pb2.CreateChainsRequest(replicas=self.shape.replicas), ServerCall(FOREVER))
        for process in self.metas:
            await process.start()
        await self._until(lambda: all(
            process.routing.version and process.routing.current().chains()
            for process in self.metas))
        for client in self.clients:
            await client.start()
            await client.client.connect()
        for user in self.inferring:
            await user.start()
            await user.connect()

    @staticmethod
    async def _until(ready: Callable[[], bool]) -> None:
        for _ in range(START_TICKS):
            if ready():
                return
            await trio.sleep(0.1)
        raise ViolationError("the world does not start")

    def violate(self, message: str) -> None:
        """Notes what may not be, without ending the run at once."""
        self.trace.note("VIOLATED", message)
        self.violations.append(message)

    def count(self, what: str, number: int = 1) -> None:
        """For the report."""
        self.counts[what] += number

    def table(self) -> RoutingTable:
        """Routing as the manager has it that knows most."""
        return RoutingTable(max(
            (manager.service._routing for manager in self.managers),
            key=lambda routing: routing.version))

    def primary(self) -> ManagerProcess | None:
        """The manager that leads, if one does."""
        return next((manager for manager in self.managers if manager.leads), None)

    def healed(self) -> bool:
        """Whether every process is up, every target serves and every volume is shown.

        A manager that has just come up leads before it has read what there is.
        """
        return (all(process.up for process in self.servers) and self.primary() is not None
                and self.table().version > 0
                and self.table().kv_volumes().keys() == self.caches.keys()
                and all(target.state == SERVING
                        for chain in self.table().chains() for target in chain.targets))
