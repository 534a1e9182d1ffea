"""Open files: sessions, lengths, cuts, and what the collector may take."""

from __future__ import annotations

import pytest

from luciole.errors import Kind
from luciole.meta.core import schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_namespace import refused
from luciole.tests.meta.world import CALL, CHUNK, GRACE, World, user

S, T = b"s" * 16, b"t" * 16
MINE, OTHER = b"c" * 16, b"o" * 16


def hold(world: World, inode_id: int, session: bytes, client: bytes = MINE) -> list[int]:
    reply = drive(world.meta.hold(meta_pb2.HoldRequest(
        client_id=client, sessions=[meta_pb2.Session(
            client_id=client, session_id=session, inode_id=inode_id)]), CALL))
    return list(reply.missing)


def release(world: World, inode_id: int, session: bytes, client: bytes = MINE) -> None:
    drive(world.meta.release(meta_pb2.ReleaseRequest(sessions=[meta_pb2.Session(
        client_id=client, session_id=session, inode_id=inode_id)]), CALL))


def gone(world: World, inode_id: int) -> bool:
    reply = drive(world.meta.batch_stat(meta_pb2.BatchStatRequest(inode_ids=[inode_id]), CALL))
    return not reply.inodes[0].inode_id


def test_the_length_is_what_writers_report() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    assert world.fsync(inode.inode_id, S, 100).length == 100
    assert world.fsync(inode.inode_id, S, 50).length == 100
    world.close(inode.inode_id, S, 120)
    after = world.stat(inode.inode_id)
    assert (after.length, after.mtime_ns) == (120, world.now_ns)
    assert world.keys(schema.SESSION) == world.keys(schema.CLIENT_SESSION) == []
    refused(Kind.NO_SESSION, world.fsync, inode.inode_id, S, 500)
    refused(Kind.NO_SESSION, world.close, inode.inode_id, S, 500)
    world.close(inode.inode_id, S)  # without a report nothing is lost
    assert world.stat(inode.inode_id).length == 120


def test_a_report_from_before_a_cut_is_void() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.fsync(inode.inode_id, S, 1000)
    cut = world.truncate(inode.inode_id, 10)
    assert (cut.length, cut.truncate_version, cut.trim_pending) == (10, 1, False)
    assert world.fsync(inode.inode_id, S, 900, version=0).length == 10
    assert world.fsync(inode.inode_id, S, 900, version=1).length == 900


def test_truncate_permissions_and_kinds() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S, mode=0o444).inode
    refused(Kind.ACCESS_DENIED, world.truncate, inode.inode_id, 5, by=user(9))
    assert world.truncate(inode.inode_id, 5, by=user(9), session=S).length == 5
    refused(Kind.NO_SESSION, world.truncate, inode.inode_id, 5, by=user(9), session=T)
    refused(Kind.FILE_TOO_LARGE, world.truncate, inode.inode_id, 1 << 63)
    refused(Kind.IS_DIRECTORY, world.truncate, schema.ROOT_ID, 0)
    refused(Kind.INVALID_ARGUMENT, world.truncate, world.symlink(b"s", b"t").inode_id, 0)


def test_growing_needs_no_trim_but_a_foreign_writer_does() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    grown = world.truncate(inode.inode_id, 100)
    assert (grown.length, grown.truncate_version, world.chunks.trims) == (100, 0, [])
    world.open(inode.inode_id, T, client=OTHER)
    grown = world.truncate(inode.inode_id, 200)
    assert (grown.length, grown.truncate_version) == (200, 1)
    assert world.chunks.trims == [(inode.inode_id, 200)]


def test_a_cut_that_was_interrupted_is_finished_before_the_file_grows() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.fsync(inode.inode_id, S, 1000)
    world.chunks.ends[inode.inode_id] = 1000
    world.chunks.broken = True
    refused(Kind.UNAVAILABLE, world.truncate, inode.inode_id, 10)
    assert world.stat(inode.inode_id).trim_pending
    refused(Kind.UNAVAILABLE, world.truncate, inode.inode_id, 500)
    refused(Kind.UNAVAILABLE, world.open, inode.inode_id, T)
    world.chunks.broken = False
    grown = world.truncate(inode.inode_id, 500)
    assert (grown.length, grown.trim_pending) == (500, False)
    assert world.chunks.ends[inode.inode_id] == 10
    assert world.keys(schema.TRIM) == []


def test_the_collector_finishes_an_old_cut_and_leaves_a_young_one() -> None:
    """A young one may be under way at a server; writes behind it must not be trimmed again."""
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.fsync(inode.inode_id, S, 1000)
    world.chunks.broken = True
    refused(Kind.UNAVAILABLE, world.truncate, inode.inode_id, 10)
    world.chunks.broken = False
    assert world.collect().trimmed == 0
    assert world.chunks.trims == []
    world.pass_time(GRACE + 1)
    assert world.collect().trimmed == 1
    assert world.chunks.trims == [(inode.inode_id, 10)]
    assert not world.stat(inode.inode_id).trim_pending
    assert world.keys(schema.TRIM) == []


def test_open_with_truncate() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S, mode=0o644).inode
    world.close(inode.inode_id, S, 1000)
    refused(Kind.ACCESS_DENIED, world.open, inode.inode_id, T, truncate=True, by=user(9))
    cut = world.open(inode.inode_id, T, truncate=True)
    assert (cut.length, cut.truncate_version, cut.trim_pending) == (0, 1, False)
    again = world.create(b"f", truncate=True, write=True, session=S).inode
    assert again.truncate_version == 1, "an empty file is not cut again"
    refused(Kind.IS_DIRECTORY, world.open, schema.ROOT_ID, S)


