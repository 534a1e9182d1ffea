"""Block files: the bytes of a target's chunks.

Layer: shell of the engine, a `BlockDisk`; knows nothing of chunks. On disk, under `blocks/`:

- size class c (0 … 10) has blocks of 64 KiB << c bytes, numbered from 0;
- file `CC-NNNNNN` (class and file number, decimal) holds the blocks of one class in order,
  2^20 >> c of them, so that a full file has 64 GiB; block i lies in file i // (2^20 >> c) at byte
  (i % (2^20 >> c)) * (64 KiB << c);
- a file starts empty and grows by fallocate in steps of 8 MiB (or one block), so that bytes once
  handed out cannot run out of disk later; freed blocks may be holes (`punch`).

Every OSError becomes FsError: ENOSPC and EDQUOT are NO_SPACE, anything else is DISK_FAILED naming
the path and errno. Writes are remembered per file until `flush` has made them durable.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from luciole.errors import FsError, Kind
from luciole.proto.services import FileRange
from luciole.storage.engine.blockmath import SIZE_CLASSES, class_bytes
from luciole.storage.engine.calls import FileCalls, read_all, write_all
from luciole.storage.engine.direct import DirectFiles, FileKey
from luciole.storage.engine.records import Block

FILE_BYTES = 64 * 1024 * 1024 * 1024
STEP_BYTES = 8 * 1024 * 1024


def disk_error(failure: OSError, path: Path | str) -> FsError:
    """The FsError of a failed system call on `path`."""
    full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
    name = errno.errorcode.get(failure.errno or 0, "unknown errno")
    return FsError(
        Kind.NO_SPACE if full else Kind.DISK_FAILED, f"{name}: {failure.strerror}", str(path)
    )


class BlockFiles:
    """The open block files of one target. Threads may use different blocks at once.

    Args:
        directory: holds them; made if it is missing.
        calls: how the operating system is called.
    """

    def __init__(self, directory: Path, calls: FileCalls) -> None:
        self._directory = directory
        self._calls = calls
        self._direct = DirectFiles(calls, self._path)
        self._descriptors: dict[FileKey, int] = {}
        self._dirty: set[FileKey] = set()
        self._prepared = [0] * SIZE_CLASSES  # blocks below are allocated or were once
        self._growth = threading.Lock()
        self._opening = threading.Lock()
        try:
            calls.make_directory(directory)
            for path in directory.iterdir():
                size_class, number = path.name.split("-")
                self._open((int(size_class), int(number)))
        except OSError as failure:
            raise disk_error(failure, directory) from failure
        except ValueError as failure:
            raise FsError(
                Kind.CONFIG_INVALID, "a file here is not one of ours: move it away", str(path)
            ) from failure

    def where(self, block: Block) -> str:
        """Path of the file that a block lies in."""
        return str(self._path(self._key(block)))

    def locate(self, block: Block) -> tuple[int, int]:
        """Descriptor of the block's file, and the block's first byte in it."""
        key = self._key(block)
        descriptor = self._descriptors.get(key)
        if descriptor is None:
            descriptor = self._open(key)
        size = class_bytes(block.size_class)
        return descriptor, block.number * size % FILE_BYTES

    def resume(self, ends: Sequence[int]) -> None:
        """States how many blocks of each class were ever handed out, when the target opens."""
        self._prepared = list(ends)

    def prepare(self, block: Block, *, hole: bool) -> None:
        """Makes sure that the disk has room under a block that was just handed out.

        Args:
            block: its place.
            hole: whether it was used before and its room given back since.
        """
        size = class_bytes(block.size_class)
        try:
            if hole:
                descriptor, position = self.locate(block)
                self._calls.allocate(descriptor, position, size)
                return
            while block.number >= self._prepared[block.size_class]:
                self._grow(block.size_class, max(1, STEP_BYTES // size))
        except OSError as failure:
            raise disk_error(failure, self.where(block)) from failure

    def _grow(self, size_class: int, step: int) -> None:
        """Allocates the next step of a class; steps are aligned, so none spans two files."""
        with self._growth:
            first = self._prepared[size_class]
            count = step - first % step
            descriptor, position = self.locate(Block(size_class, first))
            self._calls.allocate(descriptor, position, count * class_bytes(size_class))
            self._prepared[size_class] = first + count

    def read(self, block: Block, offset: int, views: Sequence[memoryview]) -> int:
        """Fills `views` from `offset` of the block. Returns bytes read: fewer only at file end."""
        try:
            descriptor, position = self.locate(block)
            position += offset
            done = self._direct.read(self._key(block), descriptor, views, position)
            return read_all(self._calls, descriptor, views, position, done)
        except OSError as failure:
            raise disk_error(failure, self.where(block)) from failure

    def locate_cached(self, block: Block, offset: int, size: int) -> FileRange | None:
        """Where these bytes are in a file, if the page cache has all of them; else None.

        What is not there is better read by `read`, which knows when to go past the page cache.
        """
        descriptor, position = self.locate(block)
        position += offset
        if self._calls.cached(descriptor, position, size) < size:
            return None
        return FileRange(descriptor, position, size)

    def write(self, block: Block, offset: int, views: Sequence[memoryview]) -> None:
        """Writes `views` end to end at `offset` of the block."""
        try:
            descriptor, position = self.locate(block)
            position += offset
            done = self._direct.write(self._key(block), views, position)
            write_all(self._calls, descriptor, views, position, done)
        except OSError as failure:
            raise disk_error(failure, self.where(block)) from failure
        # Marked after the write: whoever takes the mark and flushes covers these bytes.
        self._dirty.add(self._key(block))

    def copy(
        self, source: Block, source_offset: int, target: Block, target_offset: int, count: int
    ) -> None:
        """Copies `count` bytes of one block to another."""
        try:
            source_fd, source_at = self.locate(source)
            target_fd, target_at = self.locate(target)
            source_at, target_at = source_at + source_offset, target_at + target_offset
            done = 0
            while done < count:
                step = self._calls.copy(
                    source_fd, target_fd, source_at + done, target_at + done, count - done
                )
                if step == 0:
                    raise OSError(errno.EIO, "the block file ends inside a block")
                done += step
        except OSError as failure:
            raise disk_error(failure, self.where(target)) from failure
        self._dirty.add(self._key(target))

    def punch(self, size_class: int, first: int, count: int) -> None:
        """Gives the room of neighbouring free blocks back to the disk."""
        size = class_bytes(size_class)
        end = first + count
        while first < end:
            descriptor, position = self.locate(Block(size_class, first))
            step = min(end - first, (FILE_BYTES - position) // size)
            # A file system without holes keeps the room: the class uses it again all the same.
            self._calls.punch(descriptor, position, step * size)
            first += step

    def flush(self, *, everything: bool = False) -> None:
        """fdatasync of the files written since the last flush (or of all). One caller at a time."""
        for key in list(self._descriptors if everything else self._dirty):
            # The mark goes first: a write that lands meanwhile marks the file again.
            self._dirty.discard(key)
            try:
                self._calls.sync(self._descriptors[key])
            except OSError as failure:
                raise disk_error(failure, self._path(key)) from failure

    def space(self) -> tuple[int, int]:
        """Size and free bytes of the disk under the target."""
        try:
            facts = os.statvfs(self._directory)
        except OSError as failure:
            raise disk_error(failure, self._directory) from failure
        return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize

    def close(self) -> None:
        """Closes all files."""
        self._direct.close()
        for descriptor in self._descriptors.values():
            self._calls.close(descriptor)
        self._descriptors.clear()

    def _key(self, block: Block) -> FileKey:
        return block.size_class, block.number * class_bytes(block.size_class) // FILE_BYTES

    def _path(self, key: FileKey) -> Path:
        return self._directory / f"{key[0]:02}-{key[1]:06}"

    def _open(self, key: FileKey) -> int:
        with self._opening:
            if key not in self._descriptors:
                self._descriptors[key] = self._calls.open(self._path(key))
                self._calls.sync_directory(self._directory)
            return self._descriptors[key]
