"""Disks and the key-value store of a simulated world: the real ones in memory, with waiting.

Layer: tests. Each step gives way first, so that handlers interleave where threads would; a slow
disk takes virtual time.
"""

from __future__ import annotations

import random

import trio

from luciole.kv.interface import KeyValue
from luciole.kv.memory import MemoryStore
from luciole.kv.transaction import OptimisticTransaction
from luciole.proto.services import FileRange
from luciole.storage.engine.interface import ChunkState, ReadOutcome, Update, Version
from luciole.storage.engine.memory import MemoryDisk, MemoryEngine
from luciole.storage.engine.records import Block


class SimRange(FileRange):
    """Part of a block, as it will be when it is sent."""

    source: tuple[MemoryDisk, Block]

    def content(self) -> bytes:
        """The bytes that are there now: as many, unless the block is gone or ends before."""
        disk, block = self.source
        data = bytearray(self.size)
        return bytes(data[: disk.read(block, self.position, [memoryview(data)])])


class SentDisk(MemoryDisk):
    """A disk whose blocks are sent as files are, without a look at them."""

    def locate_cached(self, block: Block, offset: int, size: int) -> FileRange | None:
        """See BlockDisk."""
        found = SimRange(-1, offset, size)
        found.source = self, block
        return found


class SimEngine(MemoryEngine):
    """A target's engine. `slow` is how long a step takes at most, in seconds."""

    disk_type = SentDisk
    slow = 0.0
    chance = random.Random(0)

    async def _take(self) -> None:
        await trio.sleep(self.chance.random() * self.slow)

    async def state(self, chunk_id: bytes) -> ChunkState | None:
        """See ChunkEngine."""
        await trio.lowlevel.checkpoint()
        return await super().state(chunk_id)

    async def read(
        self, chunk_id: bytes, offset: int, buffer: memoryview, *, pending: bool = False
    ) -> ReadOutcome:
        """See ChunkEngine."""
        await self._take()
        return await super().read(chunk_id, offset, buffer, pending=pending)

    async def read_unverified(
        self, chunk_id: bytes, offset: int, room: memoryview
    ) -> ReadOutcome | None:
        """See ChunkEngine."""
        await self._take()
        return await super().read_unverified(chunk_id, offset, room)

    async def stage(
        self, chunk_id: bytes, version: int, update: Update, data: memoryview
    ) -> Version:
        """See ChunkEngine."""
        await self._take()
        return await super().stage(chunk_id, version, update, data)

    async def commit(self, chunk_id: bytes, version: int) -> Version:
        """See ChunkEngine."""
        await self._take()
        return await super().commit(chunk_id, version)

    async def sync(self) -> None:
        """See ChunkEngine."""
        await self._take()
        await super().sync()


class SimTransaction(OptimisticTransaction):
    """Others may commit between its steps."""

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """See Transaction."""
        await trio.lowlevel.checkpoint()
        return await super().get(key, snapshot=snapshot)

    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """See Transaction."""
        await trio.lowlevel.checkpoint()
        return await super().get_range(
            begin, end, limit=limit, reverse=reverse, snapshot=snapshot)

    async def commit(self) -> None:
        """See Transaction. The server may die before it hears that it was done."""
        await trio.lowlevel.checkpoint()
        await super().commit()
        await trio.lowlevel.checkpoint()


class SimStore(MemoryStore):
    """The store that the manager and the metadata services share."""

    def transaction(self) -> OptimisticTransaction:
        """Begins a transaction."""
        return SimTransaction(self._runtime.clock, self._open_snapshot, self._commit)
