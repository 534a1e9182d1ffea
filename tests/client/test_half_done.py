"""What was done although its answer said otherwise lies within the file, not beyond its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from luciole.client.core.runs import Run
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.remote.chunk_map import ChunkMap
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

WHO = common_pb2.Credential(uid=0, gid=0)
CHUNKS = 4 << 20  # whole ones, whatever their size
END = CHUNKS + 20_000
Update = Callable[[Operations, int, int], Awaitable[object]]

UPDATES: dict[str, Update] = {
    "merge": lambda operations, inode_id, handle: operations.write_stored(
        inode_id, handle, [Run(END - 100, b"a"), Run(END - 1, b"b")]),
    "copy": lambda operations, inode_id, handle: operations.copy_range(
        handle, 10_000, handle, CHUNKS + 10_000, 10_000),
}


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_the_end_covers_what_was_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    operations = cluster.client(b"half done update", None)
    handle, inode = drive(operations.create(
        WHO, 1, b"f", 0o644, flags=OpenFlags(read=True, write=True)))
    drive(operations.write(handle, 0, memoryview(b"o" * 30_000)))
    drive(operations.fsync(handle))
    update = getattr(ChunkMap, name)

    async def unanswered(self: ChunkMap, *arguments: Any, **options: Any) -> None:
        await update(self, *arguments, **options)
        raise FsError(Kind.UNAVAILABLE, "the answer is lost")

    monkeypatch.setattr(ChunkMap, name, unanswered)

    async def call() -> None:
        await UPDATES[name](operations, inode.inode_id, handle)

    with pytest.raises(FsError, match="the answer is lost"):
        drive(call())
    drive(operations.release(handle))
    assert drive(operations.getattr(inode.inode_id)).length == END
