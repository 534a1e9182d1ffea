"""A merge changes its runs alone, once, on every replica alike, whoever writes between them."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from luciole.checksum import block_checksums
from luciole.client.core.runs import Run
from luciole.client.remote.chunk_map import ChunkMap
from luciole.errors import Kind
from luciole.proto import storage_pb2
from luciole.tests.sim.cluster import CHUNK, SimCluster, chunk, file, simulate, versioned
from luciole.tests.sim.network import SOUND, Fault, Loss

EVEN = [Run(position, b"even") for position in range(0, 4000, 8)]
ODD = [Run(position, b"odd.") for position in range(4, 4000, 8)]


def test_two_writers_of_one_page_take_nothing_from_each_other() -> None:
    async def scenario(cluster: SimCluster) -> None:
        first, second = (ChunkMap(cluster.runtime, cluster.client(number)) for number in (0, 1))
        await cluster.runtime.gather([
            lambda: first.merge(file(), EVEN), lambda: second.merge(file(), ODD)])
        held = await cluster.same_everywhere()
        assert [value[1] for value in held.values()] == [b"evenodd." * 500]

    simulate(scenario)


def test_a_merge_reaches_beyond_the_end_and_into_a_hole() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), CHUNK, memoryview(b"x" * 10))
        done = await ChunkMap(cluster.runtime, client).merge(
            file(), [Run(CHUNK + 8, b"ab"), Run(CHUNK + 20, b"c")])
        assert done.allocated_change == 0
        held = await cluster.same_everywhere()
        assert held[chunk(1)][1] == b"x" * 8 + b"ab" + bytes(10) + b"c"

    simulate(scenario)


def test_a_merge_that_comes_again_is_done_once() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client, other = cluster.client(), cluster.client(1)
        await client.write(file(), 0, memoryview(b"." * 100))
        lost: list[int] = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if isinstance(request, storage_pb2.WriteRequest) and not lost:
                lost.append(destination)
                return Fault(loss=Loss.REPLY)
            return SOUND

        cluster.network.rule = rule
        await ChunkMap(cluster.runtime, client).merge(file(), [Run(10, b"a"), Run(20, b"b")])
        await other.write(file(), 10, memoryview(b"later"))
        assert lost
        held = await cluster.same_everywhere()
        assert held[chunk(0)][1][8:22] == b"..later.....b."
        assert held[chunk(0)][0] & 0xFFFFFFFF == 2, "a version each"

    simulate(scenario)


@pytest.mark.parametrize(("runs", "length", "why"), [
    ([], 10, "one run at least"),
    ([0], 10, "two numbers"),
    ([0, 4, 4, 6], 10, "apart"),
    ([0, 4, 2, 8], 10, "in order"),
    ([0, 4, 6, 0, 8, 2], 10, "not empty"),
    ([1, 4, 6, 4], 10, "first byte"),
    ([0, 4, 6, 3], 10, "last"),
    ([0, 4, 6, 5], 10, "last"),
])
def test_runs_that_cannot_be_meant_are_refused(runs: list[int], length: int, why: str) -> None:
    async def scenario(cluster: SimCluster) -> None:
        result = await send(cluster, storage_pb2.MERGE, runs, b"x" * length, None)
        assert result.error.kind == Kind.INVALID_ARGUMENT
        assert why in result.error.message
        assert await cluster.same_everywhere() == {}

    simulate(scenario)


def test_a_write_has_no_runs_and_damaged_bytes_are_not_merged() -> None:
    async def scenario(cluster: SimCluster) -> None:
        result = await send(cluster, storage_pb2.WRITE, [0, 3], b"abc", None)
        assert result.error.kind == Kind.INVALID_ARGUMENT
        result = await send(cluster, storage_pb2.MERGE, [0, 1, 2, 1], b"abc", [7])
        assert result.error.kind == Kind.CHECKSUM_MISMATCH
        assert await cluster.same_everywhere() == {}

    simulate(scenario)


async def send(
    cluster: SimCluster, kind: storage_pb2.UpdateKind, runs: list[int], data: bytes,
    checksums: list[int] | None,
) -> storage_pb2.WriteResult:
    io = storage_pb2.WriteIO(
        chain=versioned(cluster), chunk_id=chunk(), chunk_size=CHUNK, kind=kind, runs=runs,
        length=len(data), checksums=checksums or block_checksums(0, memoryview(data)),
        tag=storage_pb2.UpdateTag(client_id=b"m" * 16, channel=1, sequence=1))
    reply = await cluster.stub(1).write(
        storage_pb2.WriteRequest(ios=[io]), timeout=1.0, payload=[memoryview(data)])
    return reply.results[0]
