"""Directories whose entries this client has just changed: what the answer said of them.

Layer: shell. The kernel forgets the attributes of a directory when it changes it, and asks for them
before the next change. The answer to the change has told them, as they were when it committed.

They are given once, for `believe_seconds` at most, and only while nobody is known to have changed
the directory since: others, of whom the feed tells, and this client, whose changes are not told to
itself. An answer that was overtaken by any news is not kept. Of changes that this client makes to
one directory at once the last to be answered counts: so this is for callers who, like the kernel,
let one at a time change a directory, its attributes and access control lists among them.

Invariant: what is held is true of the directory, or the feed will tell. The lock guards the table.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TypeVar

from luciole.client.known_names import KnownNames
from luciole.client.remote.meta import MetaClient
from luciole.proto import meta_pb2
from luciole.proto.method import Method
from luciole.runtime import Runtime

HELD_MAX = 256
RequestT = TypeVar(
    "RequestT", meta_pb2.CreateRequest, meta_pb2.MakeDirRequest, meta_pb2.MakeNodeRequest,
    meta_pb2.RemoveRequest, meta_pb2.SymlinkRequest, meta_pb2.LinkRequest, meta_pb2.RenameRequest)
ReplyT = TypeVar(
    "ReplyT", meta_pb2.CreateReply, meta_pb2.InodeReply, meta_pb2.RemoveReply,
    meta_pb2.RenameReply)


class Parents:
    """Changes of directories through one client."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, names: KnownNames, *, believe_seconds: float
    ) -> None:
        """`names` is told of all changes."""
        self._names = names
        self._runtime = runtime
        self._meta = meta
        self._believe_seconds = believe_seconds
        self._guard = threading.Lock()
        self._news = 0  # grows with everything that may make an answer old that is under way
        self._held: dict[int, tuple[float, meta_pb2.Inode]] = {}  # with the end of its time

    async def change(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """As `MetaClient.change`, for calls that change entries of directories."""
        news = self._begin(request)
        try:
            reply = await self._meta.change(method, request)
        except BaseException:
            self._tell_names(request)  # it may have been done
            raise
        self._tell_names(request, reply)
        # A directory that was itself moved or removed is another than it was as a parent.
        others = [reply.inode]
        if isinstance(reply, meta_pb2.RenameReply):
            others.append(reply.replaced)
        moved = [inode.inode_id for inode in others if inode.type == meta_pb2.DIRECTORY]
        if self._believe_seconds:
            self._keep(news, reply.directories)
        if moved:
            self.forget(moved)
        return reply

    def _tell_names(
        self, request: RequestT, reply: meta_pb2.CreateReply | meta_pb2.InodeReply |
        meta_pb2.RemoveReply | meta_pb2.RenameReply | None = None,
    ) -> None:
        touched = [request.parent]
        if reply is not None and not isinstance(request, meta_pb2.MakeDirRequest):
            touched.append(reply.inode.inode_id)
        self._names.changed_name(request.parent, request.name, gone=isinstance(
            reply, meta_pb2.RemoveReply))
        if isinstance(request, meta_pb2.RenameRequest):
            # One of two names of one file stays, so the old name is not said to be gone.
            touched.append(request.new_parent)
            self._names.changed_name(request.new_parent, request.new_name)
            if isinstance(reply, meta_pb2.RenameReply):
                touched.append(reply.replaced.inode_id)
        self._names.changed(touched)

    def _begin(self, request: RequestT) -> int:
        with self._guard:
            self._held.pop(request.parent, None)
            if isinstance(request, meta_pb2.RenameRequest):
                self._held.pop(request.new_parent, None)
            return self._news

    def _keep(self, news: int, directories: Iterable[meta_pb2.Inode]) -> None:
        until = self._runtime.clock.now() + self._believe_seconds
        with self._guard:
            if news != self._news:
                return
            for directory in directories:
                self._held[directory.inode_id] = until, directory
                if len(self._held) > HELD_MAX:
                    del self._held[next(iter(self._held))]

    def forget(self, inode_ids: Iterable[int]) -> None:
        """These were, or are about to be, changed otherwise."""
        with self._guard:
            self._news += 1
            for inode_id in inode_ids:
                self._held.pop(inode_id, None)

    def forget_all(self) -> None:
        """Anything may have changed."""
        with self._guard:
            self._news += 1
            self._held.clear()

    def take(self, inode_id: int) -> meta_pb2.Inode | None:
        """A directory as this client's last change left it, if that is still true; once."""
        if inode_id not in self._held:
            return None
        with self._guard:
            until, inode = self._held.pop(inode_id, (0.0, None))
        return inode if self._runtime.clock.now() < until else None
