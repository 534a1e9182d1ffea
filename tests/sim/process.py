"""Processes of a simulated world: the real services, put together as their `server.py` does.

Layer: tests. A process is a nursery. `crash` cancels it whole, and everything it knew is gone with
its objects; disks and the key-value store are the world's and stay. Each process has a clock of
its own, with an offset and a rate, which its runtime shows and sleeps by.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import trio

from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.client.remote.membership import (
    Membership,
    Reports,
    all_reached,
    has_no_part,
    no_targets,
)
from luciole.client.session import Client
from luciole.clock import SeededEntropy
from luciole.config import ClientConfig
from luciole.errors import FsError
from luciole.log import get_logger
from luciole.meta.cluster import ClusterView
from luciole.meta.gc import Collector
from luciole.meta.service import MetaService
from luciole.mgmtd.primary import Primary
from luciole.mgmtd.service import MgmtdService
from luciole.process import FAILURE_PAUSE_S, Loop
from luciole.proto import mgmtd_pb2, services
from luciole.rpc.dispatch import Endpoints, Services
from luciole.runtime import TrioRuntime
from luciole.storage.fencing import LateFence
from luciole.storage.neighbours import Neighbours
from luciole.storage.resync import Resync
from luciole.storage.server import Beside
from luciole.storage.service import StorageService
from luciole.storage.settling import Settling
from luciole.storage.targets import Target, Targets
from luciole.tests.sim.disk import SimEngine
from luciole.tests.sim.link import StoreLink
from luciole.tests.sim.schedule import number_from
from luciole.tests.sim.wire import Letter, Line

if TYPE_CHECKING:
    from luciole.tests.sim.caches import Cache
    from luciole.tests.sim.world import World

log = get_logger("process")
WALL_START_NS = 1_700_000_000_000_000_000
CLUSTER = "sim"
LEASE_S = 4.0
PRIMARY_LEASE_S = 2.0
CLIENT_LEASE_S = 10.0
HEARTBEAT_S = 0.8
RESYNC_S = 0.5
SYNC_S = 2.0
TICK_S = 0.3
COLLECT_S = 2.0
GRACE_S = 6.0
ATTEMPT_S = 1.0
TOTAL_S = 6.0
CHUNK = 64 * 1024


class SkewedClock:
    """Virtual time as one machine sees it."""

    def __init__(self, rate: float, offset: float) -> None:
        self._clock = trio.lowlevel.current_clock()  # calls on a stage have no trio around them
        self._rate = rate
        self._offset = offset

    def now(self) -> float:
        """Monotonic seconds, at this machine's rate."""
        return self._clock.current_time() * self._rate + self._offset

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, as wrong as this machine's clock is."""
        return WALL_START_NS + int(self.now() * 1e9)


class SkewedRuntime(TrioRuntime):
    """Sleeps by the machine's clock."""

    def __init__(self, rate: float, offset: float, seed: int) -> None:
        super().__init__(SkewedClock(rate, offset), SeededEntropy(seed))
        self._rate = rate

    async def sleep(self, seconds: float) -> None:
        """Suspends until this machine's clock has moved by `seconds`."""
        await trio.sleep(max(0.0, seconds) / self._rate)


