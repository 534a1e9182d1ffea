"""Who may do what: POSIX permission bits and access control lists.

Layer: pure. Source: POSIX.1-2017 4.5 "File Access Permissions"; path_resolution(7), unlink(2),
chmod(2), chown(2) for the sticky and set-id rules; acl(5) for lists. EACCES means that
the bits or the list forbid, EPERM that only an owner or root may.
"""

from __future__ import annotations

import stat

from luciole.errors import FsError, Kind
from luciole.meta.core import posix_acl
from luciole.proto import common_pb2, meta_pb2

READ = 4
WRITE = 2
EXECUTE = 1


def in_group(credential: common_pb2.Credential, gid: int) -> bool:
    """Whether the caller belongs to the group."""
    return credential.gid == gid or gid in credential.groups


def owns(inode: meta_pb2.Inode, credential: common_pb2.Credential) -> bool:
    """Whether the caller is the owner or root."""
    return credential.uid in {0, inode.uid}


def check_access(inode: meta_pb2.Inode, credential: common_pb2.Credential, want: int) -> None:
    """Raises FsError ACCESS_DENIED unless all of `want` (READ | WRITE | EXECUTE) is granted."""
    if credential.uid == 0:
        # Root passes everything but the execution of a file that nobody may execute.
        anyone = inode.mode & 0o111
        if not want & EXECUTE or inode.type == meta_pb2.DIRECTORY or anyone:
            return
    if not _granted(inode, credential, want):
        raise FsError(Kind.ACCESS_DENIED, f"mode {inode.mode:04o} of {inode.uid}:{inode.gid} "
                      f"does not let {credential.uid}:{credential.gid} do this",
                      f"inode {inode.inode_id}")


def _granted(inode: meta_pb2.Inode, credential: common_pb2.Credential, want: int) -> bool:
    # With an empty mask Linux looks at the mode alone (fs/namei.c, acl_permission_check), so that
    # whoever is named has what others have. acl(5) says nothing instead; the kernel is right.
    if inode.acl_access and inode.mode & 0o070:
        return posix_acl.granted(
            inode.acl_access, want, is_owner=credential.uid == inode.uid, user_id=credential.uid,
            owning_group=in_group(credential, inode.gid),
            in_group=lambda gid: in_group(credential, gid))
    if credential.uid == inode.uid:
        granted = inode.mode >> 6
    elif in_group(credential, inode.gid):
        granted = inode.mode >> 3
    else:
        granted = inode.mode
    return not want & ~granted & 7


def check_owner(inode: meta_pb2.Inode, credential: common_pb2.Credential) -> None:
    """Raises FsError NOT_PERMITTED unless the caller owns the inode or is root."""
    if not owns(inode, credential):
        raise FsError(Kind.NOT_PERMITTED, "only its owner or root may do this",
                      f"inode {inode.inode_id}")


def check_sticky(
    directory: meta_pb2.Inode, entry: meta_pb2.Inode, credential: common_pb2.Credential
) -> None:
    """In a sticky directory only the owner of either may remove or rename the entry."""
    if directory.mode & stat.S_ISVTX and not owns(directory, credential) \
            and not owns(entry, credential):
        raise FsError(Kind.NOT_PERMITTED, "the directory is sticky and the entry another user's",
                      f"inode {entry.inode_id}")


def mode_after_chmod(
    inode: meta_pb2.Inode, mode: int, credential: common_pb2.Credential
) -> int:
    """chmod(2): set-group-ID falls when the caller is neither root nor of the file's group."""
    if credential.uid != 0 and not in_group(credential, inode.gid):
        mode &= ~stat.S_ISGID
    return mode & 0o7777


def mode_after_change(inode: meta_pb2.Inode) -> int:
    """Set-ID bits fall when a file changes hands or content (chown(2), write(2))."""
    mode = inode.mode
    if inode.type != meta_pb2.DIRECTORY:
        mode &= ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
    return mode
