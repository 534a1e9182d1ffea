"""Handlers for open files.

Layer: shell. As `names`. No byte of a read or a write is copied here: a read is received into the
memory from which the kernel takes the reply, a write sent from that into which the kernel put it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from luciole.client.batch_reads import read_many
from luciole.client.core.layout import file_bytes_max
from luciole.client.core.runs import Run
from luciole.client.fuse.attributes import open_flags
from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.drops import Stored, lay_over
from luciole.client.fuse.direct.mappings import write_back
from luciole.client.fuse.direct.messages import MALFORMED, RefusedError, Request
from luciole.client.fuse.direct.twins import passes_pages
from luciole.client.handles import OpenFlags
from luciole.client.remote.packed import LARGE_BYTES
from luciole.errors import FsError
from luciole.proto import meta_pb2

# Below that, copying a write costs less than taking other memory for the next request.
LENT_BYTES_MIN = 32 * 1024


def _opened(
    context: Context, handle: int, inode: meta_pb2.Inode, flags: OpenFlags
) -> bytes:
    """struct fuse_open_out.

    Without NOFLUSH, also for readers: a close tells which fcntl locks go.
    """
    # Writers of one file are put in order by its own lock, not by the kernel's.
    answer = protocol.FOPEN_PARALLEL_DIRECT_WRITES
    unknown = flags.read and flags.write and context.twins.begin(inode.inode_id)
    unchanged = context.seen.unchanged(inode)
    if context.around is not None and (flags.write or not unchanged):
        context.around.disturbed(inode.inode_id)
    if unchanged and not unknown:
        answer |= protocol.FOPEN_KEEP_CACHE
    if context.seen.outdated(inode):
        # What is told of it may be on its way yet, and an open is not to be older than the last
        # close: a read would end where the kernel takes the file to end.
        context.drops.attributes_changed(inode.inode_id)
    if flags.truncate:
        context.twins.zero(inode.inode_id, 0, file_bytes_max(inode.layout))
    if flags.append and flags.write:
        # The kernel does not know where an append ends up, so it may keep no page of it.
        answer |= protocol.FOPEN_DIRECT_IO
    return protocol.OPEN_OUT.pack(handle, answer, 0)


async def create(context: Context, request: Request) -> bytes:
    """open(2) with O_CREAT."""
    return await _create(context, request, request.name(protocol.CREATE_IN.size))


async def tmpfile(context: Context, request: Request) -> bytes:
    """open(2) with O_TMPFILE; the name in the request means nothing."""
    return await _create(context, request, b"")


async def _create(context: Context, request: Request, name: bytes) -> bytes:
    # The flag to clear set-user-ID is not for a file that is new; for one that is there the service
    # does it with the cut.
    number, mode, umask, _ = request.fields(protocol.CREATE_IN)
    flags = open_flags(number)
    handle, inode = await context.as_caller(request, lambda who: context.operations.create(
        who, request.node, name, stat.S_IMODE(mode), flags=flags, umask=umask))
    return context.entry(inode) + _opened(context, handle, inode, flags)


async def open_(context: Context, request: Request) -> bytes:
    """open(2)."""
    number, kill = request.fields(protocol.OPEN_IN)
    flags = open_flags(number)
    handle, inode = await context.as_caller(
        request, lambda who: context.operations.open(who, request.node, flags))
    if kill & protocol.OPEN_KILL_SUIDGID:
        await context.kill_privileges(request.node, inode)
    return _opened(context, handle, inode, flags)


async def read(context: Context, request: Request) -> memoryview:
    """pread(2)."""
    fields = request.fields(protocol.READ_IN)
    handle, offset, size, *_ = fields
    room = request.room
    if room is not None and len(room) < size:
        raise RefusedError(MALFORMED)
    staged = context.drops.staged(request.node)
    data = _fetched(context, request.node, fields, room)
    if data is None:
        data = await context.operations.read(handle, offset, size, room)
    _given(context, request, data, staged)
    return data


def _fetched(
    context: Context, node: int, fields: tuple[int, ...], room: memoryview | None
) -> memoryview | None:
    """What a read finds in a region that is being fetched; None: it is to be asked for."""
    handle, offset, size, _, _, flags, _ = fields
    around = context.around
    if around is None or room is None or passes_pages(flags):
        return None
    fetch = around.covering(node, offset, size) or around.asked(node, handle, offset, size)
    found = None if fetch is None else fetch.part(offset, size)
    if found is None:
        return None
    room[:size] = found
    return room[:size]


async def read_together(
    context: Context, requests: Sequence[Request]
) -> list[memoryview | None]:
    """Many reads at once: what each is answered, or None: it is to be asked by itself.

    Each has a room, and a body of READ_IN at least (`small_read`).
    """
    asked = [request.fields(protocol.READ_IN) for request in requests]
    _note_asked(context, requests, asked)
    staged = [context.drops.staged(request.node) for request in requests]
    rooms = [_room_of(request)[: fields[2]]
             for request, fields in zip(requests, asked, strict=True)]
    results = await read_many(context.operations, [
        (fields[0], fields[1], room) for fields, room in zip(asked, rooms, strict=True)])
    answers: list[memoryview | None] = []
    for number, result in enumerate(results):
        if isinstance(result, FsError):
            answers.append(None)
            continue
        data = rooms[number][:result]
        _given(context, requests[number], data, staged[number])
        answers.append(data)
    return answers


def _note_asked(
    context: Context, requests: Sequence[Request], asked: list[tuple[int, ...]]
) -> None:
    """Reads are going to be asked for: perhaps their regions are to be fetched."""
    around = context.around
    if around is None:
        return
    for request, (handle, offset, size, _, _, flags, _) in zip(requests, asked, strict=True):
        if not passes_pages(flags) and around.covering(request.node, offset, size) is None:
            around.asked(request.node, handle, offset, size)


def small_read(request: Request) -> bool:
    """Whether it is a read that gains by travelling with others."""
    return (request.opcode == protocol.Opcode.READ and len(request.body) >= protocol.READ_IN.size
            and request.room is not None
            and request.fields(protocol.READ_IN)[2] < min(LARGE_BYTES, len(request.room)))


def _room_of(request: Request) -> memoryview:
    assert request.room is not None
    return request.room


def _given(
    context: Context, request: Request, data: memoryview, staged: list[Stored]
) -> None:
    """The kernel gets `data` as the answer to a read, with what was `staged` before it."""
    _, offset, size, _, _, flags, _ = request.fields(protocol.READ_IN)
    lay_over(data, offset, staged)
    if passes_pages(flags):
        context.twins.forget(request.node, offset, size)
    else:
        context.twins.given(request.node, offset, data, size)
    if request.abandoned:  # the page may have been read anew meanwhile
        context.twins.forget(request.node, offset, size)


async def write(context: Context, request: Request) -> bytes:
    """pwrite(2)."""
    handle, offset, size, flags, _, open_now, _ = request.fields(protocol.WRITE_IN)
    data = request.body[protocol.WRITE_IN.size :]
    if len(data) != size:
        raise RefusedError(MALFORMED)
    if size >= LENT_BYTES_MIN:
        # Read-only memory says that the bytes stay as they are until the last view of them is gone;
        # what could be changed is copied.
        request.lent = True
        data = data.toreadonly()
    # Pages of a mapping have their place, also in a file that was opened to append.
    if flags & protocol.WRITE_CACHE:
        stored = [Stored(handle, Run(offset + begin, bytes(data[begin:end])))
                  for begin, end in context.twins.differences(request.node, offset, data)]
        if not context.drops.stage(request.node, stored) and stored:
            await context.drops.show(request.node, stored)
    else:
        await context.drops.settle(request.node)
        await context.operations.write(
            handle, offset, data, append=bool(open_now & os.O_APPEND))
    if passes_pages(open_now) and not flags & protocol.WRITE_CACHE:
        context.twins.forget(request.node, offset, size)
    else:
        context.twins.taken(request.node, offset, data)
    if flags & protocol.WRITE_KILL_SUIDGID:
        await context.kill_privileges(request.node)
    return protocol.WRITE_OUT.pack(size, 0)


async def flush(context: Context, request: Request) -> bytes:
    """close(2)."""
    handle, _, _, owner = request.fields(protocol.FLUSH_IN)
    if context.operations.locks.holds(request.node, owner):
        write_back(context, request)
    await context.drops.settle(request.node)
    await context.operations.flush(handle, owner)
    return b""


async def fsync(context: Context, request: Request) -> bytes:
    """fsync(2) and fdatasync(2): the length is needed to read the data back, so both alike."""
    await context.drops.settle(request.node)
    await context.operations.fsync(request.fields(protocol.FSYNC_IN)[0])
    return b""


async def release(context: Context, request: Request) -> bytes:
    """The last close of an open file description."""
    handle = request.fields(protocol.RELEASE_IN)[0]
    if context.operations.locks.handle_holds(handle):
        write_back(context, request)
    try:
        await context.drops.settle(request.node)
    finally:
        await context.operations.release(handle)
    return b""
