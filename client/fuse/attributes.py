"""What both bindings say of files in the same way: modes, open flags, kept pages, callers.

Layer: shell, below the bindings.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from luciole.client.handles import OpenFlags
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2

T = TypeVar("T")
BLOCK = 4096
STAMPS_MAX = 65_536
UNTOLD_S = 1.0  # how long the kernel may cache what others may change unseen
_TYPE_BITS = {
    meta_pb2.REGULAR: stat.S_IFREG,
    meta_pb2.DIRECTORY: stat.S_IFDIR,
    meta_pb2.SYMLINK: stat.S_IFLNK,
    meta_pb2.FIFO: stat.S_IFIFO,
    meta_pb2.SOCKET: stat.S_IFSOCK,
    meta_pb2.CHARACTER_DEVICE: stat.S_IFCHR,
    meta_pb2.BLOCK_DEVICE: stat.S_IFBLK,
}
_TYPES = {bits: kind for kind, bits in _TYPE_BITS.items()}
_ACCESS_BITS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


def mode_of(inode: meta_pb2.Inode) -> int:
    """st_mode: type and permissions."""
    return _TYPE_BITS[inode.type] | inode.mode


def type_of(mode: int) -> meta_pb2.FileType | None:
    """The type of a file with that st_mode; mknod(2) takes none at all for a regular one."""
    return _TYPES.get(stat.S_IFMT(mode) or stat.S_IFREG)


def blocks_of(inode: meta_pb2.Inode) -> int:
    """st_blocks, in units of 512 bytes; for a record of an older program a guess."""
    count = inode.allocated if inode.HasField("allocated") else inode.length
    return ((count + 511) >> 9) + ((inode.inline_bytes + 511) >> 9)


def open_flags(flags: int) -> OpenFlags:
    """The flags of open(2)."""
    access = flags & _ACCESS_BITS
    return OpenFlags(
        read=access in {os.O_RDONLY, os.O_RDWR}, write=access in {os.O_WRONLY, os.O_RDWR},
        truncate=bool(flags & os.O_TRUNC), exclusive=bool(flags & os.O_EXCL),
        append=bool(flags & os.O_APPEND))


_Stamps = OrderedDict[int, tuple[int, ...]]


class SeenVersions:
    """Which version of a file the kernel may have pages and attributes of. Its lock guards both."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._opened: _Stamps = OrderedDict()
        self._given: _Stamps = OrderedDict()

    def unchanged(self, inode: meta_pb2.Inode) -> bool:
        """Whether an open may keep the kernel's pages: nothing changed since the last open here."""
        return self._put(self._opened, inode)

    def given(self, inode: meta_pb2.Inode) -> bool:
        """The kernel gets these attributes; returns whether it had them before."""
        return self._put(self._given, inode)

    def outdated(self, inode: meta_pb2.Inode) -> bool:
        """Whether the kernel may have other attributes of an inode than these."""
        return self._given.get(inode.inode_id) != _stamp(inode)

    def _put(self, stamps: _Stamps, inode: meta_pb2.Inode) -> bool:
        """Returns whether it was the same before."""
        stamp = _stamp(inode)
        with self._guard:
            same = stamps.get(inode.inode_id) == stamp
            stamps[inode.inode_id] = stamp
            stamps.move_to_end(inode.inode_id)
            if len(stamps) > STAMPS_MAX:
                stamps.popitem(last=False)
        return same


def _stamp(inode: meta_pb2.Inode) -> tuple[int, ...]:
    return inode.mtime_ns, inode.ctime_ns, inode.length, inode.truncate_version


def _supplementary_groups(pid: int) -> list[int] | None:
    """The other groups of a process (proc_pid_status(5)); None when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"Groups:"):
                return sorted(map(int, line.split()[1:]))
    except OSError:
        pass
    return None


async def as_caller(
    uid: int, gid: int, pid: int, call: Callable[[common_pb2.Credential], Awaitable[T]],
    *, with_groups: bool = False,
) -> T:
    """Calls with the caller's ids; with its other groups too if those ids are refused.

    The groups are not in the request and must be read from /proc, so only when they matter;
    `with_groups`: they do, since without them the call would not be refused but do something else.
    """
    credential = common_pb2.Credential(
        uid=uid, gid=gid, groups=_supplementary_groups(pid) if with_groups and pid else None)
    if credential.groups:
        return await call(credential)
    try:
        return await call(credential)
    except FsError as failure:
        if failure.kind not in {Kind.ACCESS_DENIED, Kind.NOT_PERMITTED} or not pid:
            raise
        groups = _supplementary_groups(pid)
        if groups is None:
            raise
        credential.groups.extend(groups)
        return await call(credential)


def file_counts(found: meta_pb2.StatFsReply) -> tuple[int, int]:
    """(all, free) inodes for statfs(2). Without a quota only space limits them."""
    if found.inodes_limit:
        return found.inodes_limit, max(0, found.inodes_limit - found.inodes)
    free = found.free_bytes // BLOCK
    return found.inodes + free, free
