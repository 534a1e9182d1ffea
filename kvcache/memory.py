"""The memory tier: blocks that this process put or got lately, kept in its own memory.

Layer: shell. The same index, eviction and leases as a volume's, with a bound of its own for all
namespaces together. A block comes in by a copy and goes out by one: callers' buffers are theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from luciole.clock import Clock
from luciole.kvcache.buffers import copy_into, size_of
from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.leases import Leases
from luciole.kvcache.core.space import Counts, Space

Memory = bytearray


class MemoryTier:
    """Blocks in memory. Thread-safe.

    Args:
        capacity: bytes that they may take together; 0: it keeps nothing.
        clock: of leases and ages.
    """

    def __init__(self, capacity: int, clock: Clock) -> None:
        self.capacity = capacity
        self._clock = clock
        self._space: Space[Memory] = Space(capacity)
        self._leases: Leases[Memory] = Leases()
        self._guard = threading.Lock()

    @property
    def counts(self) -> Counts:
        """What has happened."""
        return self._space.counts

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self._space.used

    def read(
        self, namespace_id: int, key: bytes, views: Sequence[memoryview], offset: int | None,
        ttl_seconds: int = 0,
    ) -> bool:
        """Fills `views` with a block, or with its bytes from `offset` on; False: not here so."""
        entry = self._space.index.get(_name(namespace_id, key))
        if entry is None:
            return False
        if self._is_old(entry, ttl_seconds):
            self.drop(namespace_id, [key])  # it makes way for another
            return False
        size, begin = size_of(views), offset or 0
        if begin + size > entry.length or (offset is None and size != entry.length):
            return False
        # Nobody writes to these bytes after they came, so they need no lock.
        copy_into(memoryview(entry.place)[begin : begin + size], views)
        self._space.touch(entry)
        self._space.counts.hits += 1
        self._space.counts.bytes_read += size
        return True

    def keep(self, namespace_id: int, key: bytes, views: Sequence[memoryview]) -> None:
        """Keeps a copy of a block if there is room for it."""
        size = size_of(views)
        name = _name(namespace_id, key)
        if not 0 < size <= self.capacity or name in self._space.index:
            return
        memory = bytearray().join(views)
        with self._guard:
            self._leases.expire(self._clock.now())
            if name not in self._space.index and self._space.room_for(size)[0]:
                self._space.add(Entry(name, size, size, memory, self._now_ns()))

    def pin(
        self, namespace_id: int, keys: Sequence[bytes], lease_id: int, seconds: float,
        ttl_seconds: int = 0,
    ) -> list[int]:
        """Length of each block that is here, 0 for others; those stay for the lease."""
        if not self._space.index:
            return [0] * len(keys)
        now = self._clock.now()
        with self._guard:
            self._leases.expire(now)
            found = [self._space.index.get(_name(namespace_id, key)) for key in keys]
            if ttl_seconds:
                found = [entry if entry is None or not self._is_old(entry, ttl_seconds) else None
                         for entry in found]
            if seconds > 0:
                held = [entry for entry in found if entry is not None]
                self._leases.grant(lease_id, held, now + seconds)
        return [entry.length if entry is not None else 0 for entry in found]

    def _is_old(self, entry: Entry[Memory], ttl_seconds: int) -> bool:
        """What is leased never is."""
        age_ns = self._now_ns() - entry.created_ns
        return 0 < ttl_seconds * 10**9 <= age_ns and not entry.leases

    def _now_ns(self) -> int:
        return int(self._clock.now() * 1e9)

    def lease(self, lease_id: int, seconds: float) -> None:
        """Extends a lease, or ends it (0)."""
        with self._guard:
            if seconds > 0:
                self._leases.extend(lease_id, self._clock.now() + seconds)
            else:
                self._leases.release(lease_id)

    def drop(self, namespace_id: int, keys: Sequence[bytes]) -> None:
        """Forgets blocks."""
        with self._guard:
            for key in keys:
                entry = self._space.index.get(_name(namespace_id, key))
                if entry is not None:
                    self._space.remove(entry)


def _name(namespace_id: int, key: bytes) -> bytes:
    return namespace_id.to_bytes(4, "big") + key
