"""The trash: what goes in, how it comes out, and that applications see no difference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luciole.errors import Kind
from luciole.meta.core import schema
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_namespace import ALICE, BOB, refused
from luciole.tests.meta.world import CALL, GRACE, ROOT, World, user

KEEP = 1000
S = b"s" * 16


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def set_trash(
    world: World, directory: int, keep: int = KEEP, by: common_pb2.Credential | None = None
) -> None:
    drive(world.meta.set_trash(meta_pb2.SetTrashRequest(
        request_id=world.request_id(), credential=by or user(), inode_id=directory,
        keep_seconds=keep), CALL))


def items(
    world: World, directory: int, by: common_pb2.Credential | None = None
) -> list[meta_pb2.Inode]:
    return list(drive(world.meta.list_trash(meta_pb2.ListTrashRequest(
        credential=by or user(), inode_id=directory), CALL)).inodes)


def restore(
    world: World, item: meta_pb2.Inode, parent: int = 0, name: bytes = b"",
    by: common_pb2.Credential | None = None,
) -> meta_pb2.Inode:
    return drive(world.meta.restore(meta_pb2.RestoreRequest(
        request_id=world.request_id(), credential=by or user(),
        directory=item.trashed.directory, time_ns=item.trashed.time_ns, inode_id=item.inode_id,
        parent=parent, name=name), CALL)).inode


def test_what_is_removed_below_comes_back(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    below = world.mkdir(b"d", top).inode_id
    set_trash(world, top)
    file = world.create(b"f", below, write=True, session=S).inode
    world.close(file.inode_id, S, 77)
    world.link(file.inode_id, b"g", below)
    world.unlink(b"f", below)
    assert items(world, top) == [], "it has another name"
    assert world.unlink(b"g", below).nlink == 0
    refused(Kind.NOT_FOUND, world.lookup, b"g", below)
    refused(Kind.NOT_FOUND, world.link, file.inode_id, b"h", below)
    world.file(b"other", below)
    world.rename(b"other", b"f", below, below)
    world.file(b"new", below)
    world.rename(b"new", b"f", below, below)
    world.pass_time(GRACE + 1)
    world.collect()
    first, second = items(world, top)
    assert (first.trashed.name, second.trashed.name, first.trashed.parent) == (b"g", b"f", below)
    world.file(b"g", below)
    refused(Kind.EXISTS, restore, world, first)
    back = restore(world, first, ROOT, b"back")
    assert (back.inode_id, back.nlink, back.length) == (file.inode_id, 1, 77)
    refused(Kind.NOT_FOUND, restore, world, first)
    world.unlink(b"back")
    assert [item.inode_id for item in items(world, top)] == [second.inode_id], "not below it"


def test_trees_come_back_whole(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    set_trash(world, top)
    tree = world.mkdir(b"tree", top).inode_id
    world.file(b"f", world.mkdir(b"d", tree).inode_id)
    world.set_xattr(tree, b"user.a", b"v")
    before = world.stat(tree)
    world.remove_tree(b"tree", top)
    refused(Kind.STALE_HANDLE, world.file, b"x", tree)
    world.collect()
    world.check()
    [item] = items(world, top)
    back = restore(world, item)
    assert world.names(tree) == [b"d"]
    assert world.get_xattr(tree, b"user.a") == b"v"
    assert (world.stat(tree).nlink, back.mode) == (before.nlink, before.mode)
    world.mkdir(b"empty", top)
    world.rmdir(b"empty", top)
    assert items(world, top) == [], "empty directories are not kept"


def test_it_expires(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    set_trash(world, top)
    for name in (b"a", b"b"):
        world.file(name, top)
    world.symlink(b"s", b"x", top)
    world.file(b"f", world.mkdir(b"tree", top).inode_id)
    world.unlink(b"a", top)
    world.unlink(b"s", top)
    world.remove_tree(b"tree", top)
    world.pass_time(KEEP / 2)
    world.unlink(b"b", top)
    set_trash(world, top, 0)
    assert world.collect().expired == 0
    world.pass_time(KEEP / 2 + 1)
    assert world.collect().expired == 3
    world.check()
    assert [item.trashed.name for item in items(world, top)] == [b"b"]
    world.pass_time(KEEP)
    for _ in range(3):
        world.pass_time(GRACE + 1)
        world.collect()
    assert world.keys(schema.TRASH) == world.keys(schema.TRASHED) == [], "it was disabled"
    assert world.inode_count() == 2


def test_the_nearest_policy_holds(world: World) -> None:
    outer = world.mkdir(b"o").inode_id
    inner = world.mkdir(b"i", outer).inode_id
    for directory in (outer, inner):
        set_trash(world, directory)
    world.file(b"f", inner)
    world.unlink(b"f", inner)
    assert (len(items(world, outer)), len(items(world, inner))) == (0, 1)
    set_trash(world, inner, 0)
    world.file(b"g", inner)
    world.unlink(b"g", inner)
    assert (len(items(world, outer)), len(items(world, inner))) == (1, 1)


def test_who_may(world: World) -> None:
    top = world.mkdir(b"t", mode=0o777).inode_id
    refused(Kind.NOT_PERMITTED, set_trash, world, top, KEEP, ALICE)
    refused(Kind.NOT_FOUND, set_trash, world, top, 0)
    set_trash(world, top)
    world.file(b"f", top, by=ALICE)
    world.unlink(b"f", top, by=ALICE)
    assert (len(items(world, top)), items(world, top, BOB)) == (1, [])
    [item] = items(world, top, ALICE)
    refused(Kind.NOT_PERMITTED, restore, world, item, by=BOB)
    refused(Kind.ACCESS_DENIED, restore, world, item, ROOT, by=ALICE)
    request = meta_pb2.EmptyTrashRequest(
        request_id=world.request_id(), credential=ALICE, inode_id=top)
    refused(Kind.NOT_PERMITTED, lambda: drive(world.meta.empty_trash(request, CALL)))
    restore(world, item, by=ALICE)
    world.unlink(b"f", top, by=BOB)
    request = meta_pb2.EmptyTrashRequest(
        request_id=world.request_id(), credential=user(), inode_id=top)
    assert drive(world.meta.empty_trash(request, CALL)).removed == 1
    assert len(world.keys(schema.ORPHAN)) == 1


def test_the_trash_counts_for_quotas(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    set_trash(world, top)
    world.set_quota(top)
    file = world.file(b"f", world.mkdir(b"tree", top).inode_id)
    world.truncate(file.inode_id, 50)
    world.remove_tree(b"tree", top)
    assert world.used(top) == (50, 2)
    [item] = items(world, top)
    restore(world, item)
    assert world.used(top) == (50, 3)
    world.remove_tree(b"tree", top)
    for _ in range(2):
        world.pass_time(KEEP + GRACE)
        world.collect()
    assert world.used(top) == (0, 1)
