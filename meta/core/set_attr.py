"""setattr: mode, owner, times. Length is truncate's.

What a writer has not reported yet comes with it, so that tar(1) does not pay for two transactions:
the report counts first, and times that were set by hand are not overtaken by it.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, open_file, posix_acl, schema, xattrs
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2


async def set_attr(
    txn: Transaction, request: meta_pb2.SetAttrRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Changes what the request names. Source: chmod(2), chown(2), utimensat(2)."""
    inode = await inodes.load(txn, request.inode_id)
    if request.session_id:
        await open_file.take_last_report(txn, inode, request, env.now_ns)
    if request.HasField("mode"):
        access.check_owner(inode, request.credential)
        inode.mode = access.mode_after_chmod(inode, request.mode, request.credential)
        inode.acl_access = posix_acl.after_chmod(inode.acl_access, inode.mode)
    if request.HasField("uid") or request.HasField("gid"):
        _change_owner(inode, request)
        await xattrs.drop_capability(txn, inode)
    _change_times(inode, request, env.now_ns)
    inode.ctime_ns = env.now_ns
    if inode.type == meta_pb2.DIRECTORY:
        # The mtime of a directory lives in its hot record only.
        txn.set(schema.times_key(inode.inode_id),
                schema.encode_times(inode.mtime_ns, inode.ctime_ns))
    inodes.store(txn, inode)
    return meta_pb2.InodeReply(inode=inode)


def _change_owner(inode: meta_pb2.Inode, request: meta_pb2.SetAttrRequest) -> None:
    credential = request.credential
    uid = request.uid if request.HasField("uid") else inode.uid
    gid = request.gid if request.HasField("gid") else inode.gid
    if credential.uid != 0:
        same_owner = credential.uid == inode.uid == uid
        if not same_owner or (gid != inode.gid and not access.in_group(credential, gid)):
            raise FsError(Kind.NOT_PERMITTED, "only root may give a file away",
                          f"inode {inode.inode_id}")
        inode.mode = access.mode_after_change(inode)
    elif not request.HasField("mode"):
        inode.mode = access.mode_after_change(inode)
    inode.uid, inode.gid = uid, gid


def _change_times(
    inode: meta_pb2.Inode, request: meta_pb2.SetAttrRequest, now_ns: int
) -> None:
    explicit = request.HasField("atime_ns") or request.HasField("mtime_ns")
    if explicit:
        access.check_owner(inode, request.credential)
    elif (request.atime_now or request.mtime_now) and not access.owns(inode, request.credential):
        access.check_access(inode, request.credential, access.WRITE)
    if request.atime_now:
        inode.atime_ns = now_ns
    elif request.HasField("atime_ns"):
        inode.atime_ns = request.atime_ns
    if request.mtime_now:
        inode.mtime_ns = now_ns
    elif request.HasField("mtime_ns"):
        inode.mtime_ns = request.mtime_ns
