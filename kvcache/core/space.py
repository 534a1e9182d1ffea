"""One namespace in one cache: its index, its limit, and what goes when there is no room.

Layer: pure; the caller guards it. The same code serves a volume of a storage node (a block's place
is a slot on the disk) and the memory tier of a process (its place is the bytes).

Invariant: the index and the queues hold the same entries, and `used` is the sum of their sizes.
With what is `reserved` for blocks on their way in, it exceeds `limit` only after the limit was
lowered, until `shrink` has been called often enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from luciole.kvcache.core.eviction import USES_MAX, Entry, Queues, V

SHRINK_STEP = 1024  # blocks that one call of `shrink` takes at most


@dataclass
class Counts:
    """What has happened to a namespace."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    puts: int = 0
    evicted: int = 0
    expired: int = 0
    refused: int = 0
    damaged: int = 0


class Space(Generic[V]):
    """The blocks of one namespace.

    Args:
        limit: bytes that they may take together; None: whatever the cache has.
        ttl_ns: age at which a block is no longer found, in nanoseconds; 0: never.
    """

    def __init__(self, limit: int | None = None, ttl_ns: int = 0) -> None:
        self.limit = limit
        self.ttl_ns = ttl_ns
        self.counts = Counts()
        self.reserved = 0  # bytes of blocks that are being written
        self.index: dict[bytes, Entry[V]] = {}
        self._queues: Queues[V] = Queues()

    @property
    def used(self) -> int:
        """Bytes that all blocks take."""
        return self._queues.total

    def find(self, key: bytes, now_ns: int) -> Entry[V] | None:
        """The block, unless there is none or it is too old."""
        entry = self.index.get(key)
        if entry is not None and self.ttl_ns and self.is_expired(entry, now_ns):
            return None
        return entry

    def is_expired(self, entry: Entry[V], now_ns: int) -> bool:
        """Whether a block is too old to be found. A leased one stays until its leases end."""
        return bool(self.ttl_ns) and not entry.leases and entry.created_ns + self.ttl_ns <= now_ns

    @staticmethod
    def touch(entry: Entry[V]) -> None:
        """The block was used."""
        if entry.uses < USES_MAX:
            entry.uses += 1

    def add(self, entry: Entry[V], *, known: bool = False) -> None:
        """Takes a block in that is not there yet; `room_for` was asked before."""
        assert entry.key not in self.index
        self.index[entry.key] = entry
        self._queues.insert(entry, known=known)

    def remove(self, entry: Entry[V]) -> None:
        """Forgets a block that is there."""
        del self.index[entry.key]
        self._queues.remove(entry)

    def holds(self, entry: Entry[V]) -> bool:
        """Whether this very entry is still there."""
        return self.index.get(entry.key) is entry

    def evict(self) -> Entry[V] | None:
        """Takes out the block that goes next; None when leases hold all that were met."""
        entry = self._queues.evict()
        if entry is not None:
            del self.index[entry.key]
            self.counts.evicted += 1
        return entry

    def room_for(self, size: int) -> tuple[bool, list[Entry[V]]]:
        """Keeps the limit: evicts until `size` more bytes are within it.

        Returns whether they are, and what went, even if that was not enough.
        """
        gone: list[Entry[V]] = []
        if self.limit is None:
            return True, gone
        if size > self.limit:
            return False, gone
        while self.used + self.reserved + size > self.limit:
            entry = self.evict()
            if entry is None:
                return False, gone
            gone.append(entry)
        return True, gone

    def shrink(self, keep: int) -> list[Entry[V]]:
        """Evicts down to `keep` bytes, some blocks at a time; returns what went."""
        gone: list[Entry[V]] = []
        while self.used > keep and len(gone) < SHRINK_STEP:
            entry = self.evict()
            if entry is None:
                break
            gone.append(entry)
        return gone

    def expired(self, now_ns: int) -> Iterator[Entry[V]]:
        """Blocks that are too old. May be removed while this goes on."""
        if not self.ttl_ns:
            return
        for entry in list(self.index.values()):
            if self.is_expired(entry, now_ns):
                yield entry
