"""Handlers for names and attributes.

Layer: shell. A handler takes a request apart, awaits `Operations`, and returns the data of the
reply: b"" where success is the whole answer. It raises FsError or RefusedError.
"""

from __future__ import annotations

import contextlib
import errno
import stat

from luciole.client import side_tree
from luciole.client.core.layout import file_bytes_max
from luciole.client.fuse.attributes import BLOCK, file_counts, type_of
from luciole.client.fuse.direct import messages, protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import NANOSECONDS, RefusedError, Request
from luciole.client.handles import OpenFlags
from luciole.errors import FsError, Kind
from luciole.limits import NAME_BYTES_MAX
from luciole.proto import common_pb2, meta_pb2

# The kernel's own bound; what the filesystem takes less of, it refuses by itself.
SYMLINK_TARGET_MAX = protocol.PAGE


async def lookup(context: Context, request: Request) -> bytes:
    """One step of a path walk; "." and ".." serve those who come with a file handle (NFS)."""
    name = request.name()
    if name == b".":
        inode = await context.operations.getattr(request.node)
    elif name == b"..":
        here = await context.operations.getattr(request.node)
        inode = await context.operations.getattr(here.parent)
    else:
        try:
            inode = await context.as_caller(
                request, lambda who: context.lookup(who, request.node, name))
        except FsError as failure:
            # Nobody tells of what comes into the side tree.
            if (failure.kind != Kind.NOT_FOUND or context.feed is None
                    or request.node >= side_tree.FIRST):
                raise
            return messages.no_entry(context.validity)
    return context.entry(inode)


async def getattr_(context: Context, request: Request) -> bytes:
    """stat(2), and what the kernel asks before it reads, or seeks from the end of a file."""
    lengths = context.drops.lengths
    doubt = lengths.doubt(request)
    inode = await context.attributes(request.node)
    if doubt:
        # What cannot be read is the business of whoever reads.
        with contextlib.suppress(FsError):
            if lengths.missing(inode):
                await context.lengthen(
                    request.node, request.fields(protocol.GETATTR_IN)[2], inode.length)
            lengths.settle(inode, doubt)
    return context.attributes_reply(inode)


async def statx(context: Context, request: Request) -> bytes:
    """statx(2): as stat, and the time of birth."""
    request.fields(protocol.STATX_IN)
    return messages.extended_attributes(
        await context.attributes(request.node), context.validity)


async def setattr_(context: Context, request: Request) -> bytes:
    """chmod, chown, truncate, utimensat."""
    (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
        request.fields(protocol.SETATTR_IN))

    async def call(who: common_pb2.Credential) -> meta_pb2.Inode:
        change = meta_pb2.SetAttrRequest(
            credential=who, inode_id=request.node,
            atime_now=bool(valid & protocol.FATTR_ATIME_NOW),
            mtime_now=bool(valid & protocol.FATTR_MTIME_NOW))
        if valid & protocol.FATTR_MODE:
            change.mode = stat.S_IMODE(mode)
        if valid & protocol.FATTR_UID:
            change.uid = uid
        if valid & protocol.FATTR_GID:
            change.gid = gid
        if valid & protocol.FATTR_ATIME and not change.atime_now:
            change.atime_ns = _time(atime, atime_ns)
        if valid & protocol.FATTR_MTIME and not change.mtime_now:
            change.mtime_ns = _time(mtime, mtime_ns)
        return await context.operations.setattr(
            change, size if valid & protocol.FATTR_SIZE else None,
            handle if valid & protocol.FATTR_FH else 0)

    await context.drops.settle(request.node)
    # A caller who is not of the file's group cannot set set-group-ID, and is not told.
    inode = await context.as_caller(
        request, call, with_groups=bool(valid & protocol.FATTR_MODE and mode & stat.S_ISGID))
    if valid & protocol.FATTR_SIZE:
        context.twins.zero(request.node, size, file_bytes_max(inode.layout) - size)
    if valid & protocol.FATTR_KILL_SUIDGID:
        inode = await context.kill_privileges(request.node, inode)
    return context.attributes_reply(inode)


def _time(seconds: int, nanoseconds: int) -> int:
    """Nanoseconds since 1970; times before, which arrive as large numbers, are not kept."""
    if seconds >= 1 << 34 or nanoseconds >= NANOSECONDS:
        raise RefusedError(errno.EINVAL)
    return seconds * NANOSECONDS + nanoseconds