class Process:
    """One process and all its incarnations."""

    kind = "process"

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"{self.kind}-{number}"
        self.rate, offset = world.skew(number)
        self._offset = offset
        self._starts = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self.guests: dict[trio.CancelScope, None] = {}  # calls of workloads, which die with it
        self.generation = 0
        self.starting = False
        self.lease_until = 0.0  # by its own clock, as the wire has seen its manager answer

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._nursery is not None

    @property
    def running(self) -> bool:
        """As `up`, for those who ask again after a wait: mypy takes an attribute for constant."""
        return self.up

    async def start(self) -> None:
        """A new incarnation; returns when it serves, has died, or has found that it cannot."""
        generation = self.generation = next(self._starts)
        seed = number_from(self.world.seed, self.name, generation)
        self.runtime = SkewedRuntime(self.rate, self._offset, seed)
        self.connections = Connections(
            lambda address: Line(self.world.wire, self, address[1], generation))
        self.routing = RoutingCache(self.runtime)
        self.manager = Manager(
            self.runtime, self.connections, self.world.manager_addresses, self.routing)
        self.client_id = self.runtime.entropy.token(16)
        self.lease_until = 0.0
        self.world.trace.note("process", f"{self.name} starts, generation {generation}")
        self.starting = True
        try:
            await self.world.nursery.start(self._run)
        finally:
            self.starting = False

    async def _run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            serves = trio.Event()
            nursery.start_soon(self._serve, serves, task_status)
        if not serves.is_set():  # it was killed or gave up before
            task_status.started()

    async def _serve(self, serves: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        assert self._nursery is not None
        try:
            self.endpoints = Endpoints(await self.open())
        except FsError as failure:
            self.world.trace.note("process", f"{self.name} cannot start: {failure}")
            self._nursery = None
            return
        self.world.wire.up(self)
        for loop in self.loops():
            self._nursery.start_soon(self._loop, loop)
        serves.set()
        task_status.started()
        await trio.sleep_forever()

    def crash(self) -> None:
        """kill -9."""
        if self._nursery is not None:
            self.world.trace.note("process", f"{self.name} dies")
            self.world.wire.down(self)
            self._nursery.cancel_scope.cancel()
            self._nursery = None
            for scope in self.guests:
                scope.cancel()

    def spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        """A task that dies with the process."""
        if self._nursery is not None:
            self._nursery.start_soon(run)

    async def _loop(self, loop: Loop) -> None:
        """As luciole.process runs it."""
        while True:
            pause = loop.seconds
            try:
                await loop.step()
            except FsError:
                pause = max(pause, FAILURE_PAUSE_S)
            except Exception as failure:  # what the real loop would log as an error, too
                log.exception("loop_broken", loop=loop.name, exc_info=failure)
                pause = max(pause, FAILURE_PAUSE_S)
            await self.runtime.sleep(pause)

    def heard(self, handler: str, letter: Letter, began: float) -> None:
        """An answer came: those of the manager tell how long this process may serve."""
        if handler in {"heartbeat", "register_node"}:
            self.lease_until = began + LEASE_S / 2

    async def open(self) -> Services:
        """Makes the service; returns what it serves."""
        return []

    def loops(self) -> list[Loop]:
        """What it does again and again."""
        return []

    def membership(
        self, kind: mgmtd_pb2.NodeKind, reports: Reports = no_targets, *,
        unreachable: Callable[[], list[mgmtd_pb2.Unreachable]] = all_reached,
        step_down: Callable[[Iterable[mgmtd_pb2.StepDown]], None] = has_no_part,
        kv_capacity: int = 0,
    ) -> Membership:
        """This process as a node of the cluster."""
        node = mgmtd_pb2.Node(
            node_id=self.number, kind=kind, host="sim", rpc_port=self.number,
            kv_capacity_bytes=kv_capacity,
            generation=int.from_bytes(self.runtime.entropy.token(7), "little"))
        return Membership(
            self.runtime, self.manager, CLUSTER, node, reports, unreachable=unreachable,
            step_down=step_down)


class ManagerProcess(Process):
    """The cluster manager."""

    kind = "mgmtd"

    async def open(self) -> Services:
        """See mgmtd/server.py."""
        store = StoreLink(self)
        self.primary = Primary(
            store, self.runtime, node_id=self.number, address=f"sim:{self.number}",
            lease_seconds=PRIMARY_LEASE_S)
        self.service = MgmtdService(
            store, self.runtime, self.primary, cluster_id=CLUSTER, lease_seconds=LEASE_S,
            client_lease_seconds=CLIENT_LEASE_S, start_grace_seconds=2 * LEASE_S)
        await self.service.start()
        return [(services.MGMTD, self.service)]

    def loops(self) -> list[Loop]:
        """See mgmtd/server.py."""
        return [
            Loop("campaign", PRIMARY_LEASE_S / 6, self._campaign),
            Loop("tick", TICK_S, self.service.tick),
        ]


    @property
    def leads(self) -> bool:
        """Whether it believes now that it is the primary."""
        return self.up and self.primary.term is not None

    async def _campaign(self) -> None:
        await self.service.campaign()
        # A belief begins and is prolonged here alone, so here two of them would be seen.
        others = [other.name for other in self.world.managers if other is not self and other.leads]
        if self.leads and others:
            self.world.violate(f"{self.name} leads, and so does {', '.join(others)}")


class MetaProcess(Process):
    """A metadata service."""

    kind = "meta"

    async def open(self) -> Services:
        """See meta/server.py."""
        chunks = ChunkClient(
            self.runtime, self.connections, self.routing, self.client_id,
            attempt_seconds=ATTEMPT_S, total_seconds=TOTAL_S)
        cluster = ClusterView(
            self.runtime, self.manager, chunk_size=CHUNK, stripe=self.world.shape.stripe)
        store = self.world.store
        self.service = MetaService(store, self.runtime, chunks, cluster)
        self.collector = Collector(
            store, self.runtime, chunks, cluster, grace_seconds=GRACE_S)
        await self.service.start()
        self.member = self.membership(mgmtd_pb2.META)
        return [(services.META, self.service)]

    def loops(self) -> list[Loop]:
        """See meta/server.py."""
        return [
            Loop("heartbeat", HEARTBEAT_S, self.member.beat),
            Loop("routing", 0, self.manager.follow),
            Loop("collector", COLLECT_S, self.collector.run_once),
        ]


class StorageProcess(Process):
    """A storage service with its disks."""

    kind = "storage"

    def __init__(
        self, world: World, number: int, engines: dict[int, SimEngine], cache: Cache | None
    ) -> None:
        super().__init__(world, number)
        self.engines = engines
        self.cache = cache

    async def open(self) -> Services:
        """See storage/server.py."""
        self.targets = Targets([
            Target(number, disk, engine)
            for disk, (number, engine) in enumerate(self.engines.items())])
        self.beside = self.cache.open(self) if self.cache is not None else Beside()
        fence = self.fence = LateFence()
        self.service = StorageService(
            self.runtime, self.targets, self.routing, self.connections, fence)
        self.resync = Resync(
            self.runtime, self.targets, self.routing, self.connections, self.service.replica)
        self.settling = Settling(
            self.runtime, self.targets, self.routing, self.service.replica)
        self.neighbours = Neighbours(
            self.runtime, self.targets, self.routing, self.connections,
            interval_seconds=HEARTBEAT_S)
        self.member = self.membership(
            mgmtd_pb2.STORAGE, self.targets.reports, unreachable=self.neighbours.unreachable,
            step_down=self.targets.step_down, kv_capacity=self.beside.kv_capacity)
        fence.member = self.member
        return [(services.STORAGE, self.service), *self.beside.services]

    async def _follow_routing(self) -> None:
        await self.manager.follow()
        self.targets.observe(self.routing.current())
        self.beside.observe(self.routing.current())
        self.neighbours.sever_lost()

    async def _flush(self) -> None:
        for engine in self.engines.values():
            await engine.sync()

    def loops(self) -> list[Loop]:
        """See storage/server.py."""
        return [
            Loop("heartbeat", HEARTBEAT_S, self.member.beat),
            Loop("routing", 0, self._follow_routing),
            Loop("neighbours", HEARTBEAT_S, self.neighbours.probe_once),
            Loop("resync", RESYNC_S, self.fence.guards(self.resync.run_once)),
            Loop("settle", RESYNC_S, self.fence.guards(self.settling.run_once)),
            Loop("flush", SYNC_S, self._flush),
            *self.beside.loops,
        ]

    def crash(self, *, power: dict[str, bool] | None = None) -> None:
        """kill -9, or (given what survives by chance) the power fails."""
        super().crash()
        if self.cache is not None:
            self.cache.crash(power=power is not None)
        for engine in self.engines.values():
            if power is None:
                engine.restart()
            else:
                engine.power_loss(**power)


class ClientProcess(Process):
    """A client as a mount holds it."""

    kind = "client"

    async def open(self) -> Services:
        """See client/fuse/mount.py."""
        config = ClientConfig(
            cluster_id=CLUSTER, mgmtd=self.world.manager_addresses,
            request_timeout_seconds=ATTEMPT_S, total_timeout_seconds=TOTAL_S,
            session_seconds=CLIENT_LEASE_S / 3, hold_seconds=GRACE_S / 3,
            write_buffer_bytes=2 * CHUNK)
        self.client = Client(
            config, self.runtime, self.connections, kind="sim", spawn=self.spawn)
        return []

    async def connect(self) -> None:
        """As a mount does before it serves, but for as long as it takes."""
        while True:
            try:
                await self.client.connect()
            except FsError:
                await self.runtime.sleep(FAILURE_PAUSE_S)
            else:
                return

    def loops(self) -> list[Loop]:
        """See client/fuse/mount.py."""
        return [Loop("routing", 0, self.client.run_routing),
                Loop("session", 0, self.client.run_session)]
