"""Replication chains in one process: what is acknowledged is everywhere, once, for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from google.protobuf.message import Message

from luciole.checksum import block_checksums
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.storage.engine.interface import Update
from luciole.tests.sim.cluster import (
    CHUNK,
    OFFLINE,
    SERVING,
    SYNCING,
    SimCluster,
    chunk,
    file,
    simulate,
    versioned,
)
from luciole.tests.sim.network import SOUND, Fault, Loss

Scenario = Callable[[SimCluster], Awaitable[None]]


async def read(cluster: SimCluster, node: int, length: int, index: int = 0) -> bytes:
    """Reads the begin of a chunk from one replica. Raises its FsError."""
    buffer = memoryview(bytearray(length))
    reply = await cluster.stub(node).read(
        storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(
            chain=versioned(cluster), chunk_id=chunk(index), length=length)]),
        sink=lambda reply: [buffer[: result.length] for result in reply.results if result.length])
    result = reply.results[0]
    if result.HasField("error"):
        raise FsError.from_proto(result.error)
    assert block_checksums(0, buffer[: result.length]) == list(result.checksums)
    return bytes(buffer[: result.length])


async def write(
    cluster: SimCluster, node: int, data: bytes, *, sequence: int = 0, version: int = 0,
    timeout: float = 1.0,
) -> storage_pb2.WriteResult:
    """One write to the begin of chunk 0, as a client that knows the chain sends it."""
    io = storage_pb2.WriteIO(
        chain=versioned(cluster), chunk_id=chunk(), chunk_size=CHUNK, kind=storage_pb2.WRITE,
        length=len(data), checksums=block_checksums(0, memoryview(data)))
    if sequence:
        io.tag.client_id, io.tag.channel, io.tag.sequence = b"w" * 16, 1, sequence
    if version:
        io.chain.version = version
    reply = await cluster.stub(node).write(
        storage_pb2.WriteRequest(ios=[io]), payload=[data], timeout=timeout)
    return reply.results[0]


def forwards(sender: int, receiver: int, fault: Fault, times: int = 1) -> object:
    """A rule: the first `times` forwards of one link meet a fault."""
    left = [times]

    def rule(source: int, destination: int, method: str, request: Message) -> Fault:
        if (source, destination, method) == (sender, receiver, "forward") and left[0]:
            left[0] -= 1
            return fault
        return SOUND

    return rule


def run(scenario: Scenario, **options: int) -> None:
    simulate(scenario, **options)


def test_a_write_is_on_every_replica_and_readable_from_each() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        data = bytes(range(256)) * 1000
        await client.write(file(), 100, memoryview(data))
        buffer = memoryview(bytearray(len(data)))
        await client.read(file(), 100, buffer)
        assert bytes(buffer) == data
        held = await cluster.same_everywhere()
        assert sorted(held) == [chunk(index) for index in range(4)]
        for node in (1, 2, 3):
            assert await read(cluster, node, 300) == bytes(100) + data[:200]

    run(scenario)


async def still_pending() -> bool:
    """A cut that nobody has finished."""
    return True


def test_truncate_and_remove_reach_every_replica() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"x" * (3 * CHUNK)))
        await client.trim(file(length=CHUNK + 10), still_pending)
        held = await cluster.same_everywhere()
        lengths = {key: len(value[1]) for key, value in held.items()}
        assert lengths == {chunk(0): CHUNK, chunk(1): 10}
        assert await client.data_end(file()) == CHUNK + 10
        await client.remove_all([file()])
        assert await cluster.same_everywhere() == {}
        await client.write(file(), 0, memoryview(b"again"))
        assert [value[1] for value in (await cluster.same_everywhere()).values()] == [b"again"]

    run(scenario)


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.REPLY])
@pytest.mark.parametrize("link", [(1, 2), (2, 3)])
def test_a_lost_forward_is_sent_again_and_applied_once(loss: Loss, link: tuple[int, int]) -> None:
    async def scenario(cluster: SimCluster) -> None:
        await cluster.client().write(file(), 0, memoryview(b"before"))
        cluster.network.rule = forwards(*link, Fault(loss))  # type: ignore[assignment]
        result = await write(cluster, 1, b"after!", sequence=1)
        assert not result.HasField("error")
        held = await cluster.same_everywhere()
        assert held[chunk()] == (result.version, b"after!")

    run(scenario)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("dead", [1, 2, 3])
def test_a_node_dies_in_the_middle_of_a_write(dead: int, applied: bool) -> None:
    """The client's retry through the new chain succeeds, and the update is applied once."""

    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client(1)
        await client.write(file(), 0, memoryview(b"first"))
        link = (1, 2) if dead != 3 else (2, 3)

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if (source, destination, method) == (*link, "forward") and cluster.network.up(dead):
                if applied:
                    return Fault(reply_delay=0.2)
                return Fault(delay=0.2)
            return SOUND

        cluster.network.rule = rule
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, file(), 0, memoryview(b"second"))
            await trio.sleep(0.1)
            cluster.crash(dead)
            await trio.sleep(0.3)
            assert await cluster.tick()
            cluster.publish()
        alive = [node for node in (1, 2, 3) if node != dead]
        for node in alive:
            assert await read(cluster, node, 10) == b"second"
        versions = [(await cluster.contents(node))[chunk()][0] for node in alive]
        assert len(set(versions)) == 1
        cluster.restart(dead)
        await cluster.heal()
        assert (await cluster.same_everywhere())[chunk()][1] == b"second"

    run(scenario)


