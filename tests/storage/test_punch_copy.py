"""Punches and copies on a chain: on every replica alike, once, and never over what came later."""

from __future__ import annotations

from google.protobuf.message import Message

from luciole.client.core.layout import allocated_bytes
from luciole.client.remote.chunk_map import ChunkMap
from luciole.errors import Kind
from luciole.proto import storage_pb2
from luciole.tests.sim.cluster import CHUNK, SimCluster, chunk, file, simulate, versioned
from luciole.tests.sim.network import SOUND, Fault, Loss

HOLE = 100


async def punch(cluster: SimCluster, sequence: int, length: int) -> storage_pb2.WriteResult:
    """A punch from the begin of chunk 0, as one that was sent long ago may arrive."""
    io = storage_pb2.WriteIO(
        chain=versioned(cluster), chunk_id=chunk(), chunk_size=CHUNK, kind=storage_pb2.PUNCH,
        length=length, tag=storage_pb2.UpdateTag(
            client_id=b"p" * 16, channel=1, sequence=sequence))
    reply = await cluster.stub(1).write(storage_pb2.WriteRequest(ios=[io]), timeout=1.0)
    return reply.results[0]


def test_a_punch_is_on_every_replica() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        holes = ChunkMap(cluster.runtime, client)
        await client.write(file(), 0, memoryview(b"x" * 3 * CHUNK))
        done = await holes.punch(file(), HOLE, 2 * CHUNK + HOLE)
        assert done.allocated_change < 0
        held = {key: value[1] for key, value in (await cluster.same_everywhere()).items()}
        assert held == {
            chunk(0): b"x" * HOLE, chunk(2): bytes(HOLE) + b"x" * (CHUNK - HOLE)}
        assert await holes.next_hole(file(), 0, 3 * CHUNK) == HOLE
        assert await holes.next_data(file(), HOLE) == 2 * CHUNK
        await holes.punch(file(), 0, 1 << 60)
        assert await cluster.same_everywhere() == {}

    simulate(scenario)


def test_a_punch_that_comes_again_takes_nothing_new() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"old"))
        assert not (await punch(cluster, 1, CHUNK)).HasField("error")
        await client.write(file(), 0, memoryview(b"new"))
        again = await punch(cluster, 1, CHUNK)
        assert not again.HasField("error")
        assert (again.length_before, again.length) == (3, 0)
        assert [value[1] for value in (await cluster.same_everywhere()).values()] == [b"new"]

    simulate(scenario)


def test_a_punch_of_nothing_takes_nothing_when_it_comes_again() -> None:
    async def scenario(cluster: SimCluster) -> None:
        assert not (await punch(cluster, 1, CHUNK)).HasField("error")
        await cluster.client().write(file(), 0, memoryview(b"new"))
        await punch(cluster, 1, CHUNK)
        assert [value[1] for value in (await cluster.same_everywhere()).values()] == [b"new"]
        await punch(cluster, 2, 1)
        assert (await punch(cluster, 1, CHUNK)).error.kind == Kind.STALE_UPDATE
        assert [value[1] for value in (await cluster.same_everywhere()).values()] == [b"\0ew"]

    simulate(scenario)


def test_a_copy_passes_no_byte_through_the_client_and_is_done_once() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        content = bytes(range(256)) * (CHUNK // 256)
        await client.write(file(), 0, memoryview(content + b"end"))
        lost: list[int] = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if isinstance(request, storage_pb2.WriteRequest) and not lost:
                lost.append(destination)
                return Fault(loss=Loss.REPLY)
            assert source != 0 or method != "read", "the client reads nothing"
            return SOUND

        cluster.network.rule = rule
        copied = await ChunkMap(cluster.runtime, client).copy(
            file(), 50, file(), 4 * CHUNK + 50, 3 * CHUNK)
        assert lost
        assert copied.allocated_change == allocated_bytes(CHUNK) * 2, "also of the first attempt"
        held = await cluster.same_everywhere()
        assert {key: value[1] for key, value in held.items()} == {
            chunk(0): content, chunk(1): b"end", chunk(4): bytes(50) + content[50:],
            chunk(5): b"end" + bytes(CHUNK - 3)}
        assert held[chunk(4)][0] & 0xFFFFFFFF == held[chunk(0)][0] & 0xFFFFFFFF, "one version each"

    simulate(scenario)
