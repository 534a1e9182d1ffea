"""The election: never two primaries, a new one in time, and nothing written by an old one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.clock import SeededEntropy
from luciole.errors import FsError, Kind
from luciole.kv.memory import MemoryStore
from luciole.mgmtd.core.lease import HELD_PART, Step, Watch, after_step, decide, held_until, observe
from luciole.mgmtd.primary import Primary
from luciole.mgmtd.service import MgmtdService
from luciole.proto import common_pb2, mgmtd_pb2, services
from luciole.proto.services import Caller, MgmtdStub
from luciole.rpc.inprocess import InProcessCaller
from luciole.rpc.interface import ServerCall
from luciole.runtime import TrioRuntime

LEASE, NODE_LEASE = 2.0, 3.0
CALL = ServerCall(1e9)


class Candidate:
    """A manager whose clock runs at a rate of its own; the store is a shared list."""

    def __init__(self, number: int, rate: float) -> None:
        self.me = mgmtd_pb2.PrimaryLease(node_id=number, generation=number, address=f"h:{number}")
        self.rate = rate
        self.watch = Watch()
        self.until = -1.0

    def step(self, cell: list[mgmtd_pb2.PrimaryLease | None], sent: float, read: float) -> None:
        """Reads and writes at one moment between true times `sent` and `read`."""
        record = cell[0]
        step = decide(self.me, record, self.watch, sent * self.rate, LEASE)
        if step is not Step.WAIT:
            record = cell[0] = after_step(self.me, record, step)
            self.until = held_until(sent * self.rate, LEASE)
        else:
            self.until = -1.0
        self.watch = observe(self.watch, record, read * self.rate)

    def leads(self, now: float) -> bool:
        return now * self.rate < self.until


@given(
    rates=st.tuples(st.floats(0.9, 1.1), st.floats(0.9, 1.1), st.floats(0.9, 1.1)),
    turns=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1.5), st.floats(0, 0.7), st.floats(0, 0.7)),
        max_size=60))
@settings(max_examples=200, deadline=None)
def test_never_two_primaries_whatever_their_clocks(
    rates: tuple[float, ...], turns: list[tuple[int, float, float, float]]
) -> None:
    cell: list[mgmtd_pb2.PrimaryLease | None] = [None]
    everybody = [Candidate(number + 1, rate) for number, rate in enumerate(rates)]
    now = 100.0
    epoch = 0
    for turn, pause, before, after in turns:
        now += pause
        # The transaction happens at `now + before`; its answer arrives later.
        everybody[turn].step(cell, now, now + before + after)
        now += before
        assert sum(candidate.leads(now) for candidate in everybody) <= 1
        record = cell[0]
        assert record is not None
        assert record.epoch >= epoch
        epoch = record.epoch


def test_an_unchanged_record_protects_for_the_lease_and_no_longer() -> None:
    me = mgmtd_pb2.PrimaryLease(node_id=2, generation=2, address="h:2")
    other = mgmtd_pb2.PrimaryLease(node_id=1, generation=1, address="h:1", epoch=4)
    watch = observe(Watch(), other, 10.0)
    assert decide(me, other, Watch(), 1e9, LEASE) is Step.WAIT  # old, but never seen before
    assert decide(me, other, watch, 10.0 + LEASE - 0.01, LEASE) is Step.WAIT
    assert decide(me, other, watch, 10.0 + LEASE, LEASE) is Step.TAKE_OVER
    renewed = after_step(other, other, Step.RENEW)
    assert renewed != other
    assert decide(me, renewed, watch, 10.0 + LEASE, LEASE) is Step.WAIT
    assert observe(watch, renewed, 11.0).since == 11.0
    assert observe(watch, other, 11.0).since == 10.0
    taken = after_step(me, other, Step.TAKE_OVER)
    assert (taken.epoch, taken.node_id) == (5, 2)
    assert decide(other, taken, Watch(), 0.0, LEASE) is Step.WAIT
    released = mgmtd_pb2.PrimaryLease(node_id=1, epoch=4, released=True)
    assert decide(me, released, Watch(), 0.0, LEASE) is Step.CLAIM
    before = mgmtd_pb2.PrimaryLease(node_id=2, generation=1, address="h:2", epoch=4)
    assert decide(me, before, Watch(), 0.0, LEASE) is Step.CLAIM


class Managers:
    """Some managers on one store, reached in process."""

    def __init__(self, number: int) -> None:
        self.runtime = TrioRuntime(entropy=SeededEntropy(3))
        self.store = MemoryStore(self.runtime)
        self.primaries: list[Primary] = []
        self.services: list[MgmtdService] = []
        for node_id in range(1, number + 1):
            primary = Primary(
                self.store, self.runtime, node_id=node_id, address=f"h:{node_id}",
                lease_seconds=LEASE)
            self.primaries.append(primary)
            self.services.append(MgmtdService(
                self.store, self.runtime, primary, cluster_id="c", lease_seconds=NODE_LEASE,
                client_lease_seconds=30.0, start_grace_seconds=12.0))
        self.alive = [trio.CancelScope() for _ in self.services]
        self.unreachable: set[int] = set()
        self.asked: list[int] = []

    async def campaign(self, index: int) -> None:
        """The loop of a manager, in steps of a sixth of its lease."""
        await self.services[index].start()
        with self.alive[index]:
            while True:
                await self.services[index].campaign()
                await self.services[index].tick()
                await trio.sleep(LEASE / 6)

    def leaders(self) -> list[int]:
        return [index for index, primary in enumerate(self.primaries) if primary.term]

    def client(self) -> Manager:
        def connect(address: tuple[str, int]) -> Caller:
            self.asked.append(address[1])
            if address[1] in self.unreachable:
                raise FsError(Kind.UNAVAILABLE, "down", str(address))
            return InProcessCaller(
                [(services.MGMTD, self.services[address[1] - 1])], clock=self.runtime.clock)

        class Uncached(Connections):
            def caller(self, address: tuple[str, int]) -> Caller:
                return connect(address)

        addresses = [f"h:{number}" for number in range(1, len(self.services) + 1)]
        return Manager(self.runtime, Uncached(connect), addresses, RoutingCache(self.runtime))

    async def until(self, condition: Callable[[], bool], seconds: float) -> float:
        began = trio.current_time()
        while not condition():
            assert trio.current_time() < began + seconds, "too late"
            await trio.sleep(0.01)
        return trio.current_time() - began


def register(node: int, targets: list[int]) -> mgmtd_pb2.RegisterNodeRequest:
    return mgmtd_pb2.RegisterNodeRequest(
        cluster_id="c", node=mgmtd_pb2.Node(
            node_id=node, kind=mgmtd_pb2.STORAGE, host="h", rpc_port=node, generation=1),
        targets=[mgmtd_pb2.TargetReport(target_id=t, state=mgmtd_pb2.LOCAL_ONLINE)
                 for t in targets])


def heartbeat(node: int) -> mgmtd_pb2.HeartbeatRequest:
    return mgmtd_pb2.HeartbeatRequest(
        cluster_id="c", node_id=node, generation=1,
        targets=[mgmtd_pb2.TargetReport(target_id=node, state=mgmtd_pb2.LOCAL_ONLINE)])


def run(body: Callable[[Managers, trio.Nursery], Awaitable[None]], number: int = 2) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(3600):
                await body(Managers(number), nursery)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_second_takes_over_when_the_first_falls_silent_and_loses_nothing() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        second = world.services[1]
        nursery.start_soon(world.campaign, 0)
        await world.until(lambda: world.leaders() == [0], 1.0)
        nursery.start_soon(world.campaign, 1)
        client = world.client()
        await client.call(lambda stub: stub.register_node(register(1, [1])))
        await client.call(lambda stub: stub.register_node(register(2, [2])))
        await client.call(lambda stub: stub.create_chains(
            mgmtd_pb2.CreateChainsRequest(replicas=2)))
        before = await client.wait_for_routing(1.0)
        for _ in range(6):
            await trio.sleep(LEASE / 5)
            for node in (1, 2):
                await client.call(partial(MgmtdStub.heartbeat, request=heartbeat(node)))
        assert world.leaders() == [0]
        with pytest.raises(FsError) as caught:
            await second.status(common_pb2.Empty(), CALL)
        assert (caught.value.kind, caught.value.subject) == (Kind.NOT_PRIMARY, "h:1")
        world.alive[0].cancel()
        world.unreachable.add(1)
        seconds = await world.until(lambda: world.leaders() == [1], 2 * LEASE)
        assert seconds > LEASE * (1 - HELD_PART)
        reply = await client.call(lambda stub: stub.status(common_pb2.Empty()))
        assert reply.routing == before.routing
        assert (reply.primary.address, reply.primary.epoch) == ("h:2", 2)
        assert not any(entry.heard for entry in reply.nodes)
        assert reply.bootstrapping
        # Nobody is declared dead before a lease has passed since the take-over.
        version = reply.routing.version
        await trio.sleep(NODE_LEASE - 0.5)
        reply = await client.call(lambda stub: stub.status(common_pb2.Empty()))
        assert reply.routing.version == version
        await trio.sleep(1.0)
        reply = await client.call(lambda stub: stub.status(common_pb2.Empty()))
        assert {entry.node.state for entry in reply.nodes} == {mgmtd_pb2.FAILED}

    run(body)


def test_a_primary_that_no_node_reaches_lets_another_lead() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        nursery.start_soon(world.campaign, 0)
        await world.until(lambda: world.leaders() == [0], 1.0)
        nursery.start_soon(world.campaign, 1)
        client = world.client()
        await client.call(lambda stub: stub.register_node(register(1, [1])))
        world.unreachable.add(1)  # but its way to the store is whole
        seconds = await world.until(lambda: world.leaders() == [1], NODE_LEASE)
        assert NODE_LEASE / 2 <= seconds < NODE_LEASE
        for _ in range(12):
            await client.call(lambda stub: stub.heartbeat(heartbeat(1)))
            await trio.sleep(LEASE / 4)
            assert world.leaders() == [1]
        reply = await client.call(lambda stub: stub.status(common_pb2.Empty()))
        assert {entry.node.state for entry in reply.nodes} == {mgmtd_pb2.CONNECTED}

    run(body)


def test_a_manager_alone_leads_on_when_all_nodes_are_silent() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        nursery.start_soon(world.campaign, 0)
        await world.until(lambda: world.leaders() == [0], 1.0)
        client = world.client()
        await client.call(lambda stub: stub.register_node(register(1, [1])))
        await trio.sleep(NODE_LEASE / 2 + LEASE + 12.0 + 1.0)  # half a lease, its rest, patience
        assert world.leaders() == [0]
        reply = await client.call(lambda stub: stub.status(common_pb2.Empty()))
        assert {entry.node.state for entry in reply.nodes} == {mgmtd_pb2.FAILED}

    run(body, number=1)


def test_a_deposed_primary_writes_nothing() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        first = world.services[0]
        await first.start()
        await first.campaign()
        await first.register_node(register(1, [1]), CALL)
        # Its clock says that it leads, yet the record names another: as after a long pause.
        other = Primary(
            world.store, world.runtime, node_id=2, address="h:2", lease_seconds=0.001)
        await other.step()
        await trio.sleep(0.01)
        await other.step()
        assert world.primaries[0].term is not None
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: first.register_node(register(9, [9]), CALL),
            lambda: first.create_chains(mgmtd_pb2.CreateChainsRequest(replicas=1), CALL),
            lambda: first.set_config(
                mgmtd_pb2.SetConfigRequest(service="meta", content="stripe = 2"), CALL),
        ]
        for call in calls:
            with pytest.raises(FsError) as caught:
                await call()
            assert caught.value.kind == Kind.NOT_PRIMARY
        await first.campaign()
        with pytest.raises(FsError) as caught:
            await first.status(common_pb2.Empty(), CALL)
        assert (caught.value.kind, caught.value.subject) == (Kind.NOT_PRIMARY, "h:2")

    run(body)


def test_a_long_poll_ends_with_the_term() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        first = world.services[0]
        await first.start()
        await first.campaign()
        ended: list[Kind] = []

        async def poll() -> None:
            with pytest.raises(FsError) as caught:
                await first.get_routing(
                    mgmtd_pb2.GetRoutingRequest(known_version=1, wait_ms=30_000), CALL)
            ended.append(caught.value.kind)

        nursery.start_soon(poll)
        await trio.sleep(0.1)
        await world.primaries[0].release()
        await world.services[1].campaign()
        await first.campaign()
        await trio.sleep(0.1)
        assert ended == [Kind.NOT_PRIMARY]

    run(body)


def test_a_client_waits_for_an_election_and_follows_the_hint() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        client = world.client()
        await world.services[0].start()
        with pytest.raises(FsError) as caught:
            await client.call(lambda stub: stub.status(common_pb2.Empty()), patience=1.0)
        assert caught.value.kind == Kind.NOT_PRIMARY

        async def later() -> None:
            await trio.sleep(1.0)
            await world.campaign(2)

        nursery.start_soon(later)
        await client.call(lambda stub: stub.status(common_pb2.Empty()))
        nursery.start_soon(world.campaign, 0)
        await trio.sleep(1.0)
        fresh = world.client()
        world.asked.clear()
        await fresh.call(lambda stub: stub.status(common_pb2.Empty()))
        assert world.asked == [1, 3]  # told by the first, the second was not asked
        world.asked.clear()
        await fresh.call(lambda stub: stub.status(common_pb2.Empty()))
        assert world.asked == [3]

    run(body, 3)


def test_a_primary_that_lost_the_store_for_a_while_begins_a_new_term() -> None:
    async def body(world: Managers, nursery: trio.Nursery) -> None:
        first = world.services[0]
        await first.start()
        await first.campaign()
        await first.register_node(register(1, [1]), CALL)
        before = world.primaries[0].term
        await trio.sleep(20 * LEASE)  # nobody renews, and nobody else is there
        with pytest.raises(FsError) as caught:
            await first.status(common_pb2.Empty(), CALL)
        assert (caught.value.kind, caught.value.subject) == (Kind.NOT_PRIMARY, "")
        await first.campaign()
        after = world.primaries[0].term
        assert before is not None
        assert after is not None
        assert after is not before
        assert after.epoch == before.epoch
        # It has heard nobody in the meantime by its own fault, so it judges nobody yet.
        assert not await first.tick()

    run(body)
