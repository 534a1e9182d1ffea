"""POSIX outcomes of every namespace operation: errors and effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.limits import NAME_BYTES_MAX, SYMLINK_BYTES_MAX
from luciole.meta.core import schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, ROOT, World, user


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def refused(kind: Kind, call: Callable[..., object], *args: object, **options: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args, **options)
    assert caught.value.kind == kind, caught.value


ALICE, BOB = user(1000, 100), user(2000, 200)


def test_names(world: World) -> None:
    longest = b"n" * NAME_BYTES_MAX
    makers: list[Callable[[bytes], object]] = [
        world.mkdir, world.file, lambda name: world.symlink(name, b"t"),
        lambda name: world.link(world.lookup(b"f").inode_id, name),
        lambda name: world.rename(b"f", name),
    ]
    world.file(b"f")
    for make in makers:
        refused(Kind.NAME_TOO_LONG, make, longest + b"n")
        for name in (b"", b".", b"..", b"a/b", b"a\0b"):
            refused(Kind.INVALID_ARGUMENT, make, name)
    world.mkdir(longest)
    world.file(b"\xff\xfe raw \x01")
    assert world.names() == [b"f", longest, b"\xff\xfe raw \x01"]
    refused(Kind.NAME_TOO_LONG, world.lookup, longest + b"n")
    refused(Kind.NOT_FOUND, world.lookup, b"absent")


def test_taken_and_missing_names(world: World) -> None:
    world.mkdir(b"d")
    file = world.file(b"f")
    for name in (b"d", b"f"):
        refused(Kind.EXISTS, world.mkdir, name)
        refused(Kind.EXISTS, world.symlink, name, b"t")
        refused(Kind.EXISTS, world.link, file.inode_id, name)
        refused(Kind.EXISTS, world.create, name, exclusive=True)
    for call in (world.unlink, world.rmdir, world.lookup):
        refused(Kind.NOT_FOUND, call, b"absent")
    refused(Kind.NOT_FOUND, world.rename, b"absent", b"new")
    refused(Kind.NOT_DIRECTORY, world.mkdir, b"x", file.inode_id)
    refused(Kind.NOT_DIRECTORY, world.file, b"x", file.inode_id)
    refused(Kind.NOT_DIRECTORY, world.lookup, b"x", file.inode_id)
    refused(Kind.NOT_DIRECTORY, world.names, file.inode_id)
    refused(Kind.NOT_DIRECTORY, world.rmdir, b"f")
    refused(Kind.IS_DIRECTORY, world.unlink, b"d")
    refused(Kind.STALE_HANDLE, world.stat, 999_999)
    refused(Kind.STALE_HANDLE, world.mkdir, b"x", 999_999)


def test_a_removed_directory_takes_no_entries(world: World) -> None:
    gone = world.mkdir(b"d")
    world.rmdir(b"d")
    refused(Kind.STALE_HANDLE, world.file, b"x", gone.inode_id)
    refused(Kind.STALE_HANDLE, world.mkdir, b"x", gone.inode_id)
    assert world.inode_count() == 1


def test_directories_count_their_subdirectories(world: World) -> None:
    top = world.mkdir(b"d")
    assert top.nlink == 2
    for name in (b"a", b"b"):
        world.mkdir(name, top.inode_id)
    world.file(b"f", top.inode_id)
    assert world.stat(top.inode_id).nlink == 4
    refused(Kind.NOT_EMPTY, world.rmdir, b"d")
    assert world.rmdir(b"a", top.inode_id).nlink == 0
    assert world.stat(top.inode_id).nlink == 3
    assert world.stat(ROOT).nlink == 3
    assert world.lookup(b"..", top.inode_id).inode_id == ROOT
    assert world.lookup(b".", top.inode_id).inode_id == top.inode_id
    assert world.lookup(b"..").inode_id == ROOT


def test_links(world: World) -> None:
    directory, file = world.mkdir(b"d"), world.file(b"f")
    assert world.link(file.inode_id, b"g", directory.inode_id).nlink == 2
    assert world.unlink(b"f").nlink == 1
    assert world.lookup(b"g", directory.inode_id).inode_id == file.inode_id
    refused(Kind.NOT_PERMITTED, world.link, directory.inode_id, b"e")
    assert world.unlink(b"g", directory.inode_id).nlink == 0
    refused(Kind.NOT_FOUND, world.link, file.inode_id, b"h")
    link = world.symlink(b"s", b"where/it leads")
    assert (link.length, link.mode) == (14, 0o777)
    read = drive(world.meta.read_link(meta_pb2.StatRequest(inode_id=link.inode_id), CALL))
    assert read.inode.symlink == b"where/it leads"
    with pytest.raises(FsError) as caught:
        drive(world.meta.read_link(meta_pb2.StatRequest(inode_id=directory.inode_id), CALL))
    assert caught.value.kind == Kind.INVALID_ARGUMENT
    refused(Kind.NAME_TOO_LONG, world.symlink, b"t", b"")
    refused(Kind.NAME_TOO_LONG, world.symlink, b"t", b"x" * (SYMLINK_BYTES_MAX + 1))
    world.symlink(b"t", b"x" * SYMLINK_BYTES_MAX)
    world.unlink(b"s")
    refused(Kind.STALE_HANDLE, world.stat, link.inode_id)


def test_the_link_limit() -> None:
    world = World()
    file = world.file(b"f")

    async def crowd(txn: Transaction) -> None:
        file.nlink = schema.LINKS_MAX - 1
        txn.set(schema.inode_key(file.inode_id), schema.encode(file))

    drive(world.store.run(crowd))
    assert world.link(file.inode_id, b"g").nlink == schema.LINKS_MAX
    refused(Kind.TOO_MANY_LINKS, world.link, file.inode_id, b"h")


def test_who_may_do_what(world: World) -> None:
    """EACCES where the bits forbid, EPERM where only an owner or root may."""
    home = world.mkdir(b"home", mode=0o755, by=user())
    world.set_attr(meta_pb2.SetAttrRequest(inode_id=home.inode_id, uid=1000, gid=100))
    at = home.inode_id
    for call in (world.mkdir, world.file):
        refused(Kind.ACCESS_DENIED, call, b"x", at, by=BOB)
    file = world.file(b"f", at, 0o640, by=ALICE)
    assert (file.uid, file.gid, file.mode) == (1000, 100, 0o640)
    refused(Kind.ACCESS_DENIED, world.unlink, b"f", at, by=BOB)
    refused(Kind.ACCESS_DENIED, world.rename, b"f", b"g", at, at, by=BOB)
    refused(Kind.ACCESS_DENIED, world.open, file.inode_id, b"", write=False, by=BOB)
    world.open(file.inode_id, b"", write=False, by=user(3000, 3000, 100))
    refused(Kind.ACCESS_DENIED, world.truncate, file.inode_id, 0, by=user(3000, 3000, 100))
    refused(Kind.NOT_PERMITTED, world.set_attr, meta_pb2.SetAttrRequest(
        inode_id=file.inode_id, mode=0o777), by=BOB)
    refused(Kind.NOT_PERMITTED, world.set_attr, meta_pb2.SetAttrRequest(
        inode_id=file.inode_id, uid=2000), by=ALICE)
    refused(Kind.NOT_PERMITTED, world.set_attr, meta_pb2.SetAttrRequest(
        inode_id=file.inode_id, gid=999), by=ALICE)
    refused(Kind.NOT_PERMITTED, world.set_attr, meta_pb2.SetAttrRequest(
        inode_id=file.inode_id, mtime_ns=5), by=BOB)
    refused(Kind.ACCESS_DENIED, world.set_attr, meta_pb2.SetAttrRequest(
        inode_id=file.inode_id, mtime_now=True), by=BOB)
    world.set_attr(meta_pb2.SetAttrRequest(inode_id=at, mode=0o700), by=ALICE)
    refused(Kind.ACCESS_DENIED, world.lookup, b"f", at, by=BOB)
    refused(Kind.ACCESS_DENIED, world.names, at, by=BOB)
    assert world.lookup(b"f", at, by=user()).inode_id == file.inode_id


def test_sticky_directories(world: World) -> None:
    tmp = world.mkdir(b"tmp", mode=0o1777).inode_id
    world.file(b"alice", tmp, by=ALICE)
    world.file(b"bob", tmp, by=BOB)
    refused(Kind.NOT_PERMITTED, world.unlink, b"alice", tmp, by=BOB)
    refused(Kind.NOT_PERMITTED, world.rename, b"alice", b"x", tmp, tmp, by=BOB)
    refused(Kind.NOT_PERMITTED, world.rename, b"bob", b"alice", tmp, tmp, by=BOB)
    refused(Kind.NOT_PERMITTED, world.rename, b"bob", b"alice", tmp, tmp, by=BOB, exchange=True)
    world.mkdir(b"d", tmp, by=ALICE)
    refused(Kind.NOT_PERMITTED, world.rmdir, b"d", tmp, by=BOB)
    world.rmdir(b"d", tmp, by=ALICE)
    world.unlink(b"alice", tmp, by=ALICE)
    world.unlink(b"bob", tmp)


def test_set_group_id(world: World) -> None:
    shared = world.mkdir(b"s", mode=0o2777)
    world.set_attr(meta_pb2.SetAttrRequest(inode_id=shared.inode_id, gid=500))
    assert world.stat(shared.inode_id).mode == 0o2777
    file = world.file(b"f", shared.inode_id, by=ALICE)
    assert (file.gid, file.mode & 0o7000) == (500, 0)
    below = world.mkdir(b"d", shared.inode_id, mode=0o755, by=ALICE)
    assert (below.gid, below.mode) == (500, 0o2755)
    changed = world.set_attr(
        meta_pb2.SetAttrRequest(inode_id=file.inode_id, mode=0o2755), by=ALICE)
    assert changed.mode == 0o755, "the caller is not of the file's group"
    member = user(1000, 100, 500)
    set_ids = meta_pb2.SetAttrRequest(inode_id=file.inode_id, mode=0o6755)
    assert world.set_attr(set_ids, by=member).mode == 0o6755
    assert world.truncate(file.inode_id, 0, by=member).mode == 0o755
    assert world.set_attr(set_ids, by=member).mode == 0o6755
    assert world.set_attr(
        meta_pb2.SetAttrRequest(inode_id=file.inode_id, gid=100), by=member).mode == 0o755


def test_times(world: World) -> None:
    start = world.now_ns
    directory = world.mkdir(b"d")
    assert directory.btime_ns == directory.mtime_ns == directory.ctime_ns > start
    file = world.file(b"f", directory.inode_id)
    parent = world.stat(directory.inode_id)
    assert parent.mtime_ns == parent.ctime_ns == file.btime_ns
    assert parent.atime_ns == directory.atime_ns
    world.link(file.inode_id, b"g", directory.inode_id)
    linked = world.stat(file.inode_id)
    assert linked.ctime_ns > file.ctime_ns
    assert linked.mtime_ns == file.mtime_ns
    world.rename(b"g", b"h", directory.inode_id)
    assert world.stat(ROOT).mtime_ns == world.stat(directory.inode_id).mtime_ns
    assert world.stat(file.inode_id).ctime_ns == world.stat(ROOT).mtime_ns
    for inode_id in (file.inode_id, directory.inode_id):
        set_by_hand = world.set_attr(
            meta_pb2.SetAttrRequest(inode_id=inode_id, atime_ns=5, mtime_ns=7))
        assert (set_by_hand.atime_ns, set_by_hand.mtime_ns) == (5, 7)
        seen = world.stat(inode_id)
        assert (seen.atime_ns, seen.mtime_ns, seen.ctime_ns) == (5, 7, world.now_ns)
        now = world.set_attr(meta_pb2.SetAttrRequest(
            inode_id=inode_id, atime_now=True, mtime_now=True))
        assert now.atime_ns == now.mtime_ns == world.now_ns


def test_rename_replaces(world: World) -> None:
    a, b = world.file(b"a"), world.file(b"b")
    reply = world.rename(b"a", b"b")
    assert (reply.inode.inode_id, reply.replaced.inode_id) == (a.inode_id, b.inode_id)
    assert reply.replaced.nlink == 0
    assert world.names() == [b"b"]
    world.link(a.inode_id, b"c")
    reply = world.rename(b"b", b"c")
    assert not reply.HasField("replaced")
    assert world.names() == [b"b", b"c"], "two names of one file: nothing happens"
    world.rename(b"b", b"b")
    refused(Kind.EXISTS, world.rename, b"b", b"c", no_replace=True)
    world.rename(b"b", b"d", no_replace=True)
    assert world.names() == [b"c", b"d"]
    refused(Kind.INVALID_ARGUMENT, world.rename, b"c", b"d", no_replace=True, exchange=True)


def test_rename_of_directories(world: World) -> None:
    a, b = world.mkdir(b"a"), world.mkdir(b"b")
    inner = world.mkdir(b"i", a.inode_id)
    world.file(b"f")
    refused(Kind.LOOP, world.rename, b"a", b"x", ROOT, inner.inode_id)
    refused(Kind.LOOP, world.rename, b"a", b"x", ROOT, a.inode_id)
    refused(Kind.NOT_EMPTY, world.rename, b"b", b"a")
    refused(Kind.IS_DIRECTORY, world.rename, b"f", b"b")
    refused(Kind.NOT_DIRECTORY, world.rename, b"b", b"f")
    world.rename(b"i", b"i", a.inode_id, b.inode_id)
    assert world.lookup(b"..", inner.inode_id).inode_id == b.inode_id
    assert world.stat(a.inode_id).nlink == 2
    assert world.stat(b.inode_id).nlink == 3
    reply = world.rename(b"b", b"a")
    assert reply.replaced.nlink == 0
    assert world.stat(ROOT).nlink == 3
    assert world.names() == [b"a", b"f"]
    refused(Kind.STALE_HANDLE, world.stat, a.inode_id)


def test_moving_another_s_directory_needs_write_permission_on_it(world: World) -> None:
    one, two = (world.mkdir(name, mode=0o777).inode_id for name in (b"1", b"2"))
    world.mkdir(b"d", one, mode=0o755, by=ALICE)
    refused(Kind.ACCESS_DENIED, world.rename, b"d", b"d", one, two, by=BOB)
    world.rename(b"d", b"e", one, one, by=BOB)
    world.rename(b"e", b"d", one, two, by=ALICE)


def test_rename_exchange(world: World) -> None:
    a = world.mkdir(b"a")
    inner = world.mkdir(b"i", a.inode_id)
    file = world.file(b"f")
    refused(Kind.NOT_FOUND, world.rename, b"f", b"none", exchange=True)
    refused(Kind.LOOP, world.rename, b"a", b"i", ROOT, a.inode_id, exchange=True)
    refused(Kind.LOOP, world.rename, b"i", b"a", a.inode_id, ROOT, exchange=True)
    world.rename(b"f", b"i", ROOT, a.inode_id, exchange=True)
    assert world.lookup(b"f").inode_id == inner.inode_id
    assert world.lookup(b"i", a.inode_id).inode_id == file.inode_id
    assert world.lookup(b"..", inner.inode_id).inode_id == ROOT
    assert (world.stat(ROOT).nlink, world.stat(a.inode_id).nlink) == (4, 2)
    world.rename(b"a", b"f", exchange=True)
    assert world.lookup(b"a").inode_id == inner.inode_id


def test_create_opens_what_is_there(world: World) -> None:
    first = world.create(b"f", mode=0o600, by=user())
    assert first.created
    again = world.create(b"f", write=True, session=b"s" * 16)
    assert not again.created
    assert again.inode.inode_id == first.inode.inode_id
    refused(Kind.ACCESS_DENIED, world.create, b"f", by=BOB, write=True)
    world.mkdir(b"d")
    refused(Kind.IS_DIRECTORY, world.create, b"d", write=True)
    world.symlink(b"s", b"f")
    refused(Kind.INVALID_ARGUMENT, world.create, b"s")


def test_pages_and_batches(world: World) -> None:
    made = {b"%03d" % n: world.file(b"%03d" % n).inode_id for n in range(20)}
    assert world.names() == sorted(made)
    reply = drive(world.meta.batch_stat(
        meta_pb2.BatchStatRequest(inode_ids=[*made.values(), 999_999]), CALL))
    assert [inode.inode_id for inode in reply.inodes] == [*made.values(), 0]
    page = drive(world.meta.read_dir(meta_pb2.ReadDirRequest(
        credential=user(), inode_id=ROOT, with_inodes=True), CALL))
    assert [entry.inode.inode_id for entry in page.entries] == list(made.values())
    assert not page.more
