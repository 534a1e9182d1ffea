"""Removing a directory with everything below it: one transaction for the caller.

Layer: pure. The transaction takes the top's name and inode away, as rmdir would, and puts the
record into the list `GARD`: from then on no path leads into the tree, and nothing can be made or
renamed in the top itself. Collectors take a listed directory apart page by page: files lose a name
(they live on under others, and while they are open), directories are listed in their turn. Every
page is one transaction, so any server may go on where another stopped.

A program whose working directory is deeper inside may go on there until a collector comes by; what
it renames out of the tree before is saved.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, schema, trash
from luciole.meta.core.create import check_new_name
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2

BATCH = 200  # a change record names them all, in one value of the store


async def remove_tree(
    txn: Transaction, request: meta_pb2.RemoveTreeRequest, env: Environment
) -> meta_pb2.RemoveReply:
    """Removes a tree, whoever owns what is below its top.

    The caller may write the parent, the sticky bit allows it, and he owns the top or is root.
    """
    parent = await check_new_name(txn, request.parent, request.name, request.credential)
    dentry = await inodes.need_dentry(txn, request.parent, request.name)
    if dentry.type != meta_pb2.DIRECTORY:
        raise FsError(Kind.NOT_DIRECTORY, "not a directory: use unlink", repr(request.name))
    top = await inodes.load_record(txn, dentry.inode_id)
    access.check_sticky(parent, top, request.credential)
    access.check_owner(top, request.credential)
    if not await trash.keep_tree(txn, top, request.parent, request.name,
                                 uid=request.credential.uid, now_ns=env.now_ns):
        _detach(txn, top)
    txn.clear(schema.dentry_key(request.parent, request.name))
    inodes.touch_directory(txn, request.parent, env.now_ns, subdirectories=-1)
    top.nlink = 0
    return meta_pb2.RemoveReply(inode=top)


def _detach(txn: Transaction, directory: meta_pb2.Inode) -> None:
    inodes.drop(txn, directory)
    txn.set(schema.listed_key(schema.DETACHED, directory.inode_id), schema.encode(directory))


async def take_apart(txn: Transaction, directory: int, now_ns: int) -> int:
    """Takes one page of entries out of a detached directory; returns how many there were."""
    listed = schema.listed_key(schema.DETACHED, directory)
    if await txn.get(listed) is None:
        return 0
    begin, end = schema.dentry_range(directory)
    rows = await txn.get_range(begin, end, limit=BATCH)
    for row in rows:
        entry = schema.decode_dentry(directory, row.key[12:], row.value)
        inode = await inodes.load_record(txn, entry.inode_id)
        if inode.type == meta_pb2.DIRECTORY:
            _detach(txn, inode)
        else:
            inodes.drop_link(txn, inode, now_ns)
        txn.clear(row.key)
    if len(rows) < BATCH:
        txn.clear(listed)
    return len(rows)