async def readlink(context: Context, request: Request) -> bytes:
    """readlink(2)."""
    return await context.operations.readlink(request.node)


async def symlink(context: Context, request: Request) -> bytes:
    """symlink(2)."""
    name, target = request.names(2, longest=SYMLINK_TARGET_MAX)
    if len(name) > NAME_BYTES_MAX:
        raise RefusedError(errno.ENAMETOOLONG)
    return context.entry(await context.as_caller(
        request, lambda who: context.operations.symlink(who, request.node, name, target)))


async def mknod(context: Context, request: Request) -> bytes:
    """mknod(2)."""
    mode, device, umask, _ = request.fields(protocol.MKNOD_IN)
    name = request.name(protocol.MKNOD_IN.size)
    kind = type_of(mode)
    if kind is None:
        raise RefusedError(errno.EINVAL)
    if kind != meta_pb2.REGULAR:
        return context.entry(await context.as_caller(
            request, lambda who: context.operations.make_node(meta_pb2.MakeNodeRequest(
                credential=who, parent=request.node, name=name, mode=stat.S_IMODE(mode),
                type=kind, rdev=device, umask=umask))))
    handle, inode = await context.as_caller(request, lambda who: context.operations.create(
        who, request.node, name, stat.S_IMODE(mode), flags=OpenFlags(exclusive=True),
        umask=umask))
    await context.operations.release(handle)
    return context.entry(inode)


async def mkdir(context: Context, request: Request) -> bytes:
    """mkdir(2)."""
    mode, umask = request.fields(protocol.MKDIR_IN)
    name = request.name(protocol.MKDIR_IN.size)
    return context.entry(await context.as_caller(
        request, lambda who: context.operations.mkdir(
            who, request.node, name, stat.S_IMODE(mode), umask=umask)))


async def unlink(context: Context, request: Request) -> bytes:
    """unlink(2)."""
    name = request.name()
    await context.as_caller(
        request, lambda who: context.operations.unlink(who, request.node, name))
    return b""


async def rmdir(context: Context, request: Request) -> bytes:
    """rmdir(2)."""
    name = request.name()
    await context.as_caller(
        request, lambda who: context.operations.rmdir(who, request.node, name))
    return b""


async def rename(context: Context, request: Request) -> bytes:
    """rename(2)."""
    new_parent = request.fields(protocol.RENAME_IN)[0]
    return await _rename(context, request, new_parent, 0, protocol.RENAME_IN.size)


async def rename2(context: Context, request: Request) -> bytes:
    """renameat2(2) with NOREPLACE and EXCHANGE."""
    new_parent, flags, _ = request.fields(protocol.RENAME2_IN)
    if flags & ~(protocol.RENAME_NOREPLACE | protocol.RENAME_EXCHANGE):
        raise RefusedError(errno.EINVAL)
    return await _rename(context, request, new_parent, flags, protocol.RENAME2_IN.size)


async def _rename(
    context: Context, request: Request, new_parent: int, flags: int, start: int
) -> bytes:
    name, new_name = request.names(2, start)
    await context.as_caller(request, lambda who: context.operations.rename(
        meta_pb2.RenameRequest(
            credential=who, parent=request.node, name=name, new_parent=new_parent,
            new_name=new_name, no_replace=bool(flags & protocol.RENAME_NOREPLACE),
            exchange=bool(flags & protocol.RENAME_EXCHANGE))))
    return b""


async def link(context: Context, request: Request) -> bytes:
    """link(2)."""
    inode_id = request.fields(protocol.LINK_IN)[0]
    name = request.name(protocol.LINK_IN.size)
    return context.entry(await context.as_caller(
        request, lambda who: context.operations.link(who, inode_id, request.node, name)))


async def statfs(context: Context, request: Request) -> bytes:
    """statfs(2)."""
    found = await context.operations.statfs(request.node)
    free = found.free_bytes // BLOCK
    files, files_free = file_counts(found)
    return protocol.STATFS_OUT.pack(
        found.capacity_bytes // BLOCK, free, free, files, files_free, BLOCK,
        NAME_BYTES_MAX, BLOCK, 0)
