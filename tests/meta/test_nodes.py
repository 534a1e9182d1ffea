"""Fifos, sockets, devices, and files that are made without a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from luciole.errors import FsError, Kind
from luciole.meta.core import schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, GRACE, World, user

ALICE = user(1000, 100)
SESSION = b"s" * 16
KINDS = (meta_pb2.FIFO, meta_pb2.SOCKET, meta_pb2.CHARACTER_DEVICE, meta_pb2.BLOCK_DEVICE)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def refused(kind: Kind, call: Callable[..., object], *args: object, **options: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args, **options)
    assert caught.value.kind == kind, caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_have_names_like_files(world: World, kind: meta_pb2.FileType) -> None:
    made = world.node(b"n", kind, rdev=0x103)
    device = kind in {meta_pb2.CHARACTER_DEVICE, meta_pb2.BLOCK_DEVICE}
    assert (made.type, made.nlink, made.rdev) == (kind, 1, 0x103 if device else 0)
    refused(Kind.EXISTS, world.node, b"n", kind)
    world.link(made.inode_id, b"m")
    world.rename(b"m", b"n")
    assert world.stat(made.inode_id).nlink == 2
    world.file(b"f")
    world.rename(b"f", b"n")
    world.rename(b"m", b"n")
    refused(Kind.INVALID_ARGUMENT, world.open, made.inode_id, SESSION)
    refused(Kind.INVALID_ARGUMENT, world.truncate, made.inode_id, 0)
    assert world.unlink(b"n").nlink == 0
    world.pass_time(2 * GRACE)
    world.collect()
    refused(Kind.STALE_HANDLE, world.stat, made.inode_id)
    assert world.keys(schema.GARBAGE) == []  # there are no chunks to look for


def test_only_root_makes_devices(world: World) -> None:
    place = world.mkdir(b"d", mode=0o777).inode_id
    for kind in KINDS[2:]:
        refused(Kind.NOT_PERMITTED, world.node, b"n", kind, place, by=ALICE)
    for number, kind in enumerate(KINDS[:2]):
        assert world.node(b"%d" % number, kind, place, by=ALICE).uid == 1000
    refused(Kind.INVALID_ARGUMENT, world.node, b"n", meta_pb2.REGULAR)
    refused(Kind.ACCESS_DENIED, world.node, b"n", meta_pb2.FIFO, by=ALICE)


@pytest.mark.parametrize("kind", KINDS)
def test_set_id_bits_of_nodes_fall_with_their_owner(
    world: World, kind: meta_pb2.FileType
) -> None:
    made = world.node(b"n", kind, mode=0o6755).inode_id
    assert world.set_attr(meta_pb2.SetAttrRequest(inode_id=made, uid=5)).mode == 0o755


def test_a_file_without_a_name_goes_when_it_is_closed(world: World) -> None:
    made = world.unnamed(SESSION)
    assert (made.nlink, world.names()) == (0, [])
    world.pass_time(2 * GRACE)
    assert world.collect().condemned == 0  # it is open
    world.close(made.inode_id, SESSION)
    world.collect()
    refused(Kind.STALE_HANDLE, world.stat, made.inode_id)


def test_a_file_without_a_name_can_be_given_one(world: World) -> None:
    made = world.unnamed(SESSION)
    assert world.link(made.inode_id, b"f").nlink == 1
    world.close(made.inode_id, SESSION)
    world.pass_time(2 * GRACE)
    assert world.collect().condemned == 0
    assert world.lookup(b"f").inode_id == made.inode_id
    world.unlink(b"f")
    refused(Kind.NOT_FOUND, world.link, made.inode_id, b"f")  # a removed file stays removed


def test_a_name_given_while_the_collector_looks_saves_the_file(world: World) -> None:
    made = world.unnamed(SESSION)
    world.close(made.inode_id, SESSION)
    world.pass_time(2 * GRACE)
    [orphan] = world.records(schema.ORPHAN)
    world.link(made.inode_id, b"f")
    drive(world.collector._condemn(orphan.key, orphan.value, world.collect()))
    assert world.lookup(b"f").nlink == 1


def test_a_file_without_a_name_needs_a_writer(world: World) -> None:
    refused(Kind.INVALID_ARGUMENT, lambda: drive(world.meta.create_unnamed(
        meta_pb2.CreateRequest(request_id=world.request_id(), credential=user(), parent=1),
        CALL)))
    refused(Kind.ACCESS_DENIED, world.unnamed, SESSION, by=ALICE)


def test_the_umask_is_applied_here(world: World) -> None:
    made: list[meta_pb2.InodeReply | meta_pb2.CreateReply] = [
        drive(world.meta.make_dir(meta_pb2.MakeDirRequest(
            request_id=world.request_id(), parent=1, name=b"d", mode=0o2777, umask=0o027), CALL)),
        drive(world.meta.create(meta_pb2.CreateRequest(
            request_id=world.request_id(), parent=1, name=b"f", mode=0o2777, umask=0o027), CALL)),
        drive(world.meta.make_node(meta_pb2.MakeNodeRequest(
            request_id=world.request_id(), parent=1, name=b"p", mode=0o2777, umask=0o027,
            type=meta_pb2.FIFO), CALL)),
    ]
    assert [reply.inode.mode for reply in made] == [0o2750] * 3
