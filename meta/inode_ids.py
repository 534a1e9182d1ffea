"""Inode ids: taken from the store in blocks, never used twice."""

from __future__ import annotations

import threading

from luciole.kv.interface import KeyValueStore, Transaction
from luciole.meta.core import schema
from luciole.runtime import Runtime

BLOCK = 1024


class InodeIds:
    """Hands out ids; one transaction buys `BLOCK` of them. Those unused at a crash are lost.

    The guard is over the block, and never held over a wait; a lock of the runtime lets one buy.
    """

    def __init__(self, kv: KeyValueStore, runtime: Runtime) -> None:
        self._kv = kv
        self._runtime = runtime
        self._guard = threading.Lock()
        self._next = 0
        self._end = 0

    async def take(self) -> int:
        """A fresh id."""
        while (taken := self._take()) is None:
            async with self._runtime.lock((id(self), "inode ids")):
                if self._next == self._end:
                    first = await self._kv.run(_take_block)
                    # An id must not come again after a power loss: chunks may be there of it.
                    await self._kv.flush()
                    with self._guard:
                        self._next, self._end = first, first + BLOCK
        return taken

    def _take(self) -> int | None:
        with self._guard:
            if self._next == self._end:
                return None
            self._next += 1
            return self._next - 1


async def _take_block(txn: Transaction) -> int:
    stored = schema.decode_counter(await txn.get(schema.NEXT_INODE_ID))
    first = max(stored, schema.FIRST_INODE_ID)
    txn.set(schema.NEXT_INODE_ID, (first + BLOCK).to_bytes(8, "little"))
    return first
