"""What every handler of the direct binding is given besides its request.

Layer: shell.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from luciole.client.fuse.attributes import SeenVersions, as_caller
from luciole.client.fuse.direct.interrupts import Interrupts
from luciole.client.fuse.direct.messages import Request, Validity
from luciole.client.operations import Operations
from luciole.proto import common_pb2, meta_pb2

T = TypeVar("T")
# The kernel has decided about permission; only the bits are left to clear.
_KERNEL = common_pb2.Credential(uid=0, gid=0)


@dataclass(frozen=True)
class Context:
    """The filesystem and how the kernel may cache it."""

    operations: Operations
    validity: Validity
    seen: SeenVersions = field(default_factory=SeenVersions)
    interrupts: Interrupts = field(default_factory=Interrupts)
    # Makes the kernel forget attributes and pages of an inode; gives it bytes from an offset on.
    drop_pages: Callable[[int], object] = lambda inode_id: None
    store_page: Callable[[int, int, memoryview], object] = lambda inode_id, offset, data: None

    async def as_caller(
        self, request: Request, call: Callable[[common_pb2.Credential], Awaitable[T]]
    ) -> T:
        """Calls with the ids of whoever made the request."""
        return await as_caller(request.uid, request.gid, request.pid, call)

    async def kill_privileges(self, inode_id: int) -> None:
        """Clears set-user-ID, and set-group-ID of an executable, as HANDLE_KILLPRIV_V2 promises."""
        inode = await self.operations.getattr(inode_id)
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode != inode.mode and inode.type == meta_pb2.REGULAR:
            await self.operations.setattr(meta_pb2.SetAttrRequest(
                credential=_KERNEL, inode_id=inode_id, mode=mode))