def test_a_retried_tag_is_recognised_by_the_new_head() -> None:
    async def scenario(cluster: SimCluster) -> None:
        first = await write(cluster, 1, b"once", sequence=5)
        cluster.crash(1)
        await cluster.tick()
        cluster.publish()
        again = await write(cluster, 2, b"once", sequence=5)
        assert again.version == first.version
        older = await write(cluster, 2, b"late", sequence=4)
        assert older.error.kind == Kind.STALE_UPDATE
        assert await read(cluster, 3, 10) == b"once"

    run(scenario)


def test_a_pending_of_unknown_fate_is_settled_by_the_next_writer() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"one", sequence=1)
        cluster.network.rule = forwards(1, 2, Fault(Loss.REQUEST), 1000)  # type: ignore[assignment]
        assert (await write(cluster, 1, b"two", sequence=2, timeout=0.5)).HasField("error")
        state = await cluster.nodes[1].engine.state(chunk())
        assert state is not None
        assert state.pending is not None
        assert await read(cluster, 1, 10) == b"one"  # the tail has not committed it
        cluster.network.rule = lambda *_: SOUND
        third = await write(cluster, 1, b"three", sequence=3)
        assert third.version == state.pending.number + 1
        assert (await cluster.same_everywhere())[chunk()][1] == b"three"
        known = await cluster.nodes[3].engine.applied(b"w" * 16, 1)
        assert known is not None
        assert known.sequence == 3

    run(scenario)


def test_a_chunk_with_a_pending_version_can_be_removed() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"one"))
        cluster.network.rule = forwards(2, 3, Fault(Loss.REQUEST), 1000)  # type: ignore[assignment]
        assert (await write(cluster, 1, b"two", sequence=2, timeout=0.5)).HasField("error")
        cluster.network.rule = lambda *_: SOUND
        await client.remove_all([file()])
        assert await cluster.same_everywhere() == {}

    run(scenario)


def test_a_dirty_read_asks_the_tail() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        # The tail commits at once; its answer to the middle takes two seconds.
        cluster.network.rule = forwards(2, 3, Fault(reply_delay=2.0))  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, cluster, 1, b"new")
            await trio.sleep(0.5)
            for node in (1, 2, 3):
                assert await read(cluster, node, 3) == b"new"
            assert [entry for entry in cluster.network.log if entry[2] == "query_version"] == [
                (1, 3, "query_version"), (2, 3, "query_version")]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_before_the_tail_commits_every_replica_shows_the_old_bytes() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        cluster.network.rule = forwards(2, 3, Fault(delay=0.8))  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, cluster, 1, b"new")
            await trio.sleep(0.5)
            for node in (1, 2, 3):
                assert await read(cluster, node, 3) == b"old"
        for node in (1, 2, 3):
            assert await read(cluster, node, 3) == b"new"

    run(scenario)


