"""The pyfuse3 binding: translates the kernel's requests to `Operations`, and errors to errno.

Layer: shell. Holds no state of the filesystem but which version of a file the kernel may still
have cached. Copies of bulk bytes: pyfuse3 copies a write out of the request buffer and a read into
the reply, each once; nothing is copied here.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

import pyfuse3

from luciole.client.fuse.attributes import (
    BLOCK,
    SeenVersions,
    as_caller,
    blocks_of,
    file_counts,
    mode_of,
    open_flags,
    type_of,
)
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError
from luciole.limits import NAME_BYTES_MAX
from luciole.log import get_logger
from luciole.proto import common_pb2, meta_pb2

log = get_logger("fuse")
T = TypeVar("T")
ACL_PREFIX = b"system."
Handler = Callable[..., Coroutine[Any, Any, T]]


def _translated(handler: Handler[T]) -> Handler[T]:
    """Turns FsError into the errno that the application sees."""
    @wraps(handler)
    async def run(*args: Any) -> T:
        try:
            return await handler(*args)
        except FsError as failure:
            number = failure.facts.errno
            if number in {errno.EIO, errno.ETIMEDOUT}:
                log.warning("operation_failed", operation=handler.__name__, error=str(failure))
            raise pyfuse3.FUSEError(number) from failure
        except pyfuse3.FUSEError:
            raise
        except Exception as bug:
            log.exception("operation_broken", operation=handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from bug

    return run


def _refuse_acl(name: bytes) -> None:
    if name.startswith(ACL_PREFIX):
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)


class Pyfuse3Binding(pyfuse3.Operations):
    """pyfuse3's view of `Operations`."""

    def __init__(
        self, operations: Operations, *, attribute_seconds: float, entry_seconds: float
    ) -> None:
        super().__init__()
        self._operations = operations
        self._attribute_seconds = attribute_seconds
        self._entry_seconds = entry_seconds
        self._seen = SeenVersions()

    # Translation.

    def _attributes(self, inode: meta_pb2.Inode) -> pyfuse3.EntryAttributes:
        self._seen.given(inode)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.inode_id
        entry.st_mode = mode_of(inode)
        entry.st_nlink = inode.nlink
        entry.st_uid, entry.st_gid = inode.uid, inode.gid
        entry.st_size = inode.length
        entry.st_rdev = inode.rdev
        entry.st_blksize = BLOCK
        entry.st_blocks = blocks_of(inode)
        entry.st_atime_ns, entry.st_mtime_ns = inode.atime_ns, inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        entry.attr_timeout = self._attribute_seconds
        entry.entry_timeout = self._entry_seconds
        return entry

    @staticmethod
    async def _as_caller(
        context: pyfuse3.RequestContext,
        call: Callable[[common_pb2.Credential], Awaitable[T]],
    ) -> T:
        """Calls with the caller's ids."""
        return await as_caller(context.uid, context.gid, context.pid, call)

    # Names.

    @_translated
    async def lookup(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        """lookup(2 of the kernel's path walk)."""
        if len(name) > NAME_BYTES_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        return self._attributes(await self._as_caller(
            ctx, lambda who: self._operations.lookup(who, parent_inode, name)))

    async def forget(self, inode_list):  # type: ignore[no-untyped-def]
        """Inode ids are the cluster's own: there is no table to forget them from."""

    @_translated
    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def]
        """stat(2)."""
        return self._attributes(await self._operations.getattr(inode))

    @_translated
    async def setattr(self, inode, attr, fields, fh, ctx):  # type: ignore[no-untyped-def]
        """chmod, chown, truncate, utimensat."""
        length = attr.st_size if fields.update_size else None

        async def call(who: common_pb2.Credential) -> meta_pb2.Inode:
            request = meta_pb2.SetAttrRequest(credential=who, inode_id=inode)
            if fields.update_mode:
                request.mode = stat.S_IMODE(attr.st_mode)
            if fields.update_uid:
                request.uid = attr.st_uid
            if fields.update_gid:
                request.gid = attr.st_gid
            if fields.update_atime:
                request.atime_ns = attr.st_atime_ns
            if fields.update_mtime:
                request.mtime_ns = attr.st_mtime_ns
            return await self._operations.setattr(request, length, fh or 0)

        return self._attributes(await self._as_caller(ctx, call))

    @_translated
    async def mknod(self, parent_inode, name, mode, rdev, ctx):  # type: ignore[no-untyped-def]
        """mknod(2)."""
        kind = type_of(mode)
        if kind is None:
            raise pyfuse3.FUSEError(errno.EINVAL)
        if kind != meta_pb2.REGULAR:
            return self._attributes(await self._as_caller(
                ctx, lambda who: self._operations.make_node(meta_pb2.MakeNodeRequest(
                    credential=who, parent=parent_inode, name=name, mode=stat.S_IMODE(mode),
                    type=kind, rdev=rdev))))
        handle, inode = await self._as_caller(ctx, lambda who: self._operations.create(
            who, parent_inode, name, stat.S_IMODE(mode), flags=OpenFlags(exclusive=True)))
        await self._operations.release(handle)
        return self._attributes(inode)

    @_translated
    async def mkdir(self, parent_inode, name, mode, ctx):  # type: ignore[no-untyped-def]
        """mkdir(2)."""
        return self._attributes(await self._as_caller(ctx, lambda who: self._operations.mkdir(
            who, parent_inode, name, stat.S_IMODE(mode))))

    @_translated
    async def rmdir(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        """rmdir(2)."""
        await self._as_caller(ctx, lambda who: self._operations.rmdir(who, parent_inode, name))

    @_translated
    async def unlink(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        """unlink(2)."""
        await self._as_caller(ctx, lambda who: self._operations.unlink(who, parent_inode, name))

    @_translated
    async def symlink(self, parent_inode, name, target, ctx):  # type: ignore[no-untyped-def]
        """symlink(2)."""
        return self._attributes(await self._as_caller(
            ctx, lambda who: self._operations.symlink(who, parent_inode, name, target)))

    @_translated
    async def readlink(self, inode, ctx):  # type: ignore[no-untyped-def]
        """readlink(2)."""
        return await self._operations.readlink(inode)

    @_translated
    async def link(self, inode, new_parent_inode, new_name, ctx):  # type: ignore[no-untyped-def]
        """link(2)."""
        return self._attributes(await self._as_caller(
            ctx, lambda who: self._operations.link(who, inode, new_parent_inode, new_name)))

    @_translated
    async def rename(  # type: ignore[no-untyped-def]  # noqa: PLR0917 - pyfuse3's signature
        self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx
    ):
        """rename(2), renameat2(2) with NOREPLACE and EXCHANGE."""
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise pyfuse3.FUSEError(errno.EINVAL)
        await self._as_caller(ctx, lambda who: self._operations.rename(meta_pb2.RenameRequest(
            credential=who, parent=parent_inode_old, name=name_old,
            new_parent=parent_inode_new, new_name=name_new,
            no_replace=bool(flags & pyfuse3.RENAME_NOREPLACE),
            exchange=bool(flags & pyfuse3.RENAME_EXCHANGE))))

    @_translated
    async def statfs(self, ctx):  # type: ignore[no-untyped-def]
        """statfs(2)."""
        found = await self._operations.statfs()
        reply = pyfuse3.StatvfsData()
        reply.f_bsize = reply.f_frsize = BLOCK
        reply.f_blocks = found.capacity_bytes // BLOCK
        reply.f_bfree = reply.f_bavail = found.free_bytes // BLOCK
        reply.f_files, reply.f_ffree = file_counts(found)
        reply.f_favail = reply.f_ffree
        reply.f_namemax = NAME_BYTES_MAX
        return reply

    # Extended attributes. Access control lists stay out: without FUSE_POSIX_ACL, which pyfuse3 does
    # not offer, the kernel would neither enforce them nor leave the umask to them.

    @_translated
    async def setxattr(self, inode, name, value, ctx):  # type: ignore[no-untyped-def]
        """setxattr(2); the flags CREATE and REPLACE are not told."""
        _refuse_acl(name)
        await self._as_caller(ctx, lambda who: self._operations.xattrs.set(
            meta_pb2.SetXattrRequest(credential=who, inode_id=inode, name=name, value=value)))

    @_translated
    async def getxattr(self, inode, name, ctx):  # type: ignore[no-untyped-def]
        """getxattr(2)."""
        _refuse_acl(name)
        return await self._as_caller(
            ctx, lambda who: self._operations.xattrs.get(who, inode, name))

    @_translated
    async def listxattr(self, inode, ctx):  # type: ignore[no-untyped-def]
        """listxattr(2)."""
        names = await self._as_caller(ctx, lambda who: self._operations.xattrs.list(who, inode))
        return [name for name in names if not name.startswith(ACL_PREFIX)]

    @_translated
    async def removexattr(self, inode, name, ctx):  # type: ignore[no-untyped-def]
        """removexattr(2)."""
        _refuse_acl(name)
        await self._as_caller(
            ctx, lambda who: self._operations.xattrs.remove(who, inode, name))

    # Files.

    def _file_info(self, handle: int, inode: meta_pb2.Inode) -> pyfuse3.FileInfo:
        """Lets the kernel keep its pages if nothing changed since the last open here."""
        return pyfuse3.FileInfo(fh=handle, keep_cache=self._seen.unchanged(inode))

    @_translated
    async def create(self, parent_inode, name, mode, flags, ctx):  # type: ignore[no-untyped-def]
        """open(2) with O_CREAT."""
        handle, inode = await self._as_caller(ctx, lambda who: self._operations.create(
            who, parent_inode, name, stat.S_IMODE(mode), flags=open_flags(flags)))
        return self._file_info(handle, inode), self._attributes(inode)

    @_translated
    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        """open(2)."""
        handle, found = await self._as_caller(
            ctx, lambda who: self._operations.open(who, inode, open_flags(flags)))
        if self._seen.outdated(found):
            # Else a read would end where the kernel takes the file to end, after others' close.
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(inode, attr_only=True)
        return self._file_info(handle, found)

    @_translated
    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        """pread(2)."""
        return await self._operations.read(fh, off, size)

    @_translated
    async def write(self, fh, off, buf):  # type: ignore[no-untyped-def]
        """pwrite(2). Appends go where the kernel thinks the end is: its pages come through any
        handle, and pyfuse3 does not tell them from an append."""
        return await self._operations.write(fh, off, memoryview(buf))

    @_translated
    async def flush(self, fh):  # type: ignore[no-untyped-def]
        """close(2)."""
        await self._operations.flush(fh)

    @_translated
    async def fsync(self, fh, datasync):  # type: ignore[no-untyped-def]
        """fsync(2) and fdatasync(2): the length is needed to read the data back, so both alike."""
        await self._operations.fsync(fh)

    @_translated
    async def release(self, fh):  # type: ignore[no-untyped-def]
        """The last close of an open file description."""
        await self._operations.release(fh)

    # Directories.

    @_translated
    async def opendir(self, inode, ctx):  # type: ignore[no-untyped-def]
        """opendir(3)."""
        return await self._as_caller(
            ctx, lambda who: self._operations.opendir(who, inode))

    @_translated
    async def readdir(self, fh, start_id, token):  # type: ignore[no-untyped-def]
        """readdir(3): positions 0 and 1 are `.` and `..`."""
        listing = self._operations.directory(fh)
        await self._operations.refresh_listing(fh, max(0, start_id - 2))
        position = start_id
        while True:
            if position < 2:
                name = (b".", b"..")[position]
                inode = meta_pb2.Inode(
                    inode_id=(listing.inode_id, listing.parent)[position],
                    type=meta_pb2.DIRECTORY, mode=0o755)
            else:
                entry = await self._operations.readdir(fh, position - 2)
                if entry is None:
                    return
                name, inode = entry.dentry.name, entry.inode
            position += 1
            if inode.inode_id and not pyfuse3.readdir_reply(
                token, name, self._attributes(inode), position
            ):
                return

    @_translated
    async def releasedir(self, fh):  # type: ignore[no-untyped-def]
        """closedir(3)."""
        self._operations.releasedir(fh)

    async def fsyncdir(self, fh, datasync):  # type: ignore[no-untyped-def]
        """fsync(2) of a directory."""
        await self._operations.fsyncdir(fh)
