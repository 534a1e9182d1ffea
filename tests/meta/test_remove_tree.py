"""Removing trees: at once for the caller, page by page behind him."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luciole.errors import Kind
from luciole.meta.core import remove_tree, schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_namespace import ALICE, BOB, refused
from luciole.tests.meta.world import CALL, GRACE, ROOT, World

S = b"s" * 16


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def clean(world: World) -> None:
    """Everything that may go is gone."""
    for _ in range(3):
        world.pass_time(GRACE + 1)
        world.collect()
    for prefix in (schema.DETACHED, schema.ORPHAN, schema.GARBAGE):
        assert world.keys(prefix) == []


def test_a_tree_goes_in_one_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove_tree, "BATCH", 3)
    top = world.mkdir(b"t").inode_id
    deepest = top
    for _ in range(30):
        deepest = world.mkdir(b"deeper", deepest).inode_id
    for index in range(20):
        world.file(b"f%d" % index, deepest)
    kept = world.file(b"kept", deepest)
    world.link(kept.inode_id, b"elsewhere")
    world.symlink(b"s", b"t", top)
    assert world.remove_tree(b"t").nlink == 0
    assert world.names() == [b"elsewhere"]
    refused(Kind.NOT_FOUND, world.lookup, b"t")
    refused(Kind.STALE_HANDLE, world.file, b"x", top)
    refused(Kind.STALE_HANDLE, world.lookup, b"deeper", top)
    assert world.stat(ROOT).nlink == 2
    scanned = drive(world.meta.scan_garbage(meta_pb2.ScanRequest(), CALL))
    assert list(scanned.garbage) == [top], "fsck sees what the entries belong to"
    done = world.collect()
    assert done.taken_apart == 52
    assert world.stat(kept.inode_id).nlink == 1
    clean(world)
    assert world.inode_count() == 2


def test_every_page_is_a_step_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove_tree, "BATCH", 2)
    top = world.mkdir(b"t").inode_id
    file = world.file(b"a", top)
    world.link(file.inode_id, b"b", top)  # two names on one page
    for name in (b"c", b"d", b"e"):
        world.mkdir(name, top)
    world.remove_tree(b"t")
    for expected in (2, 2, 1, 0):
        assert drive(world.store.run(
            lambda txn: remove_tree.take_apart(txn, top, world.now_ns))) == expected
    assert len(world.keys(schema.DETACHED)) == 3
    clean(world)
    assert world.inode_count() == 1


def test_open_files_live_on(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    file = world.create(b"f", top, write=True, session=S).inode
    world.remove_tree(b"t")
    world.pass_time(GRACE + 1)
    world.collect()
    world.pass_time(GRACE + 1)
    world.collect()
    assert world.fsync(file.inode_id, S, 10).length == 10
    world.close(file.inode_id, S)
    clean(world)
    assert world.inode_count() == 1


def test_who_may(world: World) -> None:
    shared = world.mkdir(b"shared", mode=0o777).inode_id
    sticky = world.mkdir(b"sticky", mode=0o1777).inode_id
    closed = world.mkdir(b"closed").inode_id
    for parent in (shared, sticky):
        world.mkdir(b"t", parent, by=ALICE)
        refused(Kind.NOT_PERMITTED, world.remove_tree, b"t", parent, by=BOB)
    world.mkdir(b"t", closed)
    refused(Kind.ACCESS_DENIED, world.remove_tree, b"t", closed, by=ALICE)
    world.file(b"f", shared, by=ALICE)
    refused(Kind.NOT_DIRECTORY, world.remove_tree, b"f", shared, by=ALICE)
    refused(Kind.NOT_FOUND, world.remove_tree, b"absent", shared, by=ALICE)
    for parent in (shared, sticky):
        world.remove_tree(b"t", parent, by=ALICE)
    world.remove_tree(b"t", closed)
    clean(world)


def test_what_moves_out_in_time_is_saved(world: World) -> None:
    top = world.mkdir(b"t").inode_id
    below = world.mkdir(b"d", top).inode_id
    world.file(b"f", below)
    world.mkdir(b"e", below)
    world.mkdir(b"outside")
    world.remove_tree(b"t")
    world.rename(b"f", b"saved", below, ROOT)
    refused(Kind.STALE_HANDLE, world.rename, b"outside", b"x", ROOT, below)
    clean(world)
    assert world.names() == [b"outside", b"saved"]