def test_a_pending_version_that_came_after_the_question_is_not_served() -> None:
    """The tail's answer is about one version; the next one may be pending when it arrives."""

    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"one")
        seen = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if (source, destination, method) == (2, 3, "forward"):
                # "two" is committed by the tail at once, "ten" hangs before it.
                seen.append(1)
                return Fault(reply_delay=0.3) if len(seen) == 1 else Fault(delay=0.9)
            if method == "query_version":
                return Fault(reply_delay=0.4)
            return SOUND

        cluster.network.rule = rule
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, cluster, 1, b"two")
            await trio.sleep(0.1)
            found: list[bytes] = []

            async def ask() -> None:
                found.append(await read(cluster, 1, 3))

            nursery.start_soon(ask)
            await trio.sleep(0.25)
            nursery.start_soon(write, cluster, 1, b"ten")
        assert found == [b"two"]

    run(scenario)


def test_a_removal_that_the_tail_committed_is_seen_everywhere() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"here"))
        cluster.network.rule = forwards(2, 3, Fault(reply_delay=0.5))  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.remove_all, [file()])
            await trio.sleep(0.2)
            for node in (3, 2, 1):
                with pytest.raises(FsError) as caught:
                    await read(cluster, node, 4)
                assert caught.value.kind == Kind.CHUNK_NOT_FOUND

    run(scenario)


def test_wrong_versions_roles_and_fenced_nodes_are_refused() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"data")
        assert (await write(cluster, 2, b"no")).error.kind == Kind.NOT_SERVING
        wrong = await write(cluster, 1, b"no", version=9, timeout=2.0)
        assert wrong.error.kind == Kind.CHAIN_VERSION_MISMATCH
        cluster.set_chain((1, SERVING), (2, SERVING), (3, OFFLINE))
        old = await write(cluster, 1, b"no", version=1)
        assert old.error.kind == Kind.CHAIN_VERSION_MISMATCH
        with pytest.raises(FsError) as caught:
            await read(cluster, 3, 4)
        assert caught.value.kind == Kind.NOT_SERVING
        cluster.nodes[2].fence.closed = True
        with pytest.raises(FsError) as caught:
            await read(cluster, 2, 4)
        assert caught.value.kind == Kind.NOT_SERVING
        assert (await write(cluster, 1, b"no", timeout=0.5)).HasField("error")

    run(scenario)


def test_a_syncing_replica_gets_whole_chunks() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await cluster.client().write(file(), 0, memoryview(b"0123456789"))
        cluster.crash(3)
        cluster.set_chain((1, SERVING), (2, SERVING), (3, OFFLINE))
        cluster.nodes[3].engine = type(cluster.nodes[3].engine)()  # a new disk
        cluster.restart(3)
        cluster.set_chain((1, SERVING), (2, SERVING), (3, SYNCING))
        await write(cluster, 1, b"ab")
        assert (await cluster.same_everywhere())[chunk()][1] == b"ab23456789"
        with pytest.raises(FsError) as caught:
            await read(cluster, 3, 4)
        assert caught.value.kind == Kind.NOT_SERVING

    run(scenario)


def test_resync_makes_replicas_alike_while_writes_go_on() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        for index in range(8):
            await client.write(file(), index * CHUNK, memoryview(b"%d" % index * 100))
        cluster.crash(3)
        await cluster.tick()
        cluster.publish()
        await client.write(file(), 0, memoryview(b"changed"))
        # Node 3 has two chunks still that go now.
        await client.trim(file(length=6 * CHUNK), still_pending)
        await client.write(file(), 20 * CHUNK, memoryview(b"new"))
        await cluster.client(9).remove_all([file(1234)])
        cluster.restart(3)
        await cluster.tick()
        cluster.publish()
        assert cluster.chain.targets[2].state == SYNCING
        cluster.network.rule = lambda *_: Fault(delay=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.nodes[2].resync.run_once)
            for index in range(5):
                await client.write(file(), index * CHUNK, memoryview(b"during"))
        await cluster.heal()
        held = await cluster.same_everywhere()
        assert sorted(held) == [chunk(index) for index in (0, 1, 2, 3, 4, 5, 20)]

    run(scenario)


