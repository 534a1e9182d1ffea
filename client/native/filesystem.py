"""`FileSystem`: files of a cluster for a Python program, without a mount.

Layer: shell, above `Operations`, which does the work: retries, layout, sessions and lengths are as
for a mount. Every method may be called from any thread and blocks it; trio_face.py has the same
methods for trio tasks.

Paths begin at the root of the filesystem; symbolic links are not followed. Requests carry the
credential of this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from luciole.client.batch_reads import read_many
from luciole.client.handles import OpenFlags
from luciole.client.native.batches import as_bytes, write_many
from luciole.client.native.file import Data, File, Writable
from luciole.client.native.loops import Loops
from luciole.client.native.many import find_many, open_many
from luciole.client.native.ring import Ring
from luciole.client.session import Client
from luciole.client.trees import Trees, own_credential
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2
from luciole.rpc.memory import Region
from luciole.runtime import Runtime, drive

Mode = Literal["r", "r+", "w", "w+", "x", "x+"]
_FLAGS = {
    "r": OpenFlags(read=True),
    "r+": OpenFlags(read=True, write=True),
    "w": OpenFlags(write=True, truncate=True),
    "w+": OpenFlags(read=True, write=True, truncate=True),
    "x": OpenFlags(write=True, exclusive=True),
    "x+": OpenFlags(read=True, write=True, exclusive=True),
}


class Stat(NamedTuple):
    """What `stat` tells."""

    inode: int
    is_directory: bool
    size: int  # bytes
    mode: int  # permissions
    uid: int
    gid: int
    mtime_ns: int


def _stat(inode: meta_pb2.Inode) -> Stat:
    return Stat(inode.inode_id, inode.type == meta_pb2.DIRECTORY, inode.length, inode.mode,
                inode.uid, inode.gid, inode.mtime_ns)


class Buffer(Region):
    """Memory that services on this machine reach in place; a context manager.

    `view` is all of it as a memoryview. numpy.frombuffer and torch.frombuffer take `view` without a
    copy. Reads at whole pages (4 KiB) of it are not copied on their way.
    """

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileSystem:
    """A cluster's files. `luciole.connect` makes one; a context manager."""

    def __init__(self, client: Client, runtime: Runtime) -> None:
        self.client = client
        self.runtime = runtime
        self._trees = Trees(client.meta, own_credential())
        self._loops = Loops(client)

    def buffer(self, size: int) -> Buffer:
        """`size` bytes of memory that services on this machine reach in place. Raises FsError."""
        return Buffer(size)

    # Names.

    def stat(self, path: str) -> Stat:
        """What is known of a path. Raises FsError NOT_FOUND."""
        inode = drive(self._trees.find(path))
        return _stat(drive(self.client.operations.getattr(inode.inode_id)))

    def stat_many(self, paths: Sequence[str]) -> list[Stat | FsError]:
        """As `stat` of each path, or its failure: one round trip for 256 paths of a directory."""
        found = drive(find_many(self.client, self._trees, own_credential(), paths))
        return [one if isinstance(one, FsError)
                else _stat(drive(self.client.operations.shown(one.inode))) for one in found]

    def exists(self, path: str) -> bool:
        """Whether there is something at a path. Raises FsError."""
        try:
            drive(self._trees.find(path))
        except FsError as failure:
            if failure.kind in {Kind.NOT_FOUND, Kind.NOT_DIRECTORY}:
                return False
            raise
        return True

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in order. Raises FsError."""
        operations = self.client.operations
        inode = drive(self._trees.find(path))
        handle = drive(operations.opendir(own_credential(), inode.inode_id))
        try:
            return list(self._names(handle))
        finally:
            operations.releasedir(handle)

    def _names(self, handle: int) -> Iterator[str]:
        position = 0
        while True:
            entry = drive(self.client.operations.readdir(handle, position, inodes=False))
            if entry is None:
                return
            yield os.fsdecode(entry.dentry.name)
            position += 1

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Makes a directory. Raises FsError."""
        parent, name = self._place(path)
        drive(self.client.operations.mkdir(own_credential(), parent, name, mode))

    def remove(self, path: str) -> None:
        """Removes a file, or an empty directory. Raises FsError."""
        parent, name = self._place(path)
        operations, credential = self.client.operations, own_credential()
        try:
            drive(operations.unlink(credential, parent, name))
        except FsError as failure:
            if failure.kind != Kind.IS_DIRECTORY:
                raise
            drive(operations.rmdir(credential, parent, name))

    def rename(self, path: str, new_path: str) -> None:
        """Moves a file or directory, over what is there. Raises FsError."""
        parent, name = self._place(path)
        new_parent, new_name = self._place(new_path)
        drive(self.client.operations.rename(meta_pb2.RenameRequest(
            credential=own_credential(), parent=parent, name=name, new_parent=new_parent,
            new_name=new_name)))

    def _place(self, path: str) -> tuple[int, bytes]:
        """(inode of the directory, name in it)."""
        directory, _, name = path.rstrip("/").rpartition("/")
        if not name:
            raise FsError(Kind.INVALID_ARGUMENT, "the path names no entry of a directory", path)
        return drive(self._trees.find(directory + "/")).inode_id, os.fsencode(name)

    # Files.

    def open(self, path: str, mode: Mode = "r", *, permissions: int = 0o644) -> File:
        """Opens a file: "r" as it is, "w" empty, "x" if it is new, each with "+" for both ways.

        `permissions` are those of a new file. Raises FsError.
        """
        flags = _FLAGS.get(mode)
        if flags is None:
            raise FsError(Kind.INVALID_ARGUMENT, f"mode {mode!r} is none of {', '.join(_FLAGS)}",
                          path)
        operations = self.client.operations
        if mode[0] == "r":
            inode_id = drive(self._trees.find(path)).inode_id
            handle, inode = drive(operations.open(own_credential(), inode_id, flags))
        else:
            parent, name = self._place(path)
            handle, inode = drive(operations.create(
                own_credential(), parent, name, permissions, flags=flags))
        return File(operations, path, handle, inode.inode_id)

    def open_many(self, paths: Sequence[str]) -> list[File | FsError]:
        """As `open` of each path for reading, or its failure; round trips as for `stat_many`.

        Small files that were made so come with their content: reading them asks nobody.
        """
        opened = drive(open_many(self.client, self._trees, own_credential(), paths))
        return [one if isinstance(one, FsError) else File(self.client.operations, path, *one)
                for path, one in zip(paths, opened, strict=True)]

    def read_many(
        self, reads: Sequence[tuple[File, int, Writable]]
    ) -> list[int | FsError]:
        """Reads many (file, offset, view) at once: one round trip to each node.

        Returns for each how many bytes its view got, fewer at the end of the file, or its failure.
        """
        return drive(read_many(self.client.operations, [
            (file.handle, offset, as_bytes(view)) for file, offset, view in reads]))

    def write_many(self, writes: Sequence[tuple[File, int, Data]]) -> list[int | FsError]:
        """Writes many (file, offset, data) at once; returns when all are on every replica.

        Returns for each how many bytes were written, or its failure. Lengths are reported by
        flush, fsync or close, as of any write.
        """
        return drive(write_many(self.client, [
            (file.handle, offset, as_bytes(data)) for file, offset, data in writes]))

    def ring(self, depth: int = 64) -> Ring:
        """A ring for up to `depth` operations at a time."""
        return Ring(self.client, depth)

    # Closing.

    def close(self) -> None:
        """Closes all files and says good-bye; idempotent."""
        self._loops.stop()

    def __enter__(self) -> FileSystem:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
