"""What every handler of the direct binding is given besides its request.

Layer: shell.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from luciole.client.fuse.attributes import SeenVersions, as_caller
from luciole.client.fuse.direct import messages
from luciole.client.fuse.direct.around import Around
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.interrupts import Interrupts
from luciole.client.fuse.direct.messages import NOT_VALID, Request, Validity
from luciole.client.fuse.direct.twins import Twins
from luciole.client.operations import Operations
from luciole.proto import common_pb2, meta_pb2

T = TypeVar("T")
# The kernel has decided about permission; only the bits are left to clear.
_KERNEL = common_pb2.Credential(uid=0, gid=0)


class Freshness(Protocol):
    """Whether others' changes are told, and how often they were."""

    @property
    def live(self) -> bool:
        """Whether they are."""

    @property
    def count(self) -> int:
        """Grows with every change that is told."""


class _OfThread(threading.local):
    count = 0


@dataclass(frozen=True)
class Context:
    """The filesystem and how the kernel may cache it."""

    operations: Operations
    told: Validity  # while others' changes are told
    untold: Validity
    drops: Drops
    feed: Freshness | None = None
    seen: SeenVersions = field(default_factory=SeenVersions)
    interrupts: Interrupts = field(default_factory=Interrupts)
    twins: Twins = field(default_factory=Twins)
    around: Around | None = None
    # Gives the kernel bytes of an inode from an offset on.
    store_page: Callable[[int, int, memoryview], object] = lambda inode_id, offset, data: None
    _begun: _OfThread = field(default_factory=_OfThread)

    def begin(self) -> None:
        """This thread begins to answer a request."""
        if self.feed is not None:
            self._begun.count = self.feed.count

    @property
    def validity(self) -> Validity:
        """For how long the kernel may believe the answer to this thread's request.

        Not at all when changes were told meanwhile: the answer may be from before them, and the
        kernel would get it after having forgotten what it had.
        """
        if self.feed is None or not self.feed.live:
            return self.untold
        return self.told if self.feed.count == self._begun.count else NOT_VALID

    def entry(self, inode: meta_pb2.Inode) -> bytes:
        """The data of a reply that gives the kernel an inode."""
        self._given(inode)
        return messages.entry(inode, self.validity)

    def attributes_reply(self, inode: meta_pb2.Inode) -> bytes:
        """The data of a reply that gives the kernel the attributes of an inode that it has."""
        self._given(inode)
        return messages.attributes(inode, self.validity)

    def _given(self, inode: meta_pb2.Inode) -> None:
        if not self.seen.given(inode) and self.around is not None:
            self.around.disturbed(inode.inode_id)

    async def attributes(self, inode_id: int) -> meta_pb2.Inode:
        """The attributes of an inode, from the answer to this mount's last change if they may be.

        What others change is told in between, or while this request is answered: see `validity`.
        """
        if self.feed is not None and self.feed.live:
            taken = self.operations.taken(inode_id)
            if taken is not None:
                return taken
        return await self.operations.getattr(inode_id)

    async def lookup(
        self, who: common_pb2.Credential, parent: int, name: bytes
    ) -> meta_pb2.Inode:
        """What is behind a name, also from what is known if others' changes are told."""
        believe = self.feed is not None and self.feed.live
        return await self.operations.lookup(who, parent, name, believe=believe)

    async def lengthen(self, inode_id: int, handle: int, end: int) -> None:
        """The kernel takes a file to have `end` bytes at least. Raises FsError.

        Pages that it is given lengthen a file. Not for a thread of those that serve reads: the
        kernel may wait for one of them to get that page.
        """
        last = await self.operations.read(handle, end - 1, 1)
        if last:
            self.twins.forget(inode_id, end - 1, 1)
            self.store_page(inode_id, end - 1, last)

    async def as_caller(
        self, request: Request, call: Callable[[common_pb2.Credential], Awaitable[T]],
        *, with_groups: bool = False,
    ) -> T:
        """Calls with the ids of whoever made the request."""
        return await as_caller(
            request.uid, request.gid, request.pid, call, with_groups=with_groups)

    async def kill_privileges(
        self, inode_id: int, known: meta_pb2.Inode | None = None
    ) -> meta_pb2.Inode:
        """Clears set-user-ID, and set-group-ID of an executable, as HANDLE_KILLPRIV_V2 promises.

        `known` is the inode if the caller has just been told. Returns it as it is now.
        """
        inode = known or await self.operations.getattr(inode_id)
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode == inode.mode or inode.type != meta_pb2.REGULAR:
            return inode
        return await self.operations.setattr(meta_pb2.SetAttrRequest(
            credential=_KERNEL, inode_id=inode_id, mode=mode))
