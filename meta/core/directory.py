"""mkdir, rmdir, readdir."""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, schema
from luciole.meta.core.create import check_absent, check_new_name, enter, new_inode
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2

PAGE_MAX = 1000


async def make_dir(
    txn: Transaction, request: meta_pb2.MakeDirRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Makes an empty directory."""
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    await check_absent(txn, request.parent, request.name)
    inode = new_inode(parent, meta_pb2.DIRECTORY, request, env)
    inode.parent = request.parent
    inode.nlink = 2
    changed = await enter(txn, parent, request.name, inode, env.now_ns)
    txn.set(schema.times_key(inode.inode_id), schema.encode_times(env.now_ns, env.now_ns))
    return meta_pb2.InodeReply(inode=inode, directories=[changed])


async def remove_dir(
    txn: Transaction, request: meta_pb2.RemoveRequest, env: Environment
) -> meta_pb2.RemoveReply:
    """Removes an empty directory."""
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    dentry = await inodes.need_dentry(txn, request.parent, request.name)
    if dentry.type != meta_pb2.DIRECTORY:
        raise FsError(Kind.NOT_DIRECTORY, "not a directory", repr(request.name))
    inode = await inodes.load_record(txn, dentry.inode_id)
    access.check_sticky(parent, inode, request.credential)
    if not await inodes.is_empty(txn, inode.inode_id):
        raise FsError(Kind.NOT_EMPTY, "the directory has entries", repr(request.name))
    inodes.drop(txn, inode)
    txn.clear(schema.dentry_key(request.parent, request.name))
    changed = await inodes.change_directory(txn, parent, env.now_ns, subdirectories=-1)
    inode.nlink = 0
    return meta_pb2.RemoveReply(inode=inode, directories=[changed])


async def read_dir(
    txn: Transaction, request: meta_pb2.ReadDirRequest
) -> meta_pb2.ReadDirReply:
    """One page of entries in name order, with their inodes when asked for."""
    directory = await inodes.load_directory(txn, request.inode_id)
    access.check_access(directory, request.credential, access.READ)
    limit = min(request.limit or PAGE_MAX, PAGE_MAX)
    begin, end = schema.dentry_range(request.inode_id, request.after)
    rows = await txn.get_range(begin, end, limit=limit, snapshot=True)
    entries = [
        meta_pb2.DirEntry(dentry=schema.decode_dentry(request.inode_id, row.key[12:], row.value))
        for row in rows
    ]
    if request.with_inodes:
        found = await inodes.load_many(txn, [entry.dentry.inode_id for entry in entries])
        for entry, inode in zip(entries, found, strict=True):
            if inode is not None:
                entry.inode.CopyFrom(inode)
    return meta_pb2.ReadDirReply(
        entries=entries, more=len(rows) == limit, parent=directory.parent)
