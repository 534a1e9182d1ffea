"""Inline data at the metadata service: when a file becomes inline, and what its record holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.inline import is_inline
from luciole.limits import INLINE_BYTES_MAX
from luciole.meta.core import schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_namespace import refused
from luciole.tests.meta.world import CALL, CHUNK, GRACE, World

S, T = b"s" * 16, b"t" * 16
MINE, OTHER = b"c" * 16, b"o" * 16
CLIENTS = {MINE: S, OTHER: T}


def report(
    world: World, inode_id: int, offset: int, data: bytes, *, version: int = 0,
    client: bytes = MINE, end: int | None = None,
) -> meta_pb2.Inode:
    """Fsync with one patch."""
    world.pass_time(0.001)
    hint = meta_pb2.LengthHint(
        length=offset + len(data) if end is None else end, truncate_version=version,
        mtime_ns=world.now_ns, patches=[meta_pb2.Patch(offset=offset, data=data)])
    return drive(world.meta.fsync(meta_pb2.FsyncRequest(
        request_id=world.request_id(client), inode_id=inode_id, session_id=CLIENTS[client],
        hint=hint), CALL)).inode


def content(world: World, inode_id: int) -> bytes:
    """What a reader gets, who fills it up with zeros."""
    reply = drive(world.other.stat(
        meta_pb2.StatRequest(inode_id=inode_id, with_content=True), CALL))
    return reply.content.ljust(min(reply.inode.length, INLINE_BYTES_MAX), b"\0")


def test_a_report_makes_an_empty_file_inline() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    inode = report(world, inode.inode_id, 2, b"abc")
    assert (inode.length, inode.inline_bytes, inode.allocated) == (5, 5, 0)
    assert content(world, inode.inode_id) == b"\0\0abc"
    assert not drive(world.meta.stat(meta_pb2.StatRequest(inode_id=inode.inode_id), CALL)).content
    inode = report(world, inode.inode_id, 0, b"x")
    assert content(world, inode.inode_id) == b"x\0abc"
    world.unlink(b"f")
    world.close(inode.inode_id, S)
    world.pass_time(GRACE + 1)
    world.collect()
    assert world.keys(schema.INLINE) == []


def test_it_grows_and_keeps_its_beginning() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    report(world, inode.inode_id, 0, b"abc")
    inode = report(world, inode.inode_id, 3, b"d", end=CHUNK)
    assert (inode.length, inode.inline_bytes) == (CHUNK, 4)
    assert content(world, inode.inode_id)[:5] == b"abcd\0"
    world.chunks.ends[inode.inode_id] = CHUNK
    cut = world.truncate(inode.inode_id, 3)
    assert (cut.inline_bytes, cut.truncate_version, cut.allocated) == (3, 1, 0)
    assert world.chunks.trims == [(inode.inode_id, 0)]


def test_only_a_file_without_chunks_becomes_inline() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.fsync(inode.inode_id, S, 10)
    refused(Kind.NOT_INLINE, report, world, inode.inode_id, 0, b"x")
    world.truncate(inode.inode_id, 0)
    assert is_inline(report(world, inode.inode_id, 0, b"x", version=1))
    other = world.create(b"g", write=True, session=S).inode
    refused(Kind.NOT_INLINE, report, world, other.inode_id, 0, b"x", end=CHUNK)


def test_not_while_another_client_may_be_writing() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    world.open(inode.inode_id, T, client=OTHER)
    refused(Kind.NOT_INLINE, report, world, inode.inode_id, 0, b"x")
    world.cluster.alive = {MINE}
    world.collect()
    world.chunks.broken = True  # so that it is not yet known what the dead client wrote
    world.collect()
    assert world.keys(schema.SESSION) == [schema.session_key(inode.inode_id, S)]
    refused(Kind.NOT_INLINE, report, world, inode.inode_id, 0, b"x")
    world.chunks.broken = False
    world.collect()
    assert is_inline(report(world, inode.inode_id, 0, b"x"))


def test_it_stays_inline_for_whoever_has_a_session() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    report(world, inode.inode_id, 0, b"abc")
    world.open(inode.inode_id, T, client=OTHER)
    cut = world.truncate(inode.inode_id, 0, client=OTHER)
    assert is_inline(cut)
    assert cut.inline_bytes == 0
    report(world, inode.inode_id, 1, b"x", version=1)
    assert content(world, inode.inode_id) == b"\0x"
    world.close(inode.inode_id, S)
    assert not is_inline(world.truncate(inode.inode_id, 0, client=OTHER))
    assert world.keys(schema.INLINE) == []


def test_a_cut_without_chunks_trims_nothing() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    report(world, inode.inode_id, 0, b"abc")
    world.chunks.broken = True
    assert world.truncate(inode.inode_id, 1).truncate_version == 1
    assert world.open(inode.inode_id, S, truncate=True).length == 0
    assert world.keys(schema.TRIM) == []


def test_a_void_report_changes_nothing() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    report(world, inode.inode_id, 0, b"abc")
    world.truncate(inode.inode_id, 2)
    assert report(world, inode.inode_id, 0, b"xyz", version=0).length == 2
    assert content(world, inode.inode_id) == b"ab"


def test_what_cannot_be_a_patch_is_refused() -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    refused(Kind.INVALID_ARGUMENT, report, world, inode.inode_id, INLINE_BYTES_MAX, b"x")
    hint = meta_pb2.LengthHint(length=1, patches=[meta_pb2.Patch(data=b"x")])
    with pytest.raises(FsError) as caught:
        drive(world.meta.fsync(meta_pb2.FsyncRequest(
            request_id=world.request_id(), inode_id=inode.inode_id, session_id=S, hint=hint),
            CALL))
    assert caught.value.kind == Kind.INVALID_ARGUMENT


PATCH = st.tuples(
    st.sampled_from([MINE, OTHER]), st.sampled_from([0, 1, 100, 8000, INLINE_BYTES_MAX - 1]),
    st.sampled_from([1, 90, 5000]))
CUT = st.tuples(st.sampled_from([MINE, OTHER]), st.just(-1), st.sampled_from(
    [0, 0, 1, 50, 8000, INLINE_BYTES_MAX, CHUNK]))


@given(st.lists(st.one_of(PATCH, PATCH, CUT), max_size=20), st.integers(0, 3))
@settings(deadline=None, max_examples=100)
def test_the_record_holds_what_was_reported(
    steps: list[tuple[bytes, int, int]], start: int
) -> None:
    world = World()
    inode = world.create(b"f", write=True, session=S).inode
    inode = report(world, inode.inode_id, 0, bytes(start) + b"x")
    world.open(inode.inode_id, T, client=OTHER)
    model = bytearray(bytes(start) + b"x")
    for number, (client, offset, count) in enumerate(steps, 1):
        if offset < 0:
            inode = world.truncate(
                inode.inode_id, count, session=CLIENTS[client], client=client)
            del model[count:]
            model.extend(bytes(count - len(model)))
        else:
            data = (bytes([number]) * count)[: INLINE_BYTES_MAX - offset]
            inode = report(world, inode.inode_id, offset, data, client=client,
                           version=inode.truncate_version)
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = data
        assert inode.length == len(model)
        assert content(world, inode.inode_id) == model[:INLINE_BYTES_MAX]
        world.check()
