"""What chunks, ids, locks and caches are owed when the store loses its last commits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import drive
from luciole.tests.kv.power import Disk, opened, reopened
from luciole.tests.kv.test_power_loss import MEMORY
from luciole.tests.meta.world import CALL, GRACE, ROOT, FakeChunks, World

S = b"s" * 16


class WatchedChunks(FakeChunks):
    """Calls `before` ahead of every removal."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] = lambda: None

    async def trim(
        self, inode: meta_pb2.Inode, pending: Callable[..., object]
    ) -> None:
        async def watched() -> bool:
            result = await pending()  # type: ignore[misc]
            self.before()
            return bool(result)

        await super().trim(inode, watched)

    async def remove_all(
        self, inodes: Sequence[meta_pb2.Inode], *, everywhere: bool = False
    ) -> None:
        self.before()
        await super().remove_all(inodes, everywhere=everywhere)


class Machine:
    """A namespace on an embedded store that flushes only when it is told to."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._store = opened(place)
        self._disk = Disk(place / "kv")
        sync = self._store._checkpoints._sync

        def watched() -> None:
            sync()
            self._disk.synced()

        self._store._checkpoints._sync = watched  # type: ignore[method-assign]
        self._losses: list[World] = []
        self.world = World(kv=self._store)
        self.chunks = WatchedChunks()
        self.world.chunks = self.chunks
        self.world.meta = self.world.service()
        self.world.collector = type(self.world.collector)(
            self._store, self.world.runtime, self.chunks, self.world.cluster, grace_seconds=GRACE)

    def lose_power(self) -> World:
        """What another start of the machine would find if the power went now."""
        number = len(self._losses)
        self._disk.look()
        found = self._place / f"found{number}"
        self._disk.cut(found, number)
        self._losses.append(World(kv=reopened(found)))
        return self._losses[-1]

    def close(self) -> None:
        for world in self._losses:
            world.kv.close()
        self._store.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        machine = Machine(Path(name))
        yield machine
        machine.close()


def length_of(world: World, name: bytes) -> int | None:
    """The length of a file, None when there is no such name."""
    def look() -> int:
        return drive(world.meta.lookup(meta_pb2.LookupRequest(
            credential=common_pb2.Credential(), parent=ROOT, name=name), CALL)).inode.length

    entries = drive(world.meta.read_dir(meta_pb2.ReadDirRequest(
        credential=common_pb2.Credential(), inode_id=ROOT), CALL)).entries
    return look() if name in {entry.dentry.name for entry in entries} else None


def flush(world: World) -> None:
    drive(world.meta.fsync(meta_pb2.FsyncRequest(inode_id=ROOT), CALL))


def test_fsync_keeps_name_and_length(machine: Machine) -> None:
    world = machine.world
    flush(world)
    inode = world.create(b"a", write=True, session=S).inode
    assert length_of(machine.lose_power(), b"a") is None, "this test can tell"
    drive(world.meta.fsync(meta_pb2.FsyncRequest(
        request_id=world.request_id(), inode_id=inode.inode_id, session_id=S, report_only=True,
        hint=meta_pb2.LengthHint(length=50)), CALL))
    assert length_of(machine.lose_power(), b"a") is None
    world.fsync(inode.inode_id, S, 100)
    assert length_of(machine.lose_power(), b"a") == 100


def test_fsync_of_a_directory_keeps_all_names(machine: Machine) -> None:
    world = machine.world
    world.file(b"a")
    world.rename(b"a", b"b")
    flush(world)
    world.unlink(b"b")
    found = machine.lose_power()
    assert (length_of(found, b"a"), length_of(found, b"b")) == (None, 0)


def test_chunks_go_when_the_removal_cannot_be_lost(machine: Machine) -> None:
    world = machine.world
    seen: list[int | None] = []
    machine.chunks.before = lambda: seen.append(length_of(machine.lose_power(), b"a"))
    inode = world.create(b"a", write=True, session=S).inode
    world.fsync(inode.inode_id, S, 100)
    machine.chunks.ends[inode.inode_id] = 100
    world.truncate(inode.inode_id, 30)
    assert seen == [30]
    world.close(inode.inode_id, S)
    world.unlink(b"a")
    assert length_of(machine.lose_power(), b"a") == 30
    for _ in range(3):
        world.pass_time(GRACE + 1)
        world.collect()
    assert machine.chunks.ends == {}
    assert set(seen[1:]) == {None}


def test_inode_ids_do_not_come_again(machine: Machine) -> None:
    flush(machine.world)
    lost = {machine.world.file(b"%d" % number).inode_id for number in range(5)}
    found = machine.lose_power()
    again = {found.file(b"%d" % number).inode_id for number in range(5)}
    assert not lost & again


def test_locks_outlive_the_power(machine: Machine) -> None:
    def lock(world: World, client: bytes) -> bool:
        wanted = meta_pb2.FileLock(client_id=client, owner=1, write=True, last=9)
        return drive(world.meta.lock(meta_pb2.LockRequest(
            request_id=world.request_id(client), inode_id=inode.inode_id, lock=wanted),
            CALL)).granted

    inode = machine.world.file(b"a")
    assert lock(machine.world, b"a" * 16)
    assert not lock(machine.lose_power(), b"b" * 16)


def test_a_cache_that_heard_of_lost_changes_forgets_all(machine: Machine) -> None:
    def ask(world: World, after: bytes) -> meta_pb2.WatchReply:
        return drive(world.meta.watch(meta_pb2.WatchRequest(
            client_id=b"m" * 16, after=after), CALL))

    world = machine.world
    world.file(b"a")
    flush(world)
    kept = ask(world, b"").next
    world.file(b"b")
    lost = ask(world, kept).next
    found = machine.lose_power()
    found.file(b"c")
    assert not ask(found, kept).lost
    reply = ask(found, lost)
    assert reply.lost
    assert not ask(found, reply.next).lost
