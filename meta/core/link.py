"""symlink, link, unlink."""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction
from luciole.limits import SYMLINK_BYTES_MAX
from luciole.meta.core import access, inodes, quota, schema, trash
from luciole.meta.core.create import check_absent, check_new_name, enter, new_inode
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2


async def symlink(
    txn: Transaction, request: meta_pb2.SymlinkRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Makes a symbolic link."""
    require(0 < len(request.target) <= SYMLINK_BYTES_MAX, Kind.NAME_TOO_LONG,
            f"a link's target has 1 to {SYMLINK_BYTES_MAX} bytes")
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    await check_absent(txn, request.parent, request.name)
    inode = new_inode(parent, meta_pb2.SYMLINK, request, env)
    inode.symlink = request.target
    inode.length = len(request.target)
    changed = await enter(txn, parent, request.name, inode, env.now_ns)
    return meta_pb2.InodeReply(inode=inode, directories=[changed])


async def link(
    txn: Transaction, request: meta_pb2.LinkRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Gives a file one more name."""
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    inode = await inodes.load_record(txn, request.inode_id)
    if inode.type == meta_pb2.DIRECTORY:
        raise FsError(Kind.NOT_PERMITTED, "a directory has one name", f"{inode.inode_id}")
    require(inode.nlink > 0 or inode.linkable, Kind.NOT_FOUND, "the file was removed",
            f"inode {inode.inode_id}")
    require(inode.nlink < schema.LINKS_MAX, Kind.TOO_MANY_LINKS,
            f"a file has at most {schema.LINKS_MAX} names", f"inode {inode.inode_id}")
    await check_absent(txn, request.parent, request.name)
    await quota.adopt(txn, inode, parent, strict=not inode.linkable)
    inode.nlink += 1
    if inode.linkable:
        inode.linkable, inode.unlinked_ns = False, 0
        txn.clear(schema.listed_key(schema.ORPHAN, inode.inode_id))
    inode.ctime_ns = env.now_ns
    inodes.store(txn, inode)
    inodes.add_dentry(txn, request.parent, request.name, inode)
    changed = await inodes.change_directory(txn, parent, env.now_ns)
    return meta_pb2.InodeReply(inode=inode, directories=[changed])


async def unlink(
    txn: Transaction, request: meta_pb2.RemoveRequest, env: Environment
) -> meta_pb2.RemoveReply:
    """Takes a name away; the file goes with its last name, once nobody holds it open."""
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    dentry = await inodes.need_dentry(txn, request.parent, request.name)
    if dentry.type == meta_pb2.DIRECTORY:
        raise FsError(Kind.IS_DIRECTORY, "a directory: use rmdir", repr(request.name))
    inode = await inodes.load_record(txn, dentry.inode_id)
    access.check_sticky(parent, inode, request.credential)
    txn.clear(schema.dentry_key(request.parent, request.name))
    changed = await inodes.change_directory(txn, parent, env.now_ns)
    await trash.drop_link(txn, inode, request.parent, request.name,
                          uid=request.credential.uid, now_ns=env.now_ns)
    return meta_pb2.RemoveReply(inode=inode, directories=[changed])
