"""Attributes that a new file gets from its maker: they may wait for the first report.

Layer: kernel, pure. tar(1) and cp(1) make a file, write it, set its times and its mode, and close
it. Until its maker reports what was written, other clients see an empty file; so they may as well
see the mode and the times that it was made with, as long as nobody may do more than he will. What
waits leaves with that report, in its transaction.

Nothing waits that takes a right away, gives the file to somebody else, means more than it says
(set-ID bits, access control lists), or might be refused.
"""

from __future__ import annotations

from luciole.proto import meta_pb2

_PERMISSIONS = 0o777
_NAMED = ("mode", "uid", "gid", "atime_ns", "mtime_ns")


def names_anything(request: meta_pb2.SetAttrRequest) -> bool:
    """Whether a request changes any attribute."""
    return (request.atime_now or request.mtime_now
            or any(request.HasField(field) for field in _NAMED))


def may_wait(inode: meta_pb2.Inode, request: meta_pb2.SetAttrRequest) -> bool:
    """Whether others miss nothing if they hear of a change with the file's first report.

    Args:
        inode: as its maker sees it.
        request: names what it changes.
    """
    if request.atime_now or request.mtime_now or request.credential.uid not in {0, inode.uid}:
        return False
    if inode.acl_access or inode.xattr_bytes or inode.mode & ~_PERMISSIONS:
        return False
    owner = request.HasField("uid") and request.uid != inode.uid
    group = request.HasField("gid") and request.gid != inode.gid
    mode = request.mode if request.HasField("mode") else inode.mode
    return not (owner or group or mode & ~_PERMISSIONS or inode.mode & ~mode)


def add(
    waiting: meta_pb2.WaitingAttributes, request: meta_pb2.SetAttrRequest, now_ns: int
) -> None:
    """Lets a change wait with those that do already."""
    waiting.credential.CopyFrom(request.credential)
    waiting.ctime_ns = now_ns
    if request.HasField("mode"):
        waiting.mode = request.mode
    if request.HasField("atime_ns"):
        waiting.atime_ns = request.atime_ns
    if request.HasField("mtime_ns"):
        waiting.mtime_ns = request.mtime_ns


def apply(inode: meta_pb2.Inode, waiting: meta_pb2.WaitingAttributes) -> None:
    """Changes an inode in place."""
    if waiting.HasField("mode"):
        inode.mode = waiting.mode
    if waiting.HasField("atime_ns"):
        inode.atime_ns = waiting.atime_ns
    if waiting.HasField("mtime_ns"):
        inode.mtime_ns = waiting.mtime_ns
    inode.ctime_ns = max(inode.ctime_ns, waiting.ctime_ns)
