"""The manager: who is here, what routing says, and what it remembers over a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import pytest
import trio
import trio.testing

from luciole.clock import SeededEntropy
from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.kv.memory import MemoryStore
from luciole.mgmtd import store
from luciole.mgmtd.primary import Primary
from luciole.mgmtd.service import MgmtdService
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.rpc.interface import ServerCall
from luciole.runtime import TrioRuntime

LEASE, CLIENT_LEASE = 6.0, 30.0
PRIMARY_LEASE = 1e6  # elections have a file of their own
CALL = ServerCall(1e9)
ON, UP = mgmtd_pb2.LOCAL_ONLINE, mgmtd_pb2.LOCAL_UP_TO_DATE


class World:
    """A store, and the manager of the moment."""

    def __init__(self) -> None:
        self.runtime = TrioRuntime(entropy=SeededEntropy(1))
        self.store = MemoryStore(self.runtime)

    async def start(self, cluster_id: str = "c") -> MgmtdService:
        primary = Primary(
            self.store, self.runtime, node_id=1, address="h:1", lease_seconds=PRIMARY_LEASE)
        self.service = MgmtdService(
            self.store, self.runtime, primary, cluster_id=cluster_id, lease_seconds=LEASE,
            client_lease_seconds=CLIENT_LEASE, start_grace_seconds=2 * LEASE)
        await self.service.start()
        await self.service.campaign()
        return self.service

    async def register(
        self, node: int, targets: Iterable[int] = (), generation: int = 1, content_id: int = 0
    ) -> None:
        await self.service.register_node(mgmtd_pb2.RegisterNodeRequest(
            cluster_id="c", node=mgmtd_pb2.Node(
                node_id=node, kind=mgmtd_pb2.STORAGE, host="h", rpc_port=node,
                generation=generation),
            targets=[mgmtd_pb2.TargetReport(target_id=t, state=ON, content_id=content_id)
                     for t in targets]), CALL)

    async def beat(
        self, node: int, *, generation: int = 1, state: mgmtd_pb2.LocalState = UP,
        version: int | None = None, lost: dict[int, float] | None = None,
    ) -> list[int]:
        """A heartbeat with one target whose id is the node's, and seconds for which others were
        silent; returns the targets that are asked to step down.
        """
        if version is None:
            chains = (await self.routing()).chains
            version = chains[0].version if chains else 0
        reply = await self.service.heartbeat(mgmtd_pb2.HeartbeatRequest(
            cluster_id="c", node_id=node, generation=generation,
            unreachable=[mgmtd_pb2.Unreachable(node_id=other, for_ms=int(seconds * 1000))
                         for other, seconds in (lost or {}).items()],
            targets=[mgmtd_pb2.TargetReport(
                target_id=node, state=state, chain_version=version)]), CALL)
        return [step.target_id for step in reply.step_down]

    async def routing(self) -> mgmtd_pb2.Routing:
        reply = await self.service.get_routing(mgmtd_pb2.GetRoutingRequest(), CALL)
        return reply.routing

    async def states(self) -> list[tuple[int, mgmtd_pb2.PublicState]]:
        return [(t.target_id, t.state) for t in (await self.routing()).chains[0].targets]

    async def with_chain(self, replicas: int = 2) -> None:
        """A started manager with one chain, past its youth, everybody heard just now."""
        await self.start()
        for node in range(1, replicas + 1):
            await self.register(node, [node])
        await self.service.create_chains(
            mgmtd_pb2.CreateChainsRequest(replicas=replicas), CALL)
        await self.runtime.sleep(3 * LEASE)
        for node in range(1, replicas + 1):
            await self.beat(node)
        assert not await self.service.tick()


def run(body: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(3600):
            await body(World())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def kind_of(caught: pytest.ExceptionInfo[FsError]) -> Kind:
    return caught.value.kind


def test_a_node_registers_and_is_shown() -> None:
    async def body(world: World) -> None:
        await world.start()
        await world.register(5, [50, 51])
        routing = await world.routing()
        assert [(n.node_id, n.state) for n in routing.nodes] == [(5, mgmtd_pb2.CONNECTED)]
        assert [(t.target_id, t.node_id) for t in routing.targets] == [(50, 5), (51, 5)]
        with pytest.raises(FsError) as caught:
            await world.register(6, [50])
        assert kind_of(caught) == Kind.INVALID_ARGUMENT
        with pytest.raises(FsError) as caught:
            await world.service.register_node(mgmtd_pb2.RegisterNodeRequest(
                cluster_id="c", node=mgmtd_pb2.Node(node_id=0)), CALL)
        assert kind_of(caught) == Kind.INVALID_ARGUMENT

    run(body)


def test_another_cluster_s_nodes_and_stores_are_refused() -> None:
    async def body(world: World) -> None:
        service = await world.start()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: service.register_node(
                mgmtd_pb2.RegisterNodeRequest(cluster_id="other"), CALL),
            lambda: service.heartbeat(mgmtd_pb2.HeartbeatRequest(cluster_id="other"), CALL),
            lambda: service.extend_client_session(
                mgmtd_pb2.ExtendClientSessionRequest(cluster_id="other"), CALL),
            lambda: world.start("other"),
        ]
        for call in calls:
            with pytest.raises(FsError) as caught:
                await call()
            assert kind_of(caught) == Kind.WRONG_CLUSTER

    run(body)


def test_a_heartbeat_counts_only_for_the_registered_generation() -> None:
    async def body(world: World) -> None:
        await world.start()
        await world.register(1, [1], generation=7)
        for node, generation in ((1, 6), (2, 7)):
            with pytest.raises(FsError) as caught:
                await world.beat(node, generation=generation, version=0)
            assert kind_of(caught) == Kind.NOT_FOUND
        await world.beat(1, generation=7, version=0)
        await world.register(1, [1], generation=8)
        with pytest.raises(FsError):
            await world.beat(1, generation=7, version=0)

    run(body)


def test_a_silent_node_fails_after_its_lease_and_its_chain_changes() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        version = (await world.routing()).version
        await world.runtime.sleep(LEASE - 0.1)
        await world.beat(2)
        assert not await world.service.tick()
        await world.runtime.sleep(0.2)
        assert await world.service.tick()
        routing = await world.routing()
        assert {n.node_id: n.state for n in routing.nodes} == {
            1: mgmtd_pb2.FAILED, 2: mgmtd_pb2.CONNECTED}
        assert await world.states() == [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.OFFLINE)]
        assert routing.version > version
        assert not await world.service.tick()
        await world.beat(1, state=ON)
        assert await world.service.tick()
        assert await world.states() == [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.SYNCING)]
        await world.beat(1, state=UP, version=2)  # said under an older chain version
        assert not await world.service.tick()
        await world.beat(1, state=UP)
        assert await world.service.tick()
        assert {state for _, state in await world.states()} == {mgmtd_pb2.SERVING}

    run(body)


def test_a_disabled_node_stays_disabled() -> None:
    async def body(world: World) -> None:
        await world.with_chain()

        async def disable(txn: Transaction) -> None:
            node = mgmtd_pb2.Node(
                node_id=2, kind=mgmtd_pb2.STORAGE, state=mgmtd_pb2.DISABLED, generation=1)
            store.put_node(txn, node)

        await world.store.run(disable)
        await world.start()
        await world.runtime.sleep(3 * LEASE)
        await world.service.tick()
        assert (await world.routing()).nodes[1].state == mgmtd_pb2.DISABLED

    run(body)


async def administer(
    world: World, node: int, action: mgmtd_pb2.NodeAction, *, force: bool = False
) -> None:
    await world.service.administer_node(mgmtd_pb2.AdministerNodeRequest(
        node_id=node, action=action, force=force), CALL)


def test_a_disabled_node_serves_nothing_until_it_is_enabled() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        version = (await world.routing()).chains[0].version
        await administer(world, 1, mgmtd_pb2.DISABLE)
        gone = [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.OFFLINE)]
        assert await world.states() == gone
        assert (await world.routing()).chains[0].version == version + 1
        await world.register(1, [1], generation=2)  # a new process of it changes nothing
        await world.beat(1, generation=2)
        assert not await world.service.tick()
        await world.start()  # nor does a new manager
        await world.beat(1, generation=2)
        await world.beat(2)
        await world.service.tick()
        assert await world.states() == gone
        with pytest.raises(FsError) as caught:
            await administer(world, 2, mgmtd_pb2.DISABLE)
        assert (kind_of(caught), caught.value.subject) == (Kind.NOT_PERMITTED, "chain 1")
        await administer(world, 1, mgmtd_pb2.ENABLE)
        assert await world.states() == [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.SYNCING)]
        with pytest.raises(FsError) as caught:
            await administer(world, 2, mgmtd_pb2.DRAIN)
        assert kind_of(caught) == Kind.BUSY
        await world.beat(1, generation=2)
        assert await world.service.tick()
        # All serve again: the preferred order is back, under a version of its own.
        assert await world.states() == [(1, mgmtd_pb2.SERVING), (2, mgmtd_pb2.SERVING)]
        await administer(world, 2, mgmtd_pb2.DRAIN)
        assert await world.states() == [(1, mgmtd_pb2.SERVING), (2, mgmtd_pb2.OFFLINE)]
        await administer(world, 1, mgmtd_pb2.DISABLE, force=True)
        assert (await world.states())[0] == (1, mgmtd_pb2.LAST_SERVING)
        await administer(world, 1, mgmtd_pb2.ENABLE)
        assert (await world.states())[0] == (1, mgmtd_pb2.SERVING)
        with pytest.raises(FsError) as caught:
            await administer(world, 9, mgmtd_pb2.ENABLE)
        assert kind_of(caught) == Kind.NOT_FOUND
        with pytest.raises(FsError) as caught:
            await administer(world, 1, mgmtd_pb2.NODE_ACTION_UNSPECIFIED)
        assert kind_of(caught) == Kind.INVALID_ARGUMENT

    run(body)


def test_a_long_poll_wakes_on_change_and_ends_at_its_bound() -> None:
    async def body(world: World) -> None:
        await world.start()
        known = (await world.routing()).version
        request = mgmtd_pb2.GetRoutingRequest(known_version=known, wait_ms=5000)
        began = trio.current_time()
        reply = await world.service.get_routing(request, CALL)
        assert trio.current_time() - began == pytest.approx(5.0)
        assert not reply.HasField("routing")
        woken: list[tuple[float, int]] = []

        async def poll() -> None:
            reply = await world.service.get_routing(request, CALL)
            woken.append((trio.current_time(), reply.routing.version))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await trio.sleep(1.0)
            now = trio.current_time()
            await world.register(1, [1])
        assert woken == [(now, known + 1)]
        request.wait_ms = 10**9
        request.known_version = known + 1
        began = trio.current_time()
        await world.service.get_routing(request, CALL)
        assert trio.current_time() - began == pytest.approx(30.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.service.get_routing, request, CALL)
            await trio.sleep(1.0)
            world.service.stop_polls()
            now = trio.current_time()
        assert trio.current_time() == now

    run(body)


def test_a_young_manager_takes_nobody_for_dead() -> None:
    async def body(world: World) -> None:
        await world.with_chain(3)
        await world.start()
        young = world.service.bootstrapping
        assert young
        await world.runtime.sleep(2 * LEASE - 0.1)
        assert not await world.service.tick()
        assert {state for _, state in await world.states()} == {mgmtd_pb2.SERVING}
        await world.beat(3)
        await world.runtime.sleep(0.2)
        young = world.service.bootstrapping
        assert not young
        assert await world.service.tick()
        assert (await world.states())[0] == (3, mgmtd_pb2.SERVING)

    run(body)


def test_a_young_manager_gives_nobody_a_part_whom_it_has_not_heard() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        await world.runtime.sleep(2 * LEASE)
        await world.service.tick()
        last = [(1, mgmtd_pb2.LAST_SERVING), (2, mgmtd_pb2.LAST_SERVING)]
        assert await world.states() == last
        await world.start()
        await world.service.tick()
        assert await world.states() == last
        await world.beat(2)
        await world.service.tick()
        assert await world.states() == [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.OFFLINE)]

    run(body)


def test_chains_are_made_once_and_survive_a_restart() -> None:
    async def body(world: World) -> None:
        await world.start()
        with pytest.raises(FsError) as caught:
            await world.service.create_chains(
                mgmtd_pb2.CreateChainsRequest(replicas=2), CALL)
        assert kind_of(caught) == Kind.INVALID_ARGUMENT
        for node in (1, 2):
            await world.register(node, [node * 10, node * 10 + 1])
        reply = await world.service.create_chains(
            mgmtd_pb2.CreateChainsRequest(replicas=2), CALL)
        assert reply.chains == 2
        with pytest.raises(FsError) as caught:
            await world.service.create_chains(
                mgmtd_pb2.CreateChainsRequest(replicas=2), CALL)
        assert kind_of(caught) == Kind.EXISTS
        before = await world.routing()
        assert list(before.tables[0].chain_ids) == [1, 2]
        members = {t.target_id: c.chain_id for c in before.chains for t in c.targets}
        assert {t.target_id: t.chain_id for t in before.targets} == members
        await world.start()
        assert await world.routing() == before

    run(body)


def test_configuration_is_checked_and_kept() -> None:
    async def body(world: World) -> None:
        service = await world.start()

        async def put(name: str, content: str) -> int:
            return (await service.set_config(
                mgmtd_pb2.SetConfigRequest(service=name, content=content), CALL)).version

        for name, content in (
            ("nobody", ""), ("meta", "= nonsense"), ("meta", "unknown_key = 1"),
            ("meta", "chunk_size = 100000"), ("meta", 'node_id = 3'), ("storage", "disks = []"),
        ):
            with pytest.raises(FsError) as caught:
                await put(name, content)
            assert kind_of(caught) == Kind.CONFIG_INVALID, (name, content)
        assert await put("meta", "stripe = 2") == 1
        assert await put("meta", "stripe = 3") == 2
        service = await world.start()
        reply = await service.get_config(mgmtd_pb2.GetConfigRequest(service="meta"), CALL)
        assert (reply.version, reply.content) == (2, "stripe = 3")
        reply = await service.get_config(mgmtd_pb2.GetConfigRequest(service="client"), CALL)
        assert (reply.version, reply.content) == (0, "")

    run(body)


def test_clients_live_by_their_lease() -> None:
    async def body(world: World) -> None:
        service = await world.start()

        async def extend(client: bytes) -> None:
            await service.extend_client_session(mgmtd_pb2.ExtendClientSessionRequest(
                cluster_id="c", session=mgmtd_pb2.ClientSession(client_id=client)), CALL)

        async def listed() -> tuple[list[bytes], bool]:
            reply = await service.list_client_sessions(common_pb2.Empty(), CALL)
            return sorted(s.client_id for s in reply.sessions), reply.bootstrapping

        await extend(b"a")
        await extend(b"b")
        await extend(b"c")
        await service.end_client_session(
            mgmtd_pb2.EndClientSessionRequest(client_id=b"c"), CALL)
        assert await listed() == ([b"a", b"b"], True)
        await world.runtime.sleep(CLIENT_LEASE - 1)
        await extend(b"b")
        await world.runtime.sleep(2)
        await service.tick()
        assert await listed() == ([b"b"], True)
        await world.runtime.sleep(2 * CLIENT_LEASE)
        assert (await listed())[1] is False

    run(body)


def test_status_counts_each_device_once() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        for node in (1, 2):
            await world.service.heartbeat(mgmtd_pb2.HeartbeatRequest(
                cluster_id="c", node_id=node, generation=1,
                targets=[mgmtd_pb2.TargetReport(
                    target_id=node, state=UP, device="one disk", capacity_bytes=1000,
                    free_bytes=600, used_bytes=100)]), CALL)
        status = await world.service.status(common_pb2.Empty(), CALL)
        assert (status.capacity_bytes, status.free_bytes, status.used_bytes) == (500, 300, 100)

    run(body)


SERVING, WAITING, OFFLINE = mgmtd_pb2.SERVING, mgmtd_pb2.WAITING, mgmtd_pb2.OFFLINE
DOUBT = mgmtd_pb2.LOCAL_DOUBTFUL


def test_a_neighbour_out_of_reach_steps_down_and_comes_back_with_its_link() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        await world.beat(1, lost={2: LEASE / 2 - 0.1})
        await world.service.tick()
        assert await world.beat(2) == []
        await world.beat(1, lost={2: LEASE / 2})
        assert not await world.service.tick()  # it is asked first, and serves until it agrees
        assert await world.beat(1, lost={2: LEASE / 2}) == []
        assert await world.beat(2) == [2]
        assert not await world.service.tick()
        assert await world.states() == [(1, SERVING), (2, SERVING)]
        await world.beat(2, state=DOUBT)
        assert await world.service.tick()
        assert await world.states() == [(1, SERVING), (2, OFFLINE)]
        for _ in range(3):  # and does not come back while the link is down
            await world.service.tick()
            await world.beat(1, lost={2: LEASE})
            assert await world.beat(2, state=ON) == []
        assert await world.states() == [(1, SERVING), (2, WAITING)]
        await world.beat(1)
        await world.service.tick()
        assert (await world.states())[1] == (2, mgmtd_pb2.SYNCING)

    run(body)


def test_who_has_just_started_or_died_is_not_blamed() -> None:
    async def body(world: World) -> None:
        await world.with_chain()
        await world.register(2, [2], generation=2)
        await world.beat(1, lost={2: LEASE})
        await world.service.tick()
        assert await world.beat(2, generation=2) == []
        await world.runtime.sleep(LEASE)
        await world.beat(1, lost={2: LEASE})
        await world.service.tick()
        assert await world.states() == [(1, SERVING), (2, OFFLINE)]  # by its own silence

    run(body)


def test_a_target_with_another_content_loses_its_part() -> None:
    async def body(world: World) -> None:
        await world.with_chain(2)
        for generation, content in ((2, 5), (3, 5)):
            for node in (1, 2):
                await world.register(node, [node], generation=generation, content_id=content)
        assert await world.states() == [(1, mgmtd_pb2.SERVING), (2, mgmtd_pb2.SERVING)]
        await world.register(1, [1], generation=4, content_id=6)
        assert await world.states() == [(2, mgmtd_pb2.SERVING), (1, mgmtd_pb2.OFFLINE)]
        with pytest.raises(FsError) as caught:
            await world.register(2, [2], generation=4, content_id=6)
        assert caught.value.kind == Kind.NOT_SERVING
        assert "bring back" in caught.value.message
        await world.register(2, [2], generation=5, content_id=5)
        assert (await world.states())[0] == (2, mgmtd_pb2.SERVING)

    run(body)
