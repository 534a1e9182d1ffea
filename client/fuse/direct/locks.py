"""Handlers for locks: flock(2) and fcntl(2), which hold on all mounts.

Layer: shell. As `names`. These run on threads of their own (server.py): a lock is waited for
without a bound, and before it is announced the kernel may have to drop pages, for which it may need
the answers of the threads that serve reads.
"""

from __future__ import annotations

import errno
import fcntl

from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.mappings import write_back
from luciole.client.fuse.direct.messages import RefusedError, Request
from luciole.client.locks import Waiting
from luciole.proto import meta_pb2

_TYPES = {fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK}


def _asked(request: Request) -> tuple[int, int, meta_pb2.FileLock]:
    """(handle, type, lock) of struct fuse_lk_in."""
    handle, owner, first, last, kind, pid, flags, _ = request.fields(protocol.LOCK_IN)
    if kind not in _TYPES:
        raise RefusedError(errno.EINVAL)
    return handle, kind, meta_pb2.FileLock(
        owner=owner, flock=bool(flags & protocol.LK_FLOCK), write=kind == fcntl.F_WRLCK,
        first=first, last=last, pid=pid)


async def getlk(context: Context, request: Request) -> bytes:
    """fcntl(2) with F_GETLK."""
    handle, kind, lock = _asked(request)
    found = await context.operations.test_lock(handle, lock)
    if found is None:
        return protocol.LOCK_OUT.pack(lock.first, lock.last, fcntl.F_UNLCK, 0)
    kind = fcntl.F_WRLCK if found.write else fcntl.F_RDLCK
    return protocol.LOCK_OUT.pack(found.first, found.last, kind, found.pid)


async def setlk(context: Context, request: Request) -> bytes:
    """F_SETLK, flock with LOCK_NB, and every unlock."""
    return await _set(context, request, None)


async def setlkw(context: Context, request: Request) -> bytes:
    """F_SETLKW, and flock that waits."""
    with context.interrupts.waiting(request.unique) as waiting:
        return await _set(context, request, waiting)


async def _set(context: Context, request: Request, waiting: Waiting | None) -> bytes:
    handle, kind, lock = _asked(request)
    if kind == fcntl.F_UNLCK:
        write_back(context, request)
        await context.operations.unlock(handle, lock)
        return b""
    if context.operations.lock_weakens(handle, lock):
        write_back(context, request)
    fresh = await context.operations.lock(handle, lock, waiting)
    if fresh.pages:
        context.drops.drop(request.node)
    if fresh.end:
        # Where O_APPEND writes, the kernel takes from its own length, for which it does not ask.
        await context.lengthen(request.node, handle, fresh.end)
    return b""


async def interrupt(context: Context, request: Request) -> bytes:
    """A signal for whoever made another request. There is no reply."""
    waiting = context.interrupts.announced(request.fields(protocol.INTERRUPT_IN)[0])
    if waiting is not None:
        await context.operations.locks.interrupt(waiting)
    return b""
