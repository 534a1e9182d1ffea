"""The native client for trio tasks: the same calls, each on a thread of trio's.

Layer: shell. A call that is cancelled is waited for all the same: its memory is in use until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from luciole.client.native.file import Data, File, Writable
from luciole.client.native.filesystem import Buffer, FileSystem, Mode, Stat
from luciole.errors import FsError

T = TypeVar("T")


async def _run(call: Callable[..., T], *arguments: Any) -> T:
    return await trio.to_thread.run_sync(partial(call, *arguments))


class TrioFile:
    """A `File` whose methods suspend; an async context manager."""

    def __init__(self, file: File) -> None:
        self.file = file

    async def read(self, offset: int, size: int) -> bytes:
        """As `File.read`."""
        return await _run(self.file.read, offset, size)

    async def read_into(self, view: Writable, offset: int) -> int:
        """As `File.read_into`."""
        return await _run(self.file.read_into, view, offset)

    async def write(self, data: Data, offset: int) -> int:
        """As `File.write`."""
        return await _run(self.file.write, data, offset)

    async def fsync(self) -> None:
        """As `File.fsync`."""
        await _run(self.file.fsync)

    async def close(self) -> None:
        """As `File.close`."""
        with trio.CancelScope(shield=True):
            await _run(self.file.close)

    async def __aenter__(self) -> TrioFile:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class TrioFileSystem:
    """A `FileSystem` whose methods suspend; `TrioFileSystem(luciole.connect(…))`."""

    def __init__(self, fs: FileSystem) -> None:
        self.fs = fs

    def buffer(self, size: int) -> Buffer:
        """As `FileSystem.buffer`."""
        return self.fs.buffer(size)

    async def open(self, path: str, mode: Mode = "r") -> TrioFile:
        """As `FileSystem.open`."""
        return TrioFile(await _run(self.fs.open, path, mode))

    async def stat(self, path: str) -> Stat:
        """As `FileSystem.stat`."""
        return await _run(self.fs.stat, path)

    async def stat_many(self, paths: Sequence[str]) -> list[Stat | FsError]:
        """As `FileSystem.stat_many`."""
        return await _run(self.fs.stat_many, paths)

    async def open_many(self, paths: Sequence[str]) -> list[TrioFile | FsError]:
        """As `FileSystem.open_many`."""
        return [one if isinstance(one, FsError) else TrioFile(one)
                for one in await _run(self.fs.open_many, paths)]

    async def listdir(self, path: str) -> list[str]:
        """As `FileSystem.listdir`."""
        return await _run(self.fs.listdir, path)

    async def mkdir(self, path: str) -> None:
        """As `FileSystem.mkdir`."""
        await _run(self.fs.mkdir, path)

    async def remove(self, path: str) -> None:
        """As `FileSystem.remove`."""
        await _run(self.fs.remove, path)

    async def rename(self, path: str, new_path: str) -> None:
        """As `FileSystem.rename`."""
        await _run(self.fs.rename, path, new_path)

    async def read_many(
        self, reads: Sequence[tuple[TrioFile, int, Writable]]
    ) -> list[int | FsError]:
        """As `FileSystem.read_many`."""
        return await _run(
            self.fs.read_many, [(file.file, offset, view) for file, offset, view in reads])

    async def write_many(
        self, writes: Sequence[tuple[TrioFile, int, Data]]
    ) -> list[int | FsError]:
        """As `FileSystem.write_many`."""
        return await _run(
            self.fs.write_many, [(file.file, offset, data) for file, offset, data in writes])

    async def close(self) -> None:
        """As `FileSystem.close`."""
        with trio.CancelScope(shield=True):
            await _run(self.fs.close)
