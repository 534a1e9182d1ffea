"""The tree beside the namespace, over a filesystem in memory: what is in it, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.side_tree import FIRST, NAME, ROOT_ID, Read
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

WHO = common_pb2.Credential(uid=0, gid=0)
READ = OpenFlags(read=True)
FILES = 5000  # more than a listing keeps
DATA = bytes(range(200))


class Numbers:
    """One directory of files that have the same bytes, and numbers as names."""

    def __init__(self) -> None:
        self.pages = 0

    async def inode(self, number: int) -> meta_pb2.Inode:
        if number == FIRST:
            return meta_pb2.Inode(inode_id=FIRST, type=meta_pb2.DIRECTORY, parent=ROOT_ID)
        return meta_pb2.Inode(
            inode_id=number, type=meta_pb2.REGULAR, parent=FIRST, length=len(DATA))

    async def lookup(self, parent: int, name: bytes) -> meta_pb2.Inode:
        if parent != FIRST or not name.isdigit() or int(name) >= FILES:
            raise FsError(Kind.NOT_FOUND, "no such number", repr(name))
        return await self.inode(FIRST + 1 + int(name))

    async def page(
        self, number: int, after: bytes, limit: int
    ) -> tuple[list[meta_pb2.DirEntry], bool]:
        self.pages += 1
        begin = int(after) + 1 if after else 0
        end = min(begin + limit, FILES)
        return [meta_pb2.DirEntry(
            dentry=meta_pb2.Dentry(name=b"%04d" % at, inode_id=FIRST + 1 + at,
                                   type=meta_pb2.REGULAR),
            inode=await self.inode(FIRST + 1 + at)) for at in range(begin, end)], end < FILES

    async def open(self, number: int) -> tuple[meta_pb2.Inode, Read]:
        async def read(offset: int, data: memoryview) -> None:
            data[:] = DATA[offset : offset + len(data)]

        return await self.inode(number), read


@pytest.fixture
def tree() -> Numbers:
    return Numbers()


@pytest.fixture
def operations(tree: Numbers) -> Operations:
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    return cluster.client(b"side tree client", None, tree=tree)


def kind_of(call: Callable[[], object]) -> int:
    with pytest.raises(FsError) as caught:
        call()
    return caught.value.kind


def names(operations: Operations, inode_id: int) -> list[bytes]:
    handle = drive(operations.opendir(WHO, inode_id))
    found: list[bytes] = []
    while (entry := drive(operations.readdir(handle, len(found)))) is not None:
        found.append(entry.dentry.name)
        if len(found) % 100 == 0:  # as bindings do for each request of the kernel
            drive(operations.refresh_listing(handle, len(found), 100))
    operations.releasedir(handle)
    return found


def test_the_name_leads_into_the_tree_and_is_not_listed(operations: Operations) -> None:
    assert drive(operations.lookup(WHO, ROOT_ID, NAME)).inode_id == FIRST
    drive(operations.mkdir(WHO, ROOT_ID, b"mine", 0o755))
    assert names(operations, ROOT_ID) == [b"mine"]
    mine = drive(operations.lookup(WHO, ROOT_ID, b"mine")).inode_id
    assert kind_of(lambda: drive(operations.lookup(WHO, mine, NAME))) == Kind.NOT_FOUND
    drive(operations.mkdir(WHO, mine, NAME, 0o755))
    assert drive(operations.lookup(WHO, mine, NAME)).inode_id < FIRST


def test_a_long_directory_is_listed_whole_in_few_pages(
    operations: Operations, tree: Numbers
) -> None:
    assert names(operations, FIRST) == [b"%04d" % number for number in range(FILES)]
    assert tree.pages == 5


def test_a_rewind_begins_anew(operations: Operations, tree: Numbers) -> None:
    handle = drive(operations.opendir(WHO, FIRST))
    assert tree.pages == 0
    for position in (3000, 0):
        drive(operations.refresh_listing(handle, position))
        entry = drive(operations.readdir(handle, position))
        assert entry is not None
        assert entry.dentry.name == b"%04d" % position


def test_files_are_read_up_to_their_end(operations: Operations) -> None:
    handle, inode = drive(operations.open(WHO, FIRST + 8, READ))
    assert handle >= FIRST
    assert inode.length == len(DATA)
    room = memoryview(bytearray(500))
    for offset, size in ((0, 50), (150, 100), (199, 5), (200, 5), (900, 5), (0, 500)):
        expected = DATA[offset : offset + size]
        assert bytes(drive(operations.read(handle, offset, size))) == expected
        assert bytes(drive(operations.read(handle, offset, size, room))) == expected
    assert drive(operations.seek(handle, 5, data=True)) == 5
    assert drive(operations.seek(handle, 5, data=False)) == 200
    assert drive(operations.seek(handle, 200, data=True)) is None
    drive(operations.flush(handle))
    drive(operations.fsync(handle))
    drive(operations.release(handle))
    assert kind_of(lambda: drive(operations.read(handle, 0, 5))) == Kind.NO_SESSION


def changes_of_names(
    operations: Operations, parent: int, name: bytes
) -> list[Callable[[], object]]:
    return [
        lambda: drive(operations.mkdir(WHO, parent, name, 0o755)),
        lambda: drive(operations.rmdir(WHO, parent, name)),
        lambda: drive(operations.unlink(WHO, parent, name)),
        lambda: drive(operations.symlink(WHO, parent, name, b"to")),
        lambda: drive(operations.make_node(
            meta_pb2.MakeNodeRequest(parent=parent, name=name, type=meta_pb2.FIFO)))]


def test_nothing_in_the_tree_changes(operations: Operations) -> None:
    file = FIRST + 1
    drive(operations.mkdir(WHO, ROOT_ID, b"mine", 0o755))
    rename = meta_pb2.RenameRequest
    changes: list[Callable[[], object]] = [
        lambda: drive(operations.open(WHO, file, OpenFlags(write=True))),
        lambda: drive(operations.open(WHO, file, OpenFlags(read=True, truncate=True))),
        lambda: drive(operations.create(WHO, FIRST, b"x", 0o644, flags=READ)),
        lambda: drive(operations.setattr(meta_pb2.SetAttrRequest(inode_id=file, mode=0))),
        lambda: drive(operations.link(WHO, file, ROOT_ID, b"x")),
        lambda: drive(operations.xattrs.set(meta_pb2.SetXattrRequest(inode_id=file, name=b"a"))),
        lambda: drive(operations.xattrs.remove(WHO, file, b"user.a")),
        lambda: drive(operations.rename(rename(
            parent=FIRST, name=b"0001", new_parent=ROOT_ID, new_name=b"x"))),
        lambda: drive(operations.rename(rename(
            parent=ROOT_ID, name=b"mine", new_parent=FIRST, new_name=b"x"))),
        lambda: drive(operations.rename(rename(
            parent=ROOT_ID, name=b"mine", new_parent=ROOT_ID, new_name=NAME)))]
    changes += changes_of_names(operations, FIRST, b"x")
    changes += changes_of_names(operations, ROOT_ID, NAME)
    assert [kind_of(change) for change in changes] == [Kind.READ_ONLY] * len(changes)
    assert names(operations, ROOT_ID) == [b"mine"]


def test_locks_and_attributes_are_refused(operations: Operations) -> None:
    handle, _ = drive(operations.open(WHO, FIRST + 1, READ))
    assert kind_of(lambda: drive(operations.lock(
        handle, meta_pb2.FileLock()))) == Kind.NOT_SUPPORTED
    assert drive(operations.xattrs.list(WHO, FIRST + 1)) == []
    assert kind_of(lambda: drive(operations.xattrs.get(
        WHO, FIRST + 1, b"user.a"))) == Kind.NO_ATTRIBUTE
    assert drive(operations.statfs(FIRST + 1)) == drive(operations.statfs())
