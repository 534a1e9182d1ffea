"""Targets that come back from a power loss: nobody serves what others know to be gone."""

from __future__ import annotations

import random

import pytest

from luciole.errors import FsError, Kind
from luciole.kv.memory import MemoryStore
from luciole.mgmtd.core.chain_table import next_chain
from luciole.mgmtd.primary import Primary
from luciole.mgmtd.service import MgmtdService
from luciole.proto import mgmtd_pb2
from luciole.routing import RoutingTable
from luciole.rpc.interface import ServerCall
from luciole.runtime import ThreadRuntime, drive
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.targets import Target, Targets
from luciole.tests.conformance.engine_model import A, Driver, replace
from luciole.tests.storage.chain_fixture import ChainFixture

SERVING, LAST, SYNCING = mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING, mgmtd_pb2.SYNCING
WAITING, OFFLINE = mgmtd_pb2.WAITING, mgmtd_pb2.OFFLINE
UP, ONLINE = mgmtd_pb2.LOCAL_UP_TO_DATE, mgmtd_pb2.LOCAL_ONLINE
GONE, DOUBT = mgmtd_pb2.LOCAL_OFFLINE, mgmtd_pb2.LOCAL_DOUBTFUL


@pytest.mark.parametrize(
    ("before", "reports", "expected"),
    [
        # Others go on, the doubtful one is lost in this step and syncs later.
        ([SERVING, SERVING], [DOUBT, UP], [(2, SERVING), (1, OFFLINE)]),
        ([SERVING, OFFLINE], [UP, DOUBT], [(1, SERVING), (2, SYNCING)]),
        ([SERVING, WAITING], [UP, DOUBT], [(1, SERVING), (2, SYNCING)]),
        # All doubtful, or gone, in one step: each is last serving.
        ([SERVING, SERVING], [DOUBT, DOUBT], [(1, LAST), (2, LAST)]),
        ([SERVING, SERVING], [GONE, DOUBT], [(1, LAST), (2, LAST)]),
        ([SERVING, SYNCING], [DOUBT, ONLINE], [(1, LAST), (2, WAITING)]),
        ([SERVING], [DOUBT], [(1, LAST)]),
        # One of them serves again; a sound one first.
        ([LAST, LAST, LAST], [DOUBT, DOUBT, DOUBT], [(1, SERVING), (2, SYNCING), (3, WAITING)]),
        ([LAST, LAST], [GONE, DOUBT], [(2, SERVING), (1, OFFLINE)]),
        ([LAST, LAST, LAST], [DOUBT, UP, UP], [(2, SERVING), (3, SERVING), (1, SYNCING)]),
        ([LAST], [DOUBT], [(1, SERVING)]),
    ],
)
def test_the_table(
    before: list[mgmtd_pb2.PublicState],
    reports: list[mgmtd_pb2.LocalState],
    expected: list[tuple[int, mgmtd_pb2.PublicState]],
) -> None:
    chain = mgmtd_pb2.Chain(chain_id=1, version=5, preferred_order=range(1, len(before) + 1))
    for number, state in enumerate(before, start=1):
        chain.targets.add(target_id=number, state=state)
    after = next_chain(chain, dict(enumerate(reports, start=1)))
    assert [(target.target_id, target.state) for target in after.targets] == expected
    assert after.version == 6


class Cluster:
    """A manager and three nodes with a target each, moved by hand."""

    def __init__(self, size: int = 3) -> None:
        self.runtime = ThreadRuntime()
        store = MemoryStore(self.runtime)
        primary = Primary(store, self.runtime, node_id=99, address="h:1", lease_seconds=1000)
        self.manager = MgmtdService(
            store, self.runtime, primary, cluster_id="a", lease_seconds=1000,
            client_lease_seconds=1000)
        drive(self.manager.start())
        drive(self.manager.campaign())
        self.engines = {number: MemoryEngine() for number in range(1, size + 1)}
        self.targets: dict[int, Targets] = {}
        self.generations: dict[int, int] = {}
        for number in self.engines:
            self.start(number)
        drive(self.manager.create_chains(
            mgmtd_pb2.CreateChainsRequest(replicas=size), self.call()))
        self.settle()

    def call(self) -> ServerCall:
        return ServerCall(self.runtime.clock.now() + 10)

    def start(self, number: int) -> None:
        """A node's process starts on what its engine holds, and registers."""
        generation = max(self.generations.values(), default=0) + 1
        self.targets[number] = Targets([Target(number, 0, self.engines[number])])
        node = mgmtd_pb2.Node(
            node_id=number, kind=mgmtd_pb2.STORAGE, generation=generation)
        drive(self.manager.register_node(mgmtd_pb2.RegisterNodeRequest(
            cluster_id="a", node=node, targets=drive(self.targets[number].reports())),
            self.call()))
        self.generations[number] = generation

    def beat(self, number: int) -> None:
        drive(self.manager.heartbeat(mgmtd_pb2.HeartbeatRequest(
            cluster_id="a", node_id=number, generation=self.generations[number],
            targets=drive(self.targets[number].reports())), self.call()))

    def routing(self) -> RoutingTable:
        reply = drive(self.manager.get_routing(mgmtd_pb2.GetRoutingRequest(), self.call()))
        return RoutingTable(reply.routing)

    def observe(self, number: int) -> None:
        self.targets[number].observe(self.routing())

    def tick(self) -> None:
        drive(self.manager.tick())

    def settle(self) -> None:
        """Everybody hears of everybody, often enough."""
        for _ in range(8):
            for number in self.targets:
                self.observe(number)
                self.beat(number)
            self.tick()

    def states(self) -> dict[int, mgmtd_pb2.PublicState]:
        [chain] = self.routing().chains()
        return {target.target_id: target.state for target in chain.targets}

    def serving(self) -> set[int]:
        """Targets that would answer a request now: both sides agree, under the same version."""
        [chain] = self.routing().chains()
        found = set()
        for member in chain.targets:
            target = self.targets[member.target_id].get(member.target_id)
            if member.state == SERVING and target.local_state == UP \
                    and target.chain_version == chain.version:
                found.add(member.target_id)
        return found


