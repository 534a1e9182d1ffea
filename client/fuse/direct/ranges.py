"""Handlers for ranges of open files: room and holes, and copies that pass no client.

Layer: shell. As `names`. The kernel has written its dirty pages of the ranges back before it asks,
and drops its pages of what a call has changed.
"""

from __future__ import annotations

import errno
import os

from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import RefusedError, Request

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
_MODES = {0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE}


async def fallocate(context: Context, request: Request) -> bytes:
    """fallocate(2): allocate, punch and zero; what would move bytes is EOPNOTSUPP."""
    handle, offset, length, mode, _ = request.fields(protocol.FALLOCATE_IN)
    if mode not in _MODES:
        raise RefusedError(errno.EOPNOTSUPP)
    await context.drops.settle(request.node)
    await context.operations.fallocate(
        handle, offset, length, zero=bool(mode & (PUNCH_HOLE | ZERO_RANGE)),
        keep_size=bool(mode & KEEP_SIZE))
    if mode & (PUNCH_HOLE | ZERO_RANGE):
        context.twins.zero(request.node, offset, length)
    await _changed(context, request, request.node)
    return b""


async def _changed(context: Context, request: Request, node: int) -> None:
    """Set-ID bits fall as with a write, of which the kernel would tell by a flag."""
    if request.uid != 0:
        await context.kill_privileges(node)


async def lseek(context: Context, request: Request) -> bytes:
    """lseek(2) with SEEK_DATA or SEEK_HOLE; the kernel knows the others."""
    handle, offset, whence, _ = request.fields(protocol.LSEEK_IN)
    if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
        raise RefusedError(errno.EINVAL)
    await context.drops.settle(request.node)
    found = await context.operations.seek(handle, offset, data=whence == os.SEEK_DATA)
    if found is None:
        raise RefusedError(errno.ENXIO)
    return protocol.LSEEK_OUT.pack(found)


async def _copy(context: Context, request: Request) -> int:
    source, source_offset, node, handle, offset, count, flags = request.fields(
        protocol.COPY_FILE_RANGE_IN)
    if flags:
        raise RefusedError(errno.EINVAL)
    await context.drops.settle(request.node)
    await context.drops.settle(node)
    done = await context.operations.copy_range(source, source_offset, handle, offset, count)
    if done:
        await _changed(context, request, node)
    return done


async def copy_file_range(context: Context, request: Request) -> bytes:
    """copy_file_range(2)."""
    return protocol.WRITE_OUT.pack(await _copy(context, request), 0)


async def copy_file_range_64(context: Context, request: Request) -> bytes:
    """copy_file_range(2) of a newer kernel, whose reply has room for 64 bits."""
    return protocol.LSEEK_OUT.pack(await _copy(context, request))
