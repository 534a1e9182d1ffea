"""Paths and whole trees, as commands need them: without a mount, by requests to the service.

Layer: shell. Paths begin at the root of the filesystem, whatever is mounted where; symbolic links
are not followed. Every request carries the credential of whoever runs the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, services

ROOT_ID = 1
PAGE = 1000
DEPTH_MAX = 4096
Progress = Callable[[str, int, int], None]


def own_credential() -> common_pb2.Credential:
    """Of this process."""
    return common_pb2.Credential(uid=os.geteuid(), gid=os.getegid(), groups=os.getgroups())


class Trees:
    """Looks at paths and trees through one metadata client."""

    def __init__(self, meta: MetaClient, credential: common_pb2.Credential) -> None:
        self.meta = meta
        self.credential = credential

    async def find(self, path: str) -> meta_pb2.Inode:
        """The inode at a path. Raises FsError naming the first part that is not there."""
        reply = await self.meta.ask(
            services.META_STAT, meta_pb2.StatRequest(inode_id=ROOT_ID))
        inode, walked = reply.inode, ""
        for part in _parts(path):
            walked += "/" + part
            try:
                inode = (await self.meta.ask(services.META_LOOKUP, meta_pb2.LookupRequest(
                    credential=self.credential, parent=inode.inode_id,
                    name=os.fsencode(part)))).inode
            except FsError as failure:
                raise FsError(failure.kind, failure.message, walked) from failure
        return inode

    async def remove(self, path: str) -> meta_pb2.Inode:
        """Removes the directory at a path with everything below it, in one transaction."""
        parts = _parts(path)
        if not parts:
            raise FsError(Kind.INVALID_ARGUMENT, "the root cannot be removed: name what is in it",
                          path)
        parent = await self.find("/" + "/".join(parts[:-1]))
        request = meta_pb2.RemoveTreeRequest(
            credential=self.credential, parent=parent.inode_id, name=os.fsencode(parts[-1]))
        try:
            return (await self.meta.change(services.META_REMOVE_TREE, request)).inode
        except FsError as failure:
            raise FsError(failure.kind, failure.message, path) from failure

    async def measure(self, top: meta_pb2.Inode, progress: Progress) -> tuple[int, int]:
        """(bytes, inodes) below and with `top`, by reading all of it; each inode counts once."""
        seen = {top.inode_id}
        size = top.length
        waiting = [top.inode_id] if top.type == meta_pb2.DIRECTORY else []
        while waiting:
            for entry in await self._entries(waiting.pop(), with_inodes=True):
                inode = entry.inode
                if not inode.inode_id or inode.inode_id in seen:
                    continue  # gone since, or another name of what was counted
                seen.add(inode.inode_id)
                size += inode.length
                if inode.type == meta_pb2.DIRECTORY:
                    waiting.append(inode.inode_id)
            progress("counting", len(seen), 0)
        return size, len(seen)

    async def _entries(self, directory: int, *, with_inodes: bool) -> list[meta_pb2.DirEntry]:
        found: list[meta_pb2.DirEntry] = []
        while True:
            reply = await self.meta.ask(services.META_READ_DIR, meta_pb2.ReadDirRequest(
                credential=self.credential, inode_id=directory, limit=PAGE,
                after=found[-1].dentry.name if found else b"", with_inodes=with_inodes))
            found += reply.entries
            if not reply.more:
                return found

    async def path_of(self, directory: int) -> str:
        """The path of a directory, found by reading those above it; `<inode 7>` if it is gone."""
        names: list[str] = []
        here = directory
        try:
            while here != ROOT_ID and len(names) < DEPTH_MAX:
                inode = (await self.meta.ask(
                    services.META_STAT, meta_pb2.StatRequest(inode_id=here))).inode
                entries = await self._entries(inode.parent, with_inodes=False)
                names += [os.fsdecode(entry.dentry.name) for entry in entries
                          if entry.dentry.inode_id == here]
                here = inode.parent
        except FsError as failure:
            if failure.kind != Kind.STALE_HANDLE:
                raise
            return f"<inode {directory}>"
        return "/" + "/".join(reversed(names))

    async def quotas(self) -> list[meta_pb2.Quota]:
        """All quota roots."""
        found: list[meta_pb2.Quota] = []
        after = b""
        while True:
            reply = await self.meta.ask(
                services.META_SCAN_QUOTAS, meta_pb2.ScanRequest(after=after))
            found += reply.quotas
            if not reply.more:
                return found
            after = reply.last


def _parts(path: str) -> list[str]:
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise FsError(Kind.INVALID_ARGUMENT, "give a path from the root of the filesystem, such "
                      "as /datasets/old, without `..`", path)
    return [part for part in path.split("/") if part not in {"", "."}]
