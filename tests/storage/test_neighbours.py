"""Who does not answer is named, for as long as it does not; who is asked to step down does."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.storage.neighbours import PROBE_TIMEOUT_S, Neighbours
from luciole.tests.sim.cluster import SERVING, SYNCING, SimCluster, chunk, simulate, versioned
from luciole.tests.sim.network import SOUND, Fault, Loss

INTERVAL = 0.5


def neighbours_of(cluster: SimCluster, number: int) -> Neighbours:
    node = cluster.nodes[number]
    return Neighbours(cluster.runtime, node.targets, node.routing, cluster.connections(number),
                      interval_seconds=INTERVAL)


def lost(neighbours: Neighbours) -> dict[int, int]:
    return {other.node_id: other.for_ms for other in neighbours.unreachable()}


def test_a_neighbour_that_does_not_answer_is_named_until_it_does() -> None:
    async def body(cluster: SimCluster) -> None:
        neighbours = neighbours_of(cluster, 1)

        def rule(sender: int, receiver: int, method: str, request: Message) -> Fault:
            cut = (sender, receiver) == (1, 2)
            return Fault(Loss.REQUEST, delay=PROBE_TIMEOUT_S) if cut else SOUND

        await neighbours.probe_once()
        assert lost(neighbours) == {}
        cluster.network.rule = rule
        for silent in (1000, 2500, 4000):
            await neighbours.probe_once()
            assert lost(neighbours) == {2: silent}
        cluster.network.rule = lambda *_: SOUND
        await neighbours.probe_once()
        assert lost(neighbours) == {}

    simulate(body)


def test_a_process_that_stood_still_blames_nobody_for_it() -> None:
    async def body(cluster: SimCluster) -> None:
        neighbours = neighbours_of(cluster, 1)
        cluster.network.rule = lambda *_: Fault(Loss.REQUEST, delay=30.0)
        await neighbours.probe_once()
        assert lost(neighbours) == {2: 1000, 3: 1000}

    simulate(body)


def test_a_target_that_steps_down_answers_nothing_until_its_part_is_settled() -> None:
    async def body(cluster: SimCluster) -> None:
        node, stub = cluster.nodes[3], cluster.stub(3)

        async def read() -> Kind:
            reply = await stub.read(storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(
                chain=versioned(cluster), chunk_id=chunk(), length=1)]), timeout=1.0)
            return reply.results[0].error.kind

        old = mgmtd_pb2.StepDown(target_id=3, chain_version=cluster.chain.version - 1)
        node.targets.step_down([old])
        assert await read() == Kind.CHUNK_NOT_FOUND
        node.targets.step_down([mgmtd_pb2.StepDown(
            target_id=3, chain_version=cluster.chain.version)])
        assert await read() == Kind.NOT_SERVING
        with pytest.raises(FsError) as caught:
            await stub.query_version(storage_pb2.QueryVersionRequest(
                chain=versioned(cluster), chunk_id=chunk()), timeout=1.0)
        assert caught.value.kind == Kind.NOT_SERVING
        assert await cluster.tick()
        cluster.publish()
        assert [member.state for member in cluster.chain.targets][:2] == [SERVING, SERVING]
        assert node.target.local_state == mgmtd_pb2.LOCAL_ONLINE
        await cluster.tick()
        assert cluster.chain.targets[2].state == SYNCING
        cluster.publish()
        await cluster.heal()

    simulate(body)
