"""Many lookups at once: each as one alone, and as many as are allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luciole.errors import FsError, Kind
from luciole.limits import LOOKUPS_MAX
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, World, user

ALICE = user(1000)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()


def ask(world: World, names: list[tuple[int, bytes]]) -> list[meta_pb2.FoundName]:
    return list(drive(world.meta.lookup_many(meta_pb2.LookupManyRequest(
        credential=ALICE, with_content=True,
        names=[meta_pb2.ChangedEntry(parent=parent, name=name) for parent, name in names]),
        CALL)).found)


def test_each_has_a_result_of_its_own(world: World) -> None:
    file = world.file(b"f", mode=0o644)
    closed = world.mkdir(b"closed", mode=0o700)
    inner = world.file(b"inner", parent=closed.inode_id)
    assert inner.inode_id
    found = ask(world, [(1, b"f"), (1, b"none"), (closed.inode_id, b"inner"), (1, b"."),
                        (file.inode_id, b"x"), (1, b"a/b")])
    assert [one.error.kind for one in found] == [
        0, Kind.NOT_FOUND, Kind.ACCESS_DENIED, 0, Kind.NOT_DIRECTORY, Kind.INVALID_ARGUMENT]
    assert found[0].inode == world.stat(file.inode_id)
    assert found[3].inode.inode_id == 1


def test_too_many_are_refused(world: World) -> None:
    assert len(ask(world, [(1, b"none")] * LOOKUPS_MAX)) == LOOKUPS_MAX
    with pytest.raises(FsError) as caught:
        ask(world, [(1, b"none")] * (LOOKUPS_MAX + 1))
    assert caught.value.kind == Kind.INVALID_ARGUMENT
