"""Loading and storing inodes; directories keep their hot fields apart.

Layer: pure. A create in a directory must not conflict with its neighbours, so it reads the
directory's record (which guards against a concurrent rmdir or chmod) but writes only beside it:
times by blind write under `DTIM`, the number of subdirectories by atomic add under `DSUB`. Those
two are always read as snapshots and folded into the inode that leaves this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import inline, schema, usage
from luciole.proto import meta_pb2


async def load_record(txn: Transaction, inode_id: int) -> meta_pb2.Inode:
    """The stored record. Raises FsError STALE_HANDLE when there is none."""
    value = await txn.get(schema.inode_key(inode_id))
    if value is None:
        raise FsError(Kind.STALE_HANDLE, "the inode is gone", f"inode {inode_id}")
    return schema.decode(value, meta_pb2.Inode, f"inode {inode_id}")


async def load_directory(txn: Transaction, inode_id: int) -> meta_pb2.Inode:
    """The record of a directory. Raises FsError STALE_HANDLE or NOT_DIRECTORY."""
    inode = await load_record(txn, inode_id)
    if inode.type != meta_pb2.DIRECTORY:
        raise FsError(Kind.NOT_DIRECTORY, "not a directory", f"inode {inode_id}")
    return inode


async def load(txn: Transaction, inode_id: int) -> meta_pb2.Inode:
    """The inode with a directory's times and link count."""
    return (await complete(txn, [await load_record(txn, inode_id)]))[0]


async def load_many(txn: Transaction, inode_ids: Sequence[int]) -> list[meta_pb2.Inode | None]:
    """Inodes in order; None where there is none."""
    values = await txn.get_many([schema.inode_key(inode_id) for inode_id in inode_ids])
    inodes = [
        None if value is None else schema.decode(value, meta_pb2.Inode, f"inode {inode_id}")
        for inode_id, value in zip(inode_ids, values, strict=True)
    ]
    await complete(txn, [inode for inode in inodes if inode is not None])
    return inodes


async def complete(
    txn: Transaction, inodes: list[meta_pb2.Inode]
) -> list[meta_pb2.Inode]:
    """Folds the hot fields into the directories among `inodes`, in place."""
    directories = [inode for inode in inodes if inode.type == meta_pb2.DIRECTORY]
    if not directories:
        return inodes
    keys = [schema.times_key(inode.inode_id) for inode in directories]
    keys += [schema.subdirectories_key(inode.inode_id) for inode in directories]
    values = await txn.get_many(keys, snapshot=True)
    for index, inode in enumerate(directories):
        times = values[index]
        if times is not None:
            inode.mtime_ns, changed_ns = schema.decode_times(times)
            inode.ctime_ns = max(inode.ctime_ns, changed_ns)
        inode.nlink = 2 + schema.decode_counter(values[len(directories) + index])
    return inodes


async def find_dentry(txn: Transaction, parent: int, name: bytes) -> meta_pb2.Dentry | None:
    """The entry of that name, or None."""
    value = await txn.get(schema.dentry_key(parent, name))
    return None if value is None else schema.decode_dentry(parent, name, value)


async def need_dentry(txn: Transaction, parent: int, name: bytes) -> meta_pb2.Dentry:
    """The entry of that name. Raises FsError NOT_FOUND."""
    dentry = await find_dentry(txn, parent, name)
    if dentry is None:
        raise FsError(Kind.NOT_FOUND, "no such entry", repr(name))
    return dentry


def store(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """Writes the record."""
    txn.set(schema.inode_key(inode.inode_id), schema.encode(inode))


def add_dentry(txn: Transaction, parent: int, name: bytes, inode: meta_pb2.Inode) -> None:
    """Enters `inode` under a name."""
    txn.set(schema.dentry_key(parent, name), schema.encode_dentry(inode.inode_id, inode.type))


def touch_directory(txn: Transaction, directory: int, now_ns: int, subdirectories: int = 0) -> None:
    """The directory's entries changed; `subdirectories` more (or fewer) lead back to it."""
    txn.set(schema.times_key(directory), schema.encode_times(now_ns, now_ns))
    if subdirectories:
        txn.add(schema.subdirectories_key(directory), subdirectories)


async def change_directory(
    txn: Transaction, directory: meta_pb2.Inode, now_ns: int, subdirectories: int = 0
) -> meta_pb2.Inode:
    """As `touch_directory`; returns the directory, given as its record, as it is then."""
    touch_directory(txn, directory.inode_id, now_ns, subdirectories)
    return (await complete(txn, [directory]))[0]


def drop(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """Removes an inode with everything that is recorded of it alone."""
    txn.clear(schema.inode_key(inode.inode_id))
    txn.add(schema.INODE_COUNT, -1)
    usage.count(txn, inode.quota_root, -inode.length, -1)
    drop_beside(txn, inode)


def drop_beside(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """Removes what is recorded of an inode beside its own record."""
    inline.drop(txn, inode)
    if inode.xattr_bytes:
        txn.clear_range(*schema.xattr_range(inode.inode_id))
    if inode.type == meta_pb2.DIRECTORY:
        txn.clear(schema.times_key(inode.inode_id))
        txn.clear(schema.subdirectories_key(inode.inode_id))


async def is_empty(txn: Transaction, directory: int) -> bool:
    """Whether a directory has no entries. An entry made meanwhile makes the commit fail."""
    begin, end = schema.dentry_range(directory)
    return not await txn.get_range(begin, end, limit=1)


def drop_link(txn: Transaction, inode: meta_pb2.Inode, now_ns: int) -> None:
    """One name of a non-directory went. At zero it lives on only while open (see garbage.py)."""
    assert inode.nlink > 0
    inode.nlink -= 1
    inode.ctime_ns = now_ns
    if inode.nlink:
        store(txn, inode)
    elif inode.type == meta_pb2.SYMLINK:
        drop(txn, inode)
    else:
        store_orphan(txn, inode, now_ns)


def store_orphan(txn: Transaction, inode: meta_pb2.Inode, now_ns: int) -> None:
    """Stores an inode without names: it lives while it is open."""
    inode.unlinked_ns = now_ns
    store(txn, inode)
    txn.set(schema.listed_key(schema.ORPHAN, inode.inode_id), now_ns.to_bytes(8, "little"))
