"""lookup, stat, readlink: operations that change nothing."""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction
from luciole.limits import LOOKUPS_MAX
from luciole.meta.core import access, inline, inodes, schema
from luciole.proto import meta_pb2


async def lookup(txn: Transaction, request: meta_pb2.LookupRequest) -> meta_pb2.InodeReply:
    """The inode behind a name in a directory; `..` leads to the parent."""
    directory = await inodes.load_directory(txn, request.parent)
    access.check_access(directory, request.credential, access.EXECUTE)
    if request.name == b"..":
        return meta_pb2.InodeReply(inode=await inodes.load(txn, directory.parent))
    if request.name == b".":
        return meta_pb2.InodeReply(inode=await inodes.load(txn, request.parent))
    schema.check_name(request.name)
    dentry = await inodes.need_dentry(txn, request.parent, request.name)
    return meta_pb2.InodeReply(inode=await inodes.load(txn, dentry.inode_id))


async def lookup_many(
    txn: Transaction, request: meta_pb2.LookupManyRequest
) -> meta_pb2.LookupManyReply:
    """Many names, each found or not. Raises FsError INVALID_ARGUMENT if they are too many."""
    require(len(request.names) <= LOOKUPS_MAX, Kind.INVALID_ARGUMENT,
            f"{len(request.names)} names in one request, at most {LOOKUPS_MAX}")
    reply = meta_pb2.LookupManyReply()
    for wanted in request.names:
        try:
            found = await lookup(txn, meta_pb2.LookupRequest(
                credential=request.credential, parent=wanted.parent, name=wanted.name))
        except FsError as failure:
            reply.found.add(error=failure.to_proto())
            continue
        content = await inline.load(txn, found.inode) if request.with_content else b""
        reply.found.add(inode=found.inode, content=content)
    return reply


async def stat(txn: Transaction, request: meta_pb2.StatRequest) -> meta_pb2.InodeReply:
    """The inode of an id, and what is inline of it if that is asked for."""
    inode = await inodes.load(txn, request.inode_id)
    content = await inline.load(txn, inode) if request.with_content else b""
    return meta_pb2.InodeReply(inode=inode, content=content)


async def batch_stat(
    txn: Transaction, request: meta_pb2.BatchStatRequest
) -> meta_pb2.BatchStatReply:
    """Inodes in order; an empty one where there is none."""
    found = await inodes.load_many(txn, list(request.inode_ids))
    return meta_pb2.BatchStatReply(inodes=[inode or meta_pb2.Inode() for inode in found])


async def read_link(txn: Transaction, request: meta_pb2.StatRequest) -> meta_pb2.InodeReply:
    """The inode of a symbolic link. Raises FsError INVALID_ARGUMENT for anything else."""
    inode = await inodes.load_record(txn, request.inode_id)
    if inode.type != meta_pb2.SYMLINK:
        raise FsError(Kind.INVALID_ARGUMENT, "not a symbolic link", f"inode {request.inode_id}")
    return meta_pb2.InodeReply(inode=inode)
