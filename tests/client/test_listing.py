"""A listing's window: every entry once, seeks, removals meanwhile, and bounded memory."""

from __future__ import annotations

from random import Random

from luciole.client.listing import MARK_EVERY, WINDOW_MAX, DirectoryHandle
from luciole.client.listings import DIRECTORY_PAGE
from luciole.client.operations import Operations
from luciole.kv.interface import Transaction
from luciole.meta.core import inodes
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

MANY = 20_000
WHO = common_pb2.Credential(uid=0, gid=0)
ROOT = 1


def name_of(number: int) -> bytes:
    return b"entry-%06d" % number


def full_directory(count: int) -> tuple[Operations, int]:
    """A directory with that many entries, all leading to one symbolic link."""
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    mount = cluster.client(b"lists 20000 here", None)
    place = drive(mount.mkdir(WHO, ROOT, b"d", 0o755)).inode_id
    link = drive(mount.symlink(WHO, ROOT, b"l", b"t"))

    async def fill(txn: Transaction) -> None:
        link.nlink += count
        inodes.store(txn, link)
        for number in range(count):
            inodes.add_dentry(txn, place, name_of(number), link)

    drive(cluster.store.run(fill))
    return mount, place


def shown(mount: Operations, handle: int, position: int) -> bytes | None:
    entry = drive(mount.readdir(handle, position))
    return None if entry is None else entry.dentry.name


def check_bounds(listing: DirectoryHandle) -> None:
    assert len(listing.entries) <= WINDOW_MAX + DIRECTORY_PAGE
    assert len(listing.marks) <= MANY // MARK_EVERY + 1


def test_every_entry_once_in_a_bounded_window() -> None:
    mount, place = full_directory(MANY)
    handle = drive(mount.opendir(WHO, place))
    listing = mount.directory(handle)
    for position in range(MANY):
        assert shown(mount, handle, position) == name_of(position)
        check_bounds(listing)
    assert shown(mount, handle, MANY) is None
    chance = Random(1)
    for position in [0, MANY - 1, MARK_EVERY, *(chance.randrange(MANY) for _ in range(12))]:
        assert shown(mount, handle, position) == name_of(position)
        if chance.random() < 0.5:
            drive(mount.refresh_listing(handle, position, 30))
            assert shown(mount, handle, position) == name_of(position)
        check_bounds(listing)
    drive(mount.refresh_listing(handle, MANY + 5))
    assert shown(mount, handle, MANY + 5) is None


def test_nothing_is_passed_over_when_what_was_read_is_removed() -> None:
    """As rm -r does it: some entries are read and removed, then the reading goes on."""
    mount, place = full_directory(3000)
    handle = drive(mount.opendir(WHO, place))
    position = 0
    removed: list[bytes] = []
    while True:
        drive(mount.refresh_listing(handle, position, 100))
        batch: list[bytes] = []
        while len(batch) < 70 and (name := shown(mount, handle, position)) is not None:
            batch.append(name)
            position += 1
        if not batch:
            break
        for name in batch:
            drive(mount.unlink(WHO, place, name))
        removed += batch
    assert removed == [name_of(number) for number in range(3000)]
    mount.releasedir(handle)
    drive(mount.rmdir(WHO, ROOT, b"d"))


def test_a_mark_follows_what_is_listed_anew() -> None:
    listing = DirectoryHandle(1, WHO, [])

    def page(names: list[bytes]) -> None:
        listing.extend([
            meta_pb2.DirEntry(dentry=meta_pb2.Dentry(name=name)) for name in names])

    page([b"a%04d" % number for number in range(3 * MARK_EVERY)])
    assert listing.marks[1:] == [b"a1023", b"a2047", b"a3071"]
    listing.forget_from(10)
    assert (listing.start, listing.end, listing.last_name) == (0, 0, b"")
    page([b"b%04d" % number for number in range(MARK_EVERY)])
    assert listing.marks == [b"", b"b1023"]
