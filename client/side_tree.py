"""A read-only tree beside the namespace, behind one name of the root that no listing shows.

Layer: shell, above `Operations`. Bindings hold `OperationsWithTree` as they would `Operations`. The
tree's inodes and open files have numbers from `FIRST` on, which the cluster never gives, so what
is asked costs one comparison more, and a lookup in the root one of names. Listings are those of
`Operations`; only their pages come from the tree. Whatever would change it is READ_ONLY, and what
else is asked of an open file of it is NOT_SUPPORTED (locks, copies between storage services).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from luciole.client.files import OpenFile
from luciole.client.handles import Handle, OpenFlags
from luciole.client.listing import DirectoryHandle
from luciole.client.listings import DIRECTORY_PAGE
from luciole.client.operations import Operations
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.remote.meta import MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.client.write_buffer import Spawn
from luciole.client.xattrs import ExtendedAttributes
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import Runtime

FIRST = 1 << 62
NAME = b".luciole"
ROOT_ID = 1
PAGE_MIN = 1024  # half of what a listing keeps

# Fills memory with the bytes of a file from an offset on. Raises FsError.
Read = Callable[[int, memoryview], Coroutine[Any, Any, None]]


class Tree(Protocol):
    """Directories and files that others make and remove."""

    async def inode(self, number: int) -> meta_pb2.Inode:
        """An inode; `FIRST` is that of the top. Raises FsError STALE_HANDLE: it is gone."""

    async def lookup(self, parent: int, name: bytes) -> meta_pb2.Inode:
        """What has a name. Raises FsError NOT_FOUND, STALE_HANDLE."""

    async def page(
        self, number: int, after: bytes, limit: int
    ) -> tuple[list[meta_pb2.DirEntry], bool]:
        """Entries of a directory behind the name `after`, in order, and whether there are more."""

    async def open(self, number: int) -> tuple[meta_pb2.Inode, Read]:
        """A file, and how it is read. Raises FsError STALE_HANDLE."""


MakeTree = Callable[[Runtime, Connections, RoutingCache], Tree]


class OperationsWithTree(Operations):
    """All file operations of one client, with `tree` under `NAME`. Other arguments as there."""

    def __init__(
        self,
        runtime: Runtime,
        meta: MetaClient,
        chunks: ChunkClient,
        packed: PackedReader,
        *,
        tree: Tree,
        write_limit: int,
        hold_seconds: float,
        believe_seconds: float = 0.0,
        spawn: Spawn | None = None,
    ) -> None:
        super().__init__(
            runtime, meta, chunks, packed, write_limit=write_limit, hold_seconds=hold_seconds,
            believe_seconds=believe_seconds, spawn=spawn)
        self.xattrs = _Attributes(
            runtime, meta, believe_seconds=believe_seconds, changing=self._changing)
        self._tree = tree
        self._opened: dict[int, tuple[int, Read]] = {}  # handle -> length, how it is read

    # Names.

    async def lookup(
        self, credential: common_pb2.Credential, parent: int, name: bytes, *,
        believe: bool = False,
    ) -> meta_pb2.Inode:
        """As `Operations.lookup`."""
        if parent >= FIRST:
            return await self._tree.lookup(parent, name)
        if name == NAME and parent == ROOT_ID:
            return await self._tree.inode(FIRST)
        return await super().lookup(credential, parent, name, believe=believe)

    async def getattr(self, inode_id: int) -> meta_pb2.Inode:
        """As `Operations.getattr`."""
        if inode_id >= FIRST:
            return await self._tree.inode(inode_id)
        return await super().getattr(inode_id)

    async def readlink(self, inode_id: int) -> bytes:
        """There are no links in the tree."""
        _not_in_tree(inode_id)
        return await super().readlink(inode_id)

    async def statfs(self, inode_id: int = 0) -> meta_pb2.StatFsReply:
        """Of the tree: as of the cluster."""
        return await super().statfs(inode_id if inode_id < FIRST else 0)

    # Changes.

    async def setattr(
        self, request: meta_pb2.SetAttrRequest, length: int | None = None, handle: int = 0
    ) -> meta_pb2.Inode:
        """Not in the tree."""
        _not_in_tree(request.inode_id)
        return await super().setattr(request, length, handle)

    async def mkdir(
        self, credential: common_pb2.Credential, parent: int, name: bytes, mode: int,
        *, umask: int = 0,
    ) -> meta_pb2.Inode:
        """Not in the tree."""
        _not_in_tree(parent, name)
        return await super().mkdir(credential, parent, name, mode, umask=umask)

    async def make_node(self, request: meta_pb2.MakeNodeRequest) -> meta_pb2.Inode:
        """Not in the tree."""
        _not_in_tree(request.parent, request.name)
        return await super().make_node(request)

    async def rmdir(self, credential: common_pb2.Credential, parent: int, name: bytes) -> None:
        """Not in the tree."""
        _not_in_tree(parent, name)
        await super().rmdir(credential, parent, name)

    async def unlink(self, credential: common_pb2.Credential, parent: int, name: bytes) -> None:
        """Not in the tree."""
        _not_in_tree(parent, name)
        await super().unlink(credential, parent, name)

    async def symlink(
        self, credential: common_pb2.Credential, parent: int, name: bytes, target: bytes
    ) -> meta_pb2.Inode:
        """Not in the tree."""
        _not_in_tree(parent, name)
        return await super().symlink(credential, parent, name, target)

    async def link(
        self, credential: common_pb2.Credential, inode_id: int, parent: int, name: bytes
    ) -> meta_pb2.Inode:
        """Neither out of the tree nor into it."""
        _not_in_tree(inode_id)
        _not_in_tree(parent, name)
        return await super().link(credential, inode_id, parent, name)

    async def rename(self, request: meta_pb2.RenameRequest) -> None:
        """Neither out of the tree nor into it."""
        _not_in_tree(request.parent, request.name)
        _not_in_tree(request.new_parent, request.new_name)
        await super().rename(request)

    # Files.

    async def create(
        self, credential: common_pb2.Credential, parent: int, name: bytes, mode: int,
        *, flags: OpenFlags, umask: int = 0,
    ) -> tuple[int, meta_pb2.Inode]:
        """Not in the tree."""
        _not_in_tree(parent, name)
        return await super().create(credential, parent, name, mode, flags=flags, umask=umask)

    async def open(
        self, credential: common_pb2.Credential, inode_id: int, flags: OpenFlags
    ) -> tuple[int, meta_pb2.Inode]:
        """As `Operations.open`; to read, in the tree."""
        if inode_id < FIRST:
            return await super().open(credential, inode_id, flags)
        if flags.write or flags.truncate:
            _not_in_tree(inode_id)
        inode, read = await self._tree.open(inode_id)
        with self._guard:
            handle = FIRST + self._take_number()
            self._opened[handle] = inode.length, read
        return handle, inode

    def _open_file(self, handle: int) -> tuple[Handle, OpenFile]:
        if handle >= FIRST:
            raise FsError(Kind.NOT_SUPPORTED, "this file can only be read", NAME.decode())
        return super()._open_file(handle)

    async def read(
        self, handle: int, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        """As `Operations.read`."""
        if handle < FIRST:
            return await super().read(handle, offset, size, room)
        length, read = self._of_tree(handle)
        count = max(0, min(size, length - offset))
        data = (memoryview(bytearray(count)) if room is None else room)[:count]
        if count:
            await read(offset, data)
        return data

    async def seek(self, handle: int, offset: int, *, data: bool) -> int | None:
        """As `Operations.seek`; files of the tree have no holes."""
        if handle < FIRST:
            return await super().seek(handle, offset, data=data)
        length, _ = self._of_tree(handle)
        if offset >= length:
            return None
        return offset if data else length

    async def flush(self, handle: int, owner: int = 0) -> None:
        """As `Operations.flush`."""
        if handle < FIRST:
            await super().flush(handle, owner)

    async def fsync(self, handle: int) -> None:
        """As `Operations.fsync`."""
        if handle < FIRST:
            await super().fsync(handle)

    async def release(self, handle: int) -> None:
        """As `Operations.release`."""
        if handle < FIRST:
            await super().release(handle)
        else:
            self._opened.pop(handle, None)

    def _of_tree(self, handle: int) -> tuple[int, Read]:
        known = self._opened.get(handle)
        if known is None:
            raise FsError(Kind.NO_SESSION, "not an open handle", str(handle))
        return known

    # Directories.

    async def opendir(self, credential: common_pb2.Credential, inode_id: int) -> int:
        """As `Operations.opendir`."""
        if inode_id < FIRST:
            return await super().opendir(credential, inode_id)
        inode = await self._tree.inode(inode_id)
        with self._guard:
            number = self._take_number()
            self._directories[number] = DirectoryHandle(
                inode_id, credential, [], parent=inode.parent)
        return number

    async def _fetch_page(
        self, listing: DirectoryHandle, limit: int = DIRECTORY_PAGE, *, inodes: bool = True
    ) -> None:
        if listing.inode_id < FIRST:
            await super()._fetch_page(listing, limit, inodes=inodes)
            return
        # A page may cost the tree as much as all of the directory, so they are large.
        entries, more = await self._tree.page(
            listing.inode_id, listing.last_name, max(limit, PAGE_MIN))
        listing.extend(entries)
        listing.complete = not more

    async def refresh_listing(
        self, handle: int, position: int, limit: int = DIRECTORY_PAGE
    ) -> None:
        """As `Operations.refresh_listing`; files of the tree never change, so only a rewind."""
        if position == 0 or self.directory(handle).inode_id < FIRST:
            await super().refresh_listing(handle, position, limit)


class _Attributes(ExtendedAttributes):
    """Nothing in the tree has any."""

    async def get(self, credential: common_pb2.Credential, inode_id: int, name: bytes) -> bytes:
        if inode_id >= FIRST:
            raise FsError(Kind.NO_ATTRIBUTE, "no such attribute", repr(name))
        return await super().get(credential, inode_id, name)

    async def list(self, credential: common_pb2.Credential, inode_id: int) -> list[bytes]:
        return [] if inode_id >= FIRST else await super().list(credential, inode_id)

    async def set(self, request: meta_pb2.SetXattrRequest) -> None:
        _not_in_tree(request.inode_id)
        await super().set(request)

    async def remove(
        self, credential: common_pb2.Credential, inode_id: int, name: bytes
    ) -> None:
        _not_in_tree(inode_id)
        await super().remove(credential, inode_id, name)


def _not_in_tree(inode_id: int, name: bytes = b"") -> None:
    """Raises FsError READ_ONLY for what is in the tree, or is its name in the root."""
    if inode_id >= FIRST or (name == NAME and inode_id == ROOT_ID):
        raise FsError(Kind.READ_ONLY, "nothing can be changed below this name", NAME.decode())
