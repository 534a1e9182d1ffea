"""Quota roots: usage is exact at every moment, limits hold, and walks may stop anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from luciole.errors import FsError, Kind
from luciole.meta.core import quota, schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_namespace import ALICE, refused
from luciole.tests.meta.world import CALL, GRACE, ROOT, World, user

S = b"s" * 16


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def filled(world: World, name: bytes, parent: int, length: int) -> meta_pb2.Inode:
    inode = world.create(name, parent, write=True, session=S).inode
    return world.close(inode.inode_id, S, length)


def test_what_is_made_below_counts(world: World) -> None:
    top = world.mkdir(b"q").inode_id
    assert not world.quota(top).inode_id
    world.set_quota(top)
    assert world.used(top) == (0, 1)
    below = world.mkdir(b"d", top).inode_id
    file = filled(world, b"f", below, 1000)
    world.symlink(b"s", b"12345", below)
    assert world.used(file.inode_id) == (1005, 4)
    assert not world.quota(top).pending
    world.link(file.inode_id, b"g", top)
    world.truncate(file.inode_id, 10)
    assert world.used(top) == (15, 4)
    world.open(file.inode_id, S, truncate=True)
    world.fsync(file.inode_id, S, 70, version=world.stat(file.inode_id).truncate_version)
    assert world.used(top) == (75, 4)
    world.unlink(b"f", below)
    world.unlink(b"g", top)
    assert world.used(top) == (75, 4), "it is open still"
    world.close(file.inode_id, S)
    world.pass_time(GRACE + 1)
    world.collect()
    assert world.used(top) == (5, 3)
    world.unlink(b"s", below)
    world.rmdir(b"d", top)
    assert world.used(top) == (0, 1)


def test_limits(world: World) -> None:
    top = world.mkdir(b"q").inode_id
    refused(Kind.NOT_PERMITTED, world.set_quota, top, 100, by=ALICE)
    refused(Kind.NOT_DIRECTORY, world.set_quota, world.file(b"f").inode_id, 100)
    world.set_quota(top, 100, 3)
    file = world.file(b"a", top)
    world.truncate(file.inode_id, 100)
    refused(Kind.QUOTA_EXCEEDED, world.truncate, file.inode_id, 101)
    refused(Kind.QUOTA_EXCEEDED, world.symlink, b"s", b"1", top)
    world.unnamed(S, top)
    for make in (world.mkdir, world.file):
        refused(Kind.QUOTA_EXCEEDED, make, b"b", top)
    refused(Kind.QUOTA_EXCEEDED, world.unnamed, b"t" * 16, top)
    world.set_quota(top, inodes=4)
    world.file(b"b", top)
    assert world.quota(top).bytes_limit == 100
    refused(Kind.QUOTA_EXCEEDED, world.rename, b"f", b"c", ROOT, top)
    shown = drive(world.meta.stat_fs(meta_pb2.StatRequest(inode_id=file.inode_id), CALL))
    assert (shown.capacity_bytes, shown.free_bytes, shown.inodes, shown.inodes_limit) == (
        100, 0, 4, 4)
    world.set_quota(top, 0, 0)
    world.truncate(file.inode_id, 5000)
    assert world.used(top) == (5000, 4)


def test_reports_count_whatever_the_limit(world: World) -> None:
    top = world.mkdir(b"q").inode_id
    world.set_quota(top, 100)
    file = filled(world, b"f", top, 150)
    assert world.used(top) == (150, 2)
    refused(Kind.QUOTA_EXCEEDED, world.truncate, file.inode_id, 151)
    world.truncate(file.inode_id, 20)


def test_between_roots(world: World) -> None:
    one, two = world.mkdir(b"1").inode_id, world.mkdir(b"2").inode_id
    for top in (one, two):
        world.set_quota(top)
    world.mkdir(b"d", one)
    file = filled(world, b"f", one, 40)
    for target in (two, ROOT):
        refused(Kind.CROSS_QUOTA, world.rename, b"d", b"x", one, target)
        refused(Kind.CROSS_QUOTA, world.link, file.inode_id, b"x", target)
    world.rename(b"f", b"g", one, two)
    assert (world.used(one), world.used(two)) == ((0, 2), (40, 2))
    world.mkdir(b"e", two)
    refused(Kind.CROSS_QUOTA, world.rename, b"d", b"e", one, two, exchange=True)
    world.file(b"f", one)
    world.rename(b"f", b"g", one, two, exchange=True)
    assert (world.used(one), world.used(two)) == ((40, 3), (0, 3))
    world.rename(b"f", b"g", one, two)
    assert world.used(two) == (40, 3 + 1), "the replaced file waits for its collection"
    world.pass_time(GRACE + 1)
    world.collect()
    assert world.used(two) == (40, 3)
    assert world.rename(b"2", b"3", ROOT, one).inode.quota_root == two, "a root may move"


def tree(world: World, width: int = 5) -> int:
    """q with directories of files, among them two names of one; returns its id."""
    top = world.mkdir(b"q").inode_id
    for index in range(3):
        below = world.mkdir(b"d%d" % index, top).inode_id
        for number in range(width):
            filled(world, b"f%d" % number, below, 10)
    world.link(world.lookup(b"f0", below).inode_id, b"again", top)
    return top


def test_a_full_tree_is_counted_in_the_background(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "BATCH", 2)
    top = tree(world)
    world.set_quota(top)
    assert world.quota(top).pending
    refused(Kind.BUSY, world.set_quota, world.mkdir(b"other").inode_id)
    steps = 0
    while drive(world.store.run(quota.walk_on)):
        world.check()  # true at every moment
        steps += 1
        if steps == 2:
            # What the walk has not reached may move ahead of it, or behind.
            world.rename(b"d2", b"a2", top, top)
            world.rename(b"again", b"Again", top, top)
            world.file(b"new", world.lookup(b"d1", top).inode_id)
    assert steps > 5
    assert not world.quota(top).pending
    assert world.used(top) == (150, 1 + 3 + 15 + 1)
    inner = world.lookup(b"d0", top).inode_id
    world.set_quota(inner)
    world.collect()
    assert (world.used(inner), world.used(top)) == ((50, 6), (100, 14))
    world.remove_quota(inner)
    world.collect()
    assert world.used(inner) == (150, 20)
    world.remove_quota(top)
    world.collect()
    for prefix in (schema.QUOTA, schema.BYTES_USED, schema.INODES_USED, schema.QUOTA_WALK_LIST,
                   schema.QUOTA_WALK):
        assert world.keys(prefix) == []
    refused(Kind.NOT_FOUND, world.remove_quota, top)


def test_a_root_that_is_removed_is_forgotten_when_nothing_counts(world: World) -> None:
    top = tree(world)
    world.set_quota(top)
    world.collect()
    world.remove_tree(b"q")
    world.collect()
    assert world.keys(schema.QUOTA), "its files wait for their grace period"
    world.pass_time(GRACE + 1)
    world.collect()
    world.collect()
    assert world.keys(schema.QUOTA) == world.keys(schema.BYTES_USED) == []


def test_creates_of_many_threads_are_counted_exactly(world: World) -> None:
    top = world.mkdir(b"q").inode_id
    world.set_quota(top, inodes=60)
    refusals: list[Kind] = []

    def work(number: int) -> None:
        client = bytes([number]) * 16
        server = (world.meta, world.other)[number % 2]
        for index in range(20):
            request_id = world.request_id(client)
            try:
                drive(server.create(meta_pb2.CreateRequest(
                    request_id=request_id, credential=user(), parent=top,
                    name=b"%d-%d" % (number, index), mode=0o644), CALL))
            except FsError as failure:
                refusals.append(failure.kind)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(refusals) == {Kind.QUOTA_EXCEEDED}
    # The 64th part of so small a quota is less than one: every read is checked.
    assert world.used(top) == (0, 60)
    assert len(refusals) == 80 - 59