def test_unlinked_while_open_lives_until_the_session_ends() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    assert world.unlink(b"f").nlink == 0
    world.pass_time(2 * GRACE)
    world.collect()
    assert world.fsync(inode.inode_id, S, 100).length == 100
    world.chunks.ends[inode.inode_id] = 100
    world.close(inode.inode_id, S, 100)
    done = world.collect()
    assert (done.condemned, done.freed) == (1, 1)
    assert gone(world, inode.inode_id)
    assert world.chunks.ends == {}
    world.check()


def test_unlinked_and_closed_stays_for_the_grace_period() -> None:
    world = World()
    inode = world.file(b"f")
    world.unlink(b"f")
    world.pass_time(GRACE - 1)
    world.collect()
    assert not gone(world, inode.inode_id)
    assert hold(world, inode.inode_id, T) == []
    world.pass_time(GRACE)
    world.collect()
    assert not gone(world, inode.inode_id)
    release(world, inode.inode_id, T)
    world.collect()
    assert gone(world, inode.inode_id)
    assert hold(world, inode.inode_id, T) == [inode.inode_id]
    assert world.keys(schema.GARBAGE) == world.keys(schema.ORPHAN) == []
    world.check()


def test_a_replaced_file_is_an_orphan_too() -> None:
    world = World()
    old = world.file(b"old")
    world.file(b"new")
    world.rename(b"new", b"old")
    world.check()
    world.pass_time(GRACE + 1)
    world.collect()
    assert gone(world, old.inode_id)
    world.check()


def test_chunks_of_a_file_that_was_cut_and_removed_go() -> None:
    """The length does not tell where its chunks are before the cut is finished."""
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.close(inode.inode_id, S, 1000)
    world.chunks.ends[inode.inode_id] = 1000
    world.chunks.broken = True
    refused(Kind.UNAVAILABLE, world.truncate, inode.inode_id, 0)
    world.chunks.broken = False
    world.unlink(b"f")
    for _ in range(3):
        world.pass_time(GRACE + 1)
        world.collect()
    assert gone(world, inode.inode_id)
    assert world.chunks.ends.get(inode.inode_id, 0) == 0
    assert world.keys(schema.GARBAGE) == world.keys(schema.TRIM) == []


def test_garbage_waits_for_chains_that_are_out_of_reach() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.close(inode.inode_id, S, CHUNK)
    world.chunks.ends[inode.inode_id] = CHUNK
    world.unlink(b"f")
    world.pass_time(GRACE + 1)
    world.chunks.broken = True
    done = world.collect()
    assert (done.condemned, done.freed, done.failures) == (1, 0, 1)
    scanned = drive(world.meta.scan_garbage(meta_pb2.ScanRequest(), CALL))
    assert list(scanned.garbage) == [inode.inode_id]
    world.chunks.broken = False
    assert world.collect().freed == 1
    assert world.chunks.ends == {}


def test_a_dead_client_s_sessions_go_and_what_it_wrote_is_found() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    removed = world.create(b"g", write=True, session=T).inode
    world.unlink(b"g")
    world.chunks.ends[inode.inode_id] = 777
    world.cluster.alive = None
    assert world.collect().dropped_clients == 0
    world.cluster.alive = set()
    assert world.collect().dropped_clients == 0, "missing once may be chance"
    done = world.collect()
    assert (done.dropped_clients, done.recovered) == (1, 2)
    assert world.stat(inode.inode_id).length == 777
    assert world.keys(schema.CLIENT_SESSION) == world.keys(schema.IDEMPOTENCY) == []
    refused(Kind.NO_SESSION, world.fsync, inode.inode_id, S, 1000)
    world.pass_time(GRACE + 1)
    world.collect()
    assert gone(world, removed.inode_id)
    world.check()


def test_blocks_are_not_counted_while_somebody_writes() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.open(inode.inode_id, T, client=OTHER)
    world.chunks.ends[inode.inode_id] = 777  # written by both, and reported by none
    world.cluster.alive = {OTHER}
    world.collect()
    world.collect()
    found = world.stat(inode.inode_id)
    assert (found.length, found.allocated) == (777, 0)
    world.close(inode.inode_id, T, client=OTHER)
    world.collect()
    assert world.stat(inode.inode_id).allocated == 0, "not again at once"
    world.pass_time(GRACE + 1)
    world.collect()
    assert world.stat(inode.inode_id).allocated == 777
    assert world.keys(schema.UNREPORTED) == []


def test_a_dead_client_s_length_is_not_believed_over_a_cut() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.chunks.ends[inode.inode_id] = 777
    world.truncate(inode.inode_id, 5, client=OTHER)
    assert world.chunks.ends[inode.inode_id] == 5
    world.cluster.alive = {OTHER}
    world.collect()
    world.collect()
    assert world.stat(inode.inode_id).length == 5


def test_a_live_client_keeps_its_sessions() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.cluster.alive = {MINE}
    for _ in range(3):
        assert world.collect().dropped_clients == 0
    world.fsync(inode.inode_id, S, 10)
    world.cluster.alive = set()
    world.collect()
    world.cluster.alive = {MINE}
    world.collect()
    world.cluster.alive = set()
    assert world.collect().dropped_clients == 0, "it was seen in between"


def test_ids_are_never_used_twice() -> None:
    world = World()
    seen = {world.file(b"%d" % n).inode_id for n in range(5)}
    world.meta = world.service()
    seen |= {world.file(b"x%d" % n).inode_id for n in range(5)}
    assert len(seen) == 10
    assert min(seen) >= schema.FIRST_INODE_ID


@pytest.mark.parametrize("session", [b"short", b"x" * 17])
def test_session_ids_have_sixteen_bytes(session: bytes) -> None:
    world = World()
    refused(Kind.INVALID_ARGUMENT, world.create, b"f", write=True, session=session)
    assert world.names() == []
