"""Many paths at once: a request for each 256 of them, beside one for each directory on their way.

Layer: shell.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.session import Client
from luciole.client.trees import Trees
from luciole.errors import FsError
from luciole.limits import LOOKUPS_MAX
from luciole.proto import common_pb2, meta_pb2, services

READ = OpenFlags(read=True)
Found = meta_pb2.FoundName | FsError


async def find_many(
    client: Client, trees: Trees, who: common_pb2.Credential, paths: Sequence[str], *,
    content: bool = False,
) -> list[Found]:
    """What is at each path, or its failure; with `content`, also what is inline there."""
    directories: dict[str, int | FsError] = {}
    found: list[Found | None] = [None] * len(paths)
    wanted: list[tuple[int, meta_pb2.ChangedEntry]] = []
    for index, path in enumerate(paths):
        directory, _, name = path.rstrip("/").rpartition("/")
        if directory not in directories:
            directories[directory] = await _directory(trees, directory)
        parent = directories[directory]
        if isinstance(parent, FsError):
            found[index] = parent
            continue
        wanted.append((index, meta_pb2.ChangedEntry(
            parent=parent, name=os.fsencode(name) or b".")))
    for start in range(0, len(wanted), LOOKUPS_MAX):
        page = wanted[start : start + LOOKUPS_MAX]
        reply = await client.meta.ask(services.META_LOOKUP_MANY, meta_pb2.LookupManyRequest(
            credential=who, names=[name for _, name in page], with_content=content))
        for (index, _), one in zip(page, reply.found, strict=True):
            found[index] = FsError.from_proto(one.error) if one.HasField("error") else one
    return [one for one in found if one is not None]


async def _directory(trees: Trees, path: str) -> int | FsError:
    try:
        return (await trees.find(path + "/")).inode_id
    except FsError as failure:
        return failure


async def open_many(
    client: Client, trees: Trees, who: common_pb2.Credential, paths: Sequence[str]
) -> list[tuple[int, int] | FsError]:
    """Opens files for reading: (handle, inode) of each, or its failure."""
    operations = client.operations
    heard = operations.heard
    opened: list[tuple[int, int] | FsError] = []
    for path, one in zip(
            paths, await find_many(client, trees, who, paths, content=True), strict=True):
        if isinstance(one, FsError):
            opened.append(one)
        elif one.inode.type != meta_pb2.REGULAR or one.inode.trim_pending:
            opened.append(await _open(operations, trees, who, path))
        else:
            handle = operations.open_found(one.inode, one.content, heard, READ)
            opened.append((handle, one.inode.inode_id))
    return opened


async def _open(
    operations: Operations, trees: Trees, who: common_pb2.Credential, path: str
) -> tuple[int, int] | FsError:
    """As `FileSystem.open`: what is no plain file, or a link to one."""
    try:
        handle, inode = await operations.open(who, (await trees.find(path)).inode_id, READ)
    except FsError as failure:
        return failure
    return handle, inode.inode_id