def test_a_target_that_was_out_serves_again_only_after_resync() -> None:
    """It saw nothing of its absence: routing came to it only when it was syncing already."""

    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"old"))
        cut_off = cluster.nodes[3]
        cut_off.fence.closed = True
        await cluster.tick()
        cluster.publish([1, 2])
        await client.write(file(), 0, memoryview(b"new"))
        cut_off.fence.closed = False
        await cluster.tick()
        cluster.publish()
        assert cluster.chain.targets[2].state == SYNCING
        assert not await cluster.tick(), "it was taken for up to date"
        await cluster.heal()
        assert (await cluster.same_everywhere())[chunk()][1] == b"new"

    run(scenario)


def test_resync_is_done_again_for_a_target_that_forgot_it() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await cluster.client().write(file(), 0, memoryview(b"data"))
        cluster.crash(3)
        await cluster.tick()
        cluster.restart(3)
        await cluster.tick()
        cluster.publish()
        assert await cluster.nodes[2].resync.run_once() == 1
        cluster.restart(3)  # before its next heartbeat
        await cluster.heal()

    run(scenario)


def test_an_old_head_that_lost_its_place_acknowledges_nothing_alone() -> None:
    """Its successor is silent until the chain has changed, and the old head is now the last."""

    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old", sequence=1)
        cluster.network.rule = forwards(1, 2, Fault(Loss.REQUEST), 1000)  # type: ignore[assignment]
        results = []

        async def attempt() -> None:
            results.append(await write(cluster, 1, b"new", sequence=2, timeout=5.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt)
            await trio.sleep(0.2)
            cluster.set_chain((2, SERVING), (3, SERVING), (1, SYNCING))
        assert results[0].error.kind == Kind.CHAIN_VERSION_MISMATCH
        assert await read(cluster, 2, 3) == b"old"

    run(scenario)


def test_a_removal_in_progress_spares_what_was_made_after_it_began() -> None:
    """A slow remove_range whose sender gave up must not take the chunks of a later writer."""

    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        for index in range(2):
            await client.write(file(), index * CHUNK, memoryview(b"old"))
        slow = [True]

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if (source, method) == (1, "forward") and slow[0]:
                slow[0] = False
                return Fault(delay=0.5)
            return SOUND

        cluster.network.rule = rule
        request = storage_pb2.RemoveRangesRequest(
            chain=versioned(cluster), limit=10,
            ranges=[storage_pb2.ChunkRange(begin=chunk(0), end=chunk(9))])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.stub(1).remove_ranges, request)
            await trio.sleep(0.1)
            await client.write(file(), CHUNK, memoryview(b"new"))
        assert [value[1] for value in (await cluster.same_everywhere()).values()] == [b"new"]

    run(scenario)


def test_readers_at_the_tail_do_not_wait_for_a_silent_syncing_replica() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        cluster.set_chain((1, SERVING), (2, SERVING), (3, SYNCING))
        cluster.network.rule = forwards(2, 3, Fault(delay=5.0), 1000)  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, cluster, 1, b"new")
            await trio.sleep(0.2)
            with trio.fail_after(0.1):
                assert await read(cluster, 2, 3) == b"old"
                assert await read(cluster, 1, 3) == b"old"
            nursery.cancel_scope.cancel()

    run(scenario)


async def stage_on(cluster: SimCluster, *nodes: int) -> None:
    """A writer's update that got so far, and whose head was never answered."""
    data = b"new"
    update = Update(storage_pb2.WRITE, 0, 3, CHUNK, tuple(block_checksums(0, memoryview(data))))
    for node in nodes:
        state = await cluster.nodes[node].engine.state(chunk())
        assert state is not None
        assert state.committed is not None
        await cluster.nodes[node].engine.stage(
            chunk(), state.committed.number + 1, update, memoryview(data))


