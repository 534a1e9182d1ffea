"""The feed of changes: everything that another client may have cached is told, once, in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from luciole.errors import FsError
from luciole.meta.core import changes
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, World, user

Told = tuple[set[int], set[tuple[int, bytes]]]
READER = b"somebody else..."


class Listener:
    """A client that caches."""

    def __init__(self, world: World, client_id: bytes = READER) -> None:
        self._world = world
        self._client_id = client_id
        self._after = b""
        self.hear()

    def hear(self) -> meta_pb2.WatchReply:
        reply = drive(self._world.other.watch(meta_pb2.WatchRequest(
            client_id=self._client_id, after=self._after, wait_ms=0), CALL))
        self._after = reply.next
        return reply

    def told(self) -> Told:
        """Inodes and names of everything that is told."""
        found = self.hear().changes
        return ({inode_id for change in found for inode_id in change.inode_ids},
                {(entry.parent, entry.name) for change in found for entry in change.entries})


@pytest.fixture
def world() -> World:
    return World()


def test_every_kind_of_change_is_told(world: World) -> None:
    listener = Listener(world)
    made = world.create(b"f").inode
    assert listener.told() == ({1, made.inode_id}, {(1, b"f")})
    steps: list[tuple[Callable[[], object], set[int], set[tuple[int, bytes]]]] = [
        (lambda: world.set_attr(
            meta_pb2.SetAttrRequest(inode_id=made.inode_id, mode=0o600)), {made.inode_id}, set()),
        (lambda: world.truncate(made.inode_id, 10), {made.inode_id}, set()),
        (lambda: world.rename(b"f", b"g"), {1, made.inode_id}, {(1, b"f"), (1, b"g")}),
        (lambda: world.unlink(b"g"), {1, made.inode_id}, {(1, b"g")}),
    ]
    for step, inodes, names in steps:
        step()
        assert listener.told() == (inodes, names)
    assert listener.told() == (set(), set())


def test_a_client_s_own_changes_are_left_out(world: World) -> None:
    own, other = Listener(world, b"c" * 16), Listener(world)
    world.create(b"f")
    assert own.told() == (set(), set())
    assert other.told()[1] == {(1, b"f")}


def test_what_was_refused_or_repeated_changes_nothing(world: World) -> None:
    request = meta_pb2.MakeDirRequest(
        request_id=world.request_id(), credential=user(), parent=1, name=b"d", mode=0o755)
    drive(world.meta.make_dir(request, CALL))
    listener = Listener(world)
    drive(world.other.make_dir(request, CALL))
    with pytest.raises(FsError):
        world.mkdir(b"d")
    assert listener.told() == (set(), set())


def test_who_comes_after_the_feed_was_trimmed_is_told_so(world: World) -> None:
    listener, late = Listener(world), Listener(world)
    world.create(b"f")
    assert listener.told()[1]
    world.runtime.manual.advance(changes.KEEP_NS / 1e9 + 1)
    drive(world.collector.run_once())
    assert not listener.hear().lost
    assert late.hear().lost
    world.create(b"g")
    assert late.told()[1] == {(1, b"g")}
