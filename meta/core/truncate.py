"""truncate: a new length at once, the chunks behind it afterwards (see length.py)."""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, length, schema, sessions, usage, xattrs
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2


async def truncate(
    txn: Transaction, request: meta_pb2.TruncateRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Sets the length. The caller needs a write session, or the permission to write."""
    inode = await inodes.load_record(txn, request.inode_id)
    if inode.type == meta_pb2.DIRECTORY:
        raise FsError(Kind.IS_DIRECTORY, "a directory has no length", f"{inode.inode_id}")
    if inode.type != meta_pb2.REGULAR:
        raise FsError(Kind.INVALID_ARGUMENT, "only regular files have a length")
    length.check(inode, request.length)
    if request.session_id:
        await sessions.need(txn, request.inode_id, request.session_id)
    else:
        access.check_access(inode, request.credential, access.WRITE)
    await length.apply_report(txn, inode, request.hint, request.request_id.client_id)
    if inode.trim_pending and request.length > inode.length:
        raise FsError(Kind.BUSY, "an earlier cut is still being cleaned up",
                      f"inode {inode.inode_id}")
    await usage.charge(txn, inode.quota_root, request.length - inode.length)
    await length.change(txn, inode, request.length, env.now_ns, request.request_id.client_id)
    if request.credential.uid != 0:
        inode.mode = access.mode_after_change(inode)
    await xattrs.drop_capability(txn, inode)
    length.store(txn, inode)
    return meta_pb2.InodeReply(inode=inode)


async def is_pending(txn: Transaction, inode_id: int, truncate_version: int) -> bool:
    """Whether the chunks beyond the length of this very cut are still to be removed."""
    value = await txn.get(schema.inode_key(inode_id))
    if value is None:
        return False
    inode = schema.decode(value, meta_pb2.Inode, f"inode {inode_id}")
    return inode.trim_pending and inode.truncate_version == truncate_version


async def trim_done(
    txn: Transaction, inode_id: int, truncate_version: int, allocated: int
) -> None:
    """The chunks beyond the length are gone, unless the file was cut again meanwhile.

    Args: allocated: bytes of blocks that the file has left.
    """
    value = await txn.get(schema.inode_key(inode_id))
    if value is None:
        txn.clear(schema.listed_key(schema.TRIM, inode_id))
        return
    inode = schema.decode(value, meta_pb2.Inode, f"inode {inode_id}")
    if inode.truncate_version == truncate_version and inode.trim_pending:
        inode.trim_pending = False
        inode.allocated = allocated
        inodes.store(txn, inode)
        txn.clear(schema.listed_key(schema.TRIM, inode_id))