def test_a_tail_commits_what_it_staged_before_it_became_the_tail() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        await stage_on(cluster, 1, 2)
        cluster.set_chain((1, SERVING), (2, SERVING), (3, OFFLINE))
        assert await read(cluster, 1, 3) == b"new"
        assert await read(cluster, 2, 3) == b"new"

    run(scenario)


def test_a_tail_commits_nothing_that_one_who_came_before_it_lacks() -> None:
    """Found among the cores (seed 75): the tail showed what the middle did not have."""
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        await stage_on(cluster, 1, 2)
        cluster.set_chain((1, SERVING), (3, SERVING), (2, SERVING))
        for node in (1, 2):
            with pytest.raises(FsError) as caught:
                await read(cluster, node, 3)
            assert caught.value.kind == Kind.BUSY
        assert await read(cluster, 3, 3) == b"old"
        await cluster.nodes[1].settling.run_once()
        for node in (1, 2, 3):
            assert await read(cluster, node, 3) == b"new"

    run(scenario)


def test_an_update_that_is_tried_again_is_checked_again() -> None:
    """Simulated with locks (seed 207): a client wrote under a lock that it had lost meanwhile."""
    async def scenario(cluster: SimCluster) -> None:
        checks: list[None] = []

        def check() -> None:
            checks.append(None)
            if len(checks) > 1:
                raise FsError(Kind.LOCKS_LOST, "by the test")

        cluster.network.rule = (
            lambda source, _, method, __:
            Fault(Loss.REQUEST) if (source, method) == (0, "write") and len(checks) == 1 else SOUND)
        with pytest.raises(FsError) as caught:
            await cluster.client().write(file(), 0, memoryview(b"late"), check=check)
        assert caught.value.kind == Kind.LOCKS_LOST
        assert await cluster.same_everywhere() == {}

    run(scenario)


def test_a_late_trim_takes_only_what_it_listed() -> None:
    """Two finish one cut; the slower removal arrives when the file has grown again."""
    async def scenario(cluster: SimCluster) -> None:
        client, slow = cluster.client(), cluster.client(8)
        await client.write(file(), 0, memoryview(b"x" * (3 * CHUNK)))
        cut = file(length=CHUNK + 10)

        async def others_finish_meanwhile() -> bool:
            await client.trim(cut, still_pending)
            await client.write(file(), CHUNK, memoryview(b"new" * 10))
            await client.write(file(), 2 * CHUNK, memoryview(b"new"))
            return True

        async def finished() -> bool:
            return False

        answers = iter([others_finish_meanwhile, finished])

        async def ask() -> bool:
            return await next(answers)()

        await slow.trim(cut, ask)
        buffer = memoryview(bytearray(CHUNK + 3))
        await client.read(file(), CHUNK, buffer)
        assert bytes(buffer) == b"new" * 10 + bytes(CHUNK - 30) + b"new"

    run(scenario)


def test_a_chunk_that_is_made_again_gets_a_higher_version() -> None:
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        await client.write(file(), 0, memoryview(b"first"))
        before = (await cluster.same_everywhere())[chunk(0)][0]
        await client.remove_all([file()])
        for node in (1, 2, 3):
            cluster.crash(node)
            cluster.restart(node)
        await client.write(file(), 0, memoryview(b"second"))
        version, content = (await cluster.same_everywhere())[chunk(0)]
        assert content == b"second"
        assert version > before + 1, "the removal had a number of its own"

    run(scenario)


def test_a_forward_that_was_given_up_comes_too_late() -> None:
    """It made a chunk that was removed since, and would make it again."""
    async def scenario(cluster: SimCluster) -> None:
        client = cluster.client()
        held: list[storage_pb2.ForwardRequest] = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if method == "forward" and (source, destination) == (1, 2) and not held:
                held.append(
                    storage_pb2.ForwardRequest.FromString(request.SerializeToString()))
                return Fault(loss=Loss.REQUEST)
            return SOUND

        cluster.network.rule = rule
        await client.write(file(), 0, memoryview(b"data"))
        await client.remove_all([file()])
        [late] = held
        reply = await cluster.stub(2).forward(late, payload=[memoryview(b"data")])
        assert reply.link > late.link
        assert await cluster.same_everywhere() == {}

    run(scenario)
