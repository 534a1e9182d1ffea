"""The trash of a directory, as commands need it.

Layer: shell. Works on paths of the filesystem, as `trees.py`.
"""

from __future__ import annotations

import os

from luciole.client.trees import Trees
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, services


async def items(trees: Trees, directory: meta_pb2.Inode) -> list[meta_pb2.Inode]:
    """What is in the trash of a directory and the caller may see, in order of removal."""
    found: list[meta_pb2.Inode] = []
    after = b""
    while True:
        reply = await trees.meta.ask(services.META_LIST_TRASH, meta_pb2.ListTrashRequest(
            credential=trees.credential, inode_id=directory.inode_id, after=after))
        found += reply.inodes
        if not reply.more:
            return found
        after = reply.last


async def restore(
    trees: Trees, directory: meta_pb2.Inode, inode_id: int, to: str | None
) -> meta_pb2.Inode:
    """Brings an item back to where it was, or to the path `to`, which must not exist."""
    item = next((item for item in await items(trees, directory)
                 if item.inode_id == inode_id), None)
    if item is None:
        raise FsError(Kind.NOT_FOUND, "no such item: `luciole trash list` shows the numbers",
                      str(inode_id))
    request = meta_pb2.RestoreRequest(
        credential=trees.credential, directory=directory.inode_id, inode_id=inode_id,
        time_ns=item.trashed.time_ns)
    if to is not None:
        parent, _, name = to.rstrip("/").rpartition("/")
        request.parent = (await trees.find(parent or "/")).inode_id
        request.name = os.fsencode(name)
    try:
        return (await trees.meta.change(services.META_RESTORE, request)).inode
    except FsError as failure:
        if failure.kind != Kind.STALE_HANDLE:
            raise
        raise FsError(Kind.NOT_FOUND, "the directory that it was in is gone: name another place "
                      "with --to", str(inode_id)) from failure


async def empty(trees: Trees, directory: meta_pb2.Inode) -> int:
    """Removes everything in the trash of a directory for good; returns how many items."""
    removed = 0
    while True:
        reply = await trees.meta.change(services.META_EMPTY_TRASH, meta_pb2.EmptyTrashRequest(
            credential=trees.credential, inode_id=directory.inode_id))
        removed += reply.removed
        if not reply.more:
            return removed
