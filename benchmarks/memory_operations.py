"""`Operations` on dictionaries, to see what a binding costs by itself.

Layer: benchmarks. No permissions, no renames: only what the workloads of fuse_bindings.py call.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from luciole.client.handles import OpenFlags
from luciole.client.listing import DirectoryHandle
from luciole.client.locks import Locks
from luciole.client.operations import Operations
from luciole.client.xattrs import ExtendedAttributes
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2

ROOT = 1


@dataclass
class Node:
    """An inode and what it holds."""

    inode: meta_pb2.Inode
    content: bytearray = field(default_factory=bytearray)
    names: dict[bytes, int] = field(default_factory=dict)


class NoAttributes(ExtendedAttributes):
    """No file has extended attributes."""

    def __init__(self) -> None:  # as below
        pass

    async def get(self, credential: common_pb2.Credential, inode_id: int, name: bytes) -> bytes:
        """Finds nothing."""
        raise FsError(Kind.NO_ATTRIBUTE, "no such attribute", repr(name))


class NoLocks(Locks):
    """Nobody locks anything."""

    def __init__(self) -> None:  # as below
        pass

    @property
    def any_held(self) -> bool:
        """No."""
        return False

    def holds(self, inode_id: int, owner: int) -> bool:
        """No."""
        return False

    def handle_holds(self, handle: int) -> bool:
        """No."""
        return False


class MemoryOperations(Operations):
    """One directory of files."""

    def __init__(self) -> None:  # no services behind it, so nothing of the base is made
        self.xattrs = NoAttributes()
        self.locks = NoLocks()
        self._ids = itertools.count(ROOT)
        self._nodes: dict[int, Node] = {}
        self._open: dict[int, Node] = {}
        self._numbers = itertools.count(1)
        self._root = self._make(meta_pb2.DIRECTORY, 0o755)

    def _make(self, kind: meta_pb2.FileType, mode: int) -> Node:
        number = next(self._ids)
        now = time.time_ns()
        node = self._nodes[number] = Node(meta_pb2.Inode(
            inode_id=number, type=kind, mode=mode, nlink=1, atime_ns=now, mtime_ns=now,
            ctime_ns=now))
        return node

    def _open_node(self, node: Node) -> int:
        number = next(self._numbers)
        self._open[number] = node
        return number

    async def lookup(
        self, credential: common_pb2.Credential, parent: int, name: bytes, *,
        believe: bool = False,
    ) -> meta_pb2.Inode:
        """The inode behind a name."""
        number = self._nodes[parent].names.get(name)
        if number is None:
            raise FsError(Kind.NOT_FOUND, "no such name")
        return self._nodes[number].inode

    async def getattr(self, inode_id: int) -> meta_pb2.Inode:
        """The attributes of an inode."""
        return self._nodes[inode_id].inode

    async def create(
        self, credential: common_pb2.Credential, parent: int, name: bytes, mode: int,
        *, flags: OpenFlags, umask: int = 0,
    ) -> tuple[int, meta_pb2.Inode]:
        """Makes a file."""
        node = self._make(meta_pb2.REGULAR, mode)
        self._nodes[parent].names[name] = node.inode.inode_id
        return self._open_node(node), node.inode

    async def unlink(self, credential: common_pb2.Credential, parent: int, name: bytes) -> None:
        """Takes a name away, and the file."""
        del self._nodes[self._nodes[parent].names.pop(name)]

    async def open(
        self, credential: common_pb2.Credential, inode_id: int, flags: OpenFlags
    ) -> tuple[int, meta_pb2.Inode]:
        """Opens a file."""
        node = self._nodes[inode_id]
        return self._open_node(node), node.inode

    async def read(
        self, handle: int, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        """A view of the content: as fast as a filesystem can be."""
        return memoryview(self._open[handle].content)[offset : offset + size]

    async def write(
        self, handle: int, offset: int, data: memoryview, *, append: bool = False
    ) -> int:
        """Copies into the content, which never grows but by its end."""
        node = self._open[handle]
        end = offset + len(data)
        if end > len(node.content):
            node.content.extend(bytes(end - len(node.content)))
            node.inode.length = end
        memoryview(node.content)[offset:end] = data
        return len(data)

    async def flush(self, handle: int, owner: int = 0) -> None:
        """Nothing to do."""

    async def fsync(self, handle: int) -> None:
        """Nothing to do."""

    async def release(self, handle: int) -> None:
        """Forgets the handle."""
        del self._open[handle]

    async def opendir(self, credential: common_pb2.Credential, inode_id: int) -> int:
        """Lists everything at once."""
        listing = DirectoryHandle(inode_id, credential, [
            meta_pb2.DirEntry(
                dentry=meta_pb2.Dentry(parent=inode_id, name=name, inode_id=number),
                inode=self._nodes[number].inode)
            for name, number in self._nodes[inode_id].names.items()
        ], parent=inode_id, complete=True)
        handle = next(self._numbers)
        self._listings = {handle: listing}
        return handle

    def directory(self, handle: int) -> DirectoryHandle:
        """The listing that was opened last."""
        return self._listings[handle]

    async def readdir(
        self, handle: int, position: int, *, inodes: bool = True
    ) -> meta_pb2.DirEntry | None:
        """The entry at a position."""
        entries = self._listings[handle].entries
        return entries[position] if position < len(entries) else None

    async def refresh_listing(self, handle: int, position: int, limit: int = 0) -> None:
        """The listing stays as it is."""

    def releasedir(self, handle: int) -> None:
        """Nothing to do."""
