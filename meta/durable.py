"""Chunks are removed only when what says that they may go cannot be taken back.

Layer: shell. The store may lose its last commits with the power (`KeyValueStore.flush`). The
removal of a file, or a cut, that was lost finds its chunks as they were.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from luciole.kv.interface import KeyValueStore
from luciole.meta.ports import Chunks
from luciole.proto import meta_pb2


class ChunksBehindStore:
    """`Chunks` whose removals wait for the store."""

    def __init__(self, kv: KeyValueStore, inner: Chunks) -> None:
        self._kv = kv
        self._inner = inner
        self.data_end = inner.data_end
        self.allocated = inner.allocated

    async def trim(
        self, inode: meta_pb2.Inode, pending: Callable[[], Awaitable[bool]]
    ) -> None:
        """As of `Chunks`; asked only when there is something to remove, `pending` flushes."""
        async def pending_durably() -> bool:
            if not await pending():
                return False
            await self._kv.flush()
            return True

        await self._inner.trim(inode, pending_durably)

    async def remove_all(
        self, inodes: Sequence[meta_pb2.Inode], *, everywhere: bool = False
    ) -> None:
        """As of `Chunks`."""
        await self._kv.flush()
        await self._inner.remove_all(inodes, everywhere=everywhere)
