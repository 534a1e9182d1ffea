"""Extended attributes as a binding needs them, without a request where there are none.

Layer: shell. Before a write or a program's start the kernel asks for attributes that hardly any
file has, and before each step of a path for access control lists. Every inode that passes by says
which kinds it lacks, and is believed for a while unless a change is told. The lock guards the
table.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, services
from luciole.runtime import Runtime

KNOWN_MAX = 65_536
ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
_RECORDS = (b"user.", b"trusted.", b"security.")


class _Known(NamedTuple):
    until: float
    ctime_ns: int
    acl_access: bool
    acl_default: bool
    records: bool

    def lacks(self, name: bytes) -> bool:
        if name == ACL_ACCESS:
            return not self.acl_access
        if name == ACL_DEFAULT:
            return not self.acl_default
        return name.startswith(_RECORDS) and not self.records


class ExtendedAttributes:
    """The attributes of every inode, through one client."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, *, believe_seconds: float,
        changing: Callable[[Sequence[int]], None] = lambda inode_ids: None,
        prepare: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Args:
            changing: is told of inodes that are about to be changed, and of the same after it.
            prepare: awaited before the service is asked to change those of an inode.
        """
        self._changing = changing
        self._prepare = prepare
        self._runtime = runtime
        self._meta = meta
        self._believe_seconds = believe_seconds
        self._guard = threading.Lock()
        self._known: dict[int, _Known] = {}

    def seen(self, inode: meta_pb2.Inode) -> None:
        """Takes in what an answer says; an older one than is known changes nothing."""
        if not self._believe_seconds:
            return
        known = _Known(
            self._runtime.clock.now() + self._believe_seconds, inode.ctime_ns,
            bool(inode.acl_access), bool(inode.acl_default), bool(inode.xattr_bytes))
        with self._guard:
            before = self._known.pop(inode.inode_id, None)
            if before is not None and before.ctime_ns > inode.ctime_ns:
                known = before
            self._known[inode.inode_id] = known
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]

    def forget(self, inode_ids: Iterable[int]) -> None:
        """Others changed these."""
        with self._guard:
            for inode_id in inode_ids:
                self._known.pop(inode_id, None)

    def _believed(self, inode_id: int) -> _Known | None:
        with self._guard:
            known = self._known.get(inode_id)
        return known if known is not None and known.until > self._runtime.clock.now() else None

    async def get(self, credential: common_pb2.Credential, inode_id: int, name: bytes) -> bytes:
        """The value. Raises FsError NO_ATTRIBUTE when it is not there."""
        known = self._believed(inode_id)
        if known is not None and known.lacks(name):
            raise FsError(Kind.NO_ATTRIBUTE, "no such attribute", repr(name))
        return (await self._meta.ask(services.META_GET_XATTR, meta_pb2.GetXattrRequest(
            credential=credential, inode_id=inode_id, name=name))).value

    async def list(self, credential: common_pb2.Credential, inode_id: int) -> list[bytes]:
        """The names that the caller may see."""
        known = self._believed(inode_id)
        if known is not None and not (known.acl_access or known.acl_default or known.records):
            return []
        return list((await self._meta.ask(services.META_LIST_XATTR, meta_pb2.ListXattrRequest(
            credential=credential, inode_id=inode_id))).names)

    async def set(self, request: meta_pb2.SetXattrRequest) -> None:
        """Makes or replaces one."""
        await self._prepared(request.inode_id)
        with self._told([request.inode_id]):
            self.seen((await self._meta.change(services.META_SET_XATTR, request)).inode)

    async def _prepared(self, inode_id: int) -> None:
        if self._prepare is not None:
            await self._prepare(inode_id)

    @contextmanager
    def _told(self, inode_ids: Sequence[int]) -> Iterator[None]:
        self._changing(inode_ids)
        try:
            yield
        finally:
            self._changing(inode_ids)

    async def remove(
        self, credential: common_pb2.Credential, inode_id: int, name: bytes
    ) -> None:
        """Removes one. Raises FsError NO_ATTRIBUTE when it is not there."""
        await self._prepared(inode_id)
        with self._told([inode_id]):
            self.seen((await self._meta.change(
                services.META_REMOVE_XATTR, meta_pb2.RemoveXattrRequest(
                    credential=credential, inode_id=inode_id, name=name))).inode)