def test_one_machine_loses_power_and_its_target_is_brought_up_to_date() -> None:
    cluster = Cluster()
    assert cluster.serving() == {1, 2, 3}
    cluster.engines[1].power_loss()
    cluster.start(1)
    cluster.settle()
    assert cluster.serving() == {2, 3}
    assert cluster.states()[1] == SYNCING
    assert not cluster.engines[1].doubtful
    # Once the manager knows, the process may start again as often as it likes.
    cluster.start(1)
    cluster.settle()
    assert cluster.states()[1] == SYNCING


def test_a_lone_target_goes_on_with_what_it_has() -> None:
    cluster = Cluster(1)
    cluster.engines[1].power_loss()
    cluster.start(1)
    cluster.settle()
    assert cluster.serving() == {1}


@pytest.mark.parametrize("seed", range(40))
def test_all_lose_power_and_one_of_them_is_followed(seed: int) -> None:
    """In any order of heartbeats, ticks and looks at routing."""
    cluster = Cluster()
    numbers = random.Random(seed)
    for number, engine in cluster.engines.items():
        engine.power_loss()
        cluster.targets[number] = Targets([Target(number, 0, engine)])
    assert cluster.serving() == set()
    ever: set[int] = set()
    started: set[int] = set()
    for _ in range(60):
        number = numbers.choice(list(cluster.engines))
        if number not in started or numbers.random() < 0.05:
            cluster.start(number)
            started.add(number)
        what = numbers.randrange(3)
        if what == 0:
            cluster.beat(number)
        elif what == 1:
            cluster.observe(number)
        else:
            cluster.tick()
        ever |= cluster.serving()
        assert len(ever) <= 1
    for number in cluster.engines:
        if number not in started:
            cluster.start(number)
    cluster.settle()
    assert len(cluster.serving()) == 1
    assert ever <= cluster.serving()
    assert sorted(cluster.states().values()) == [SERVING, SYNCING, WAITING]


@pytest.mark.parametrize("size", [1, 3])
def test_the_manager_waits_until_its_answer_was_seen(size: int) -> None:
    cluster = Cluster(size)
    for number, engine in cluster.engines.items():
        engine.power_loss()
        cluster.start(number)
        cluster.observe(number)
    for number in cluster.engines:
        cluster.beat(number)
    for _ in range(3):
        cluster.tick()  # more often than anybody looks
    assert set(cluster.states().values()) == {LAST}
    for number in cluster.engines:
        cluster.observe(number)
    cluster.tick()
    assert set(cluster.states().values()) == {LAST}
    for _ in range(3):
        for number in cluster.engines:
            cluster.beat(number)
        for _ in range(3):
            cluster.tick()
        for number in cluster.engines:
            cluster.observe(number)
        assert len(cluster.serving()) == 1


def test_what_ends_and_what_makes_a_doubt() -> None:
    for durability, doubtful in (("process", True), ("power", False)):
        engine = MemoryEngine(durability=durability)  # type: ignore[arg-type]
        assert not engine.doubtful
        engine.restart()
        assert not engine.doubtful
        engine.power_loss()
        assert engine.doubtful is doubtful
        engine.restart()
        assert engine.doubtful is doubtful
        engine.trust()
        engine.restart()
        assert not engine.doubtful
    closed = MemoryEngine()
    Driver(closed).put(A, 1, replace(b"x"), b"x")
    closed.close()
    closed.power_loss()
    assert not closed.doubtful


def test_a_doubtful_target_serves_nothing() -> None:

    chain = ChainFixture([MemoryEngine(), MemoryEngine()])
    chain.write(1, 0, b"x")
    chain.replicas[0].target.local_state = DOUBT
    chain.route([SERVING, SERVING])
    with pytest.raises(FsError) as raised:
        chain.read_from(1, b"c" * 16, 1)
    assert raised.value.kind == Kind.NOT_SERVING
