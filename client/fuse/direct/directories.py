"""Handlers for listings.

Layer: shell. As `names`. Positions 0 and 1 are `.` and `..`; behind them they count entries.
"""

from __future__ import annotations

from luciole.client.fuse.direct import messages, protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import Request
from luciole.proto import meta_pb2

# With attributes and a name of up to eight bytes; of longer ones a few less fit.
SHORTEST_ENTRY = protocol.ENTRY_OUT.size + protocol.DIRENT.size + 8


async def opendir(context: Context, request: Request) -> bytes:
    """opendir(3)."""
    request.fields(protocol.OPEN_IN)
    handle = await context.as_caller(
        request, lambda who: context.operations.opendir(who, request.node))
    return protocol.OPEN_OUT.pack(handle, 0, 0)


async def readdir(context: Context, request: Request) -> bytes:
    """readdir(3), names only."""
    return await _list(context, request, plus=False)


async def readdirplus(context: Context, request: Request) -> bytes:
    """readdir(3) with the attributes of each entry, which spares as many lookups."""
    return await _list(context, request, plus=True)


async def _list(context: Context, request: Request, *, plus: bool) -> bytes:
    handle, position, size, _, _, _, _ = request.fields(protocol.READ_IN)
    listing = context.operations.directory(handle)
    if plus or position == 0:
        await context.operations.refresh_listing(
            handle, max(0, position - 2), max(1, size // SHORTEST_ENTRY))
    answer = bytearray()
    while True:
        if position < 2:
            name = (b".", b"..")[position]
            inode = meta_pb2.Inode(
                inode_id=(listing.inode_id, listing.parent)[position],
                type=meta_pb2.DIRECTORY, mode=0o755)
        else:
            found = await context.operations.readdir(handle, position - 2, inodes=plus)
            if found is None:
                return bytes(answer)
            name, inode = found.dentry.name, found.inode
            if not plus:
                inode = meta_pb2.Inode(
                    inode_id=found.dentry.inode_id, type=found.dentry.type)
        position += 1
        if not inode.inode_id:
            continue  # it went between listing and reading
        piece = messages.directory_entry(inode, name, position)
        if plus:
            # No entry structure for the two: the kernel takes their names without it.
            known = position > 2
            piece = (context.entry(inode) if known else messages.NO_ENTRY) \
                + piece
        if len(answer) + len(piece) > size:
            return bytes(answer)
        answer += piece


async def releasedir(context: Context, request: Request) -> bytes:
    """closedir(3)."""
    context.operations.releasedir(request.fields(protocol.RELEASE_IN)[0])
    return b""


async def fsyncdir(context: Context, request: Request) -> bytes:
    """fsync(2) of a directory."""
    await context.operations.fsyncdir(request.fields(protocol.FSYNC_IN)[0])
    return b""
