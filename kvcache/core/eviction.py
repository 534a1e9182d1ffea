"""Which block goes when room is needed: S3-FIFO, and never one that is leased.

Layer: pure; the caller guards it. The algorithm is S3-FIFO (Yang et al., "FIFO Queues are All You
Need for Cache Eviction", SOSP 2023), with sizes in bytes instead of objects: new blocks enter a
*small* queue of a tenth of the bytes; those used more than once there move to the *main* queue, the
others leave, and only their names are remembered (*ghosts*). Whoever comes back while it is a ghost
enters the main queue at once. So a scan of blocks that nobody asks for again passes through the
small queue and leaves the main one alone.

A leased block that is met at the end of a queue goes to its beginning, as the algorithm does with
used ones too. One call meets at most `LEASED_MET_MAX` of them, so that it is short however many
there are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

SMALL_SHARE = 10  # one part of so many is the small queue
USES_MAX = 3
PROMOTED_ABOVE = 1  # uses in the small queue
LEASED_MET_MAX = 256
GHOSTS_MIN = 64

V = TypeVar("V")


class Entry(Generic[V]):
    """A block as a cache knows it. `uses` may be raised by anybody, up to `USES_MAX`."""

    __slots__ = ("created_ns", "in_main", "key", "leases", "length", "place", "size", "uses")

    def __init__(self, key: bytes, length: int, size: int, place: V, created_ns: int = 0) -> None:
        self.key = key
        self.length = length  # bytes of the block
        self.size = size  # bytes that it takes
        self.place = place
        self.created_ns = created_ns
        self.uses = 0
        self.leases = 0
        self.in_main = False


class Queues(Generic[V]):
    """The two queues of blocks and the names of those that left."""

    def __init__(self) -> None:
        self._small: OrderedDict[bytes, Entry[V]] = OrderedDict()
        self._main: OrderedDict[bytes, Entry[V]] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._small_bytes = 0
        self._main_bytes = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    @property
    def total(self) -> int:
        """Of all blocks."""
        return self._small_bytes + self._main_bytes

    def insert(self, entry: Entry[V], *, known: bool = False) -> None:
        """Takes a block in. `known`: it was here for long already (after a restart)."""
        ghost = hash(entry.key)
        if known or ghost in self._ghosts:
            self._ghosts.pop(ghost, None)
            self._to_main(entry)
        else:
            entry.in_main = False
            self._small[entry.key] = entry
            self._small_bytes += entry.size

    def remove(self, entry: Entry[V]) -> None:
        """Forgets a block, for another reason than room."""
        if entry.in_main:
            del self._main[entry.key]
            self._main_bytes -= entry.size
        else:
            del self._small[entry.key]
            self._small_bytes -= entry.size

    def evict(self) -> Entry[V] | None:
        """Takes out the block that goes next; None if all that were met are leased."""
        patience = LEASED_MET_MAX
        # Each block is met at most once for each of its uses and once more.
        for _ in range((USES_MAX + 1) * len(self) + LEASED_MET_MAX):
            if patience == 0 or not (self._small or self._main):
                return None
            from_small = bool(self._small) and (
                self._small_bytes * SMALL_SHARE >= self.total or not self._main)
            entry = self._pop(self._small if from_small else self._main)
            if entry.leases:
                patience -= 1
                self._to_main(entry)
            elif from_small and entry.uses > PROMOTED_ABOVE:
                entry.uses = 0
                self._to_main(entry)
            elif not from_small and entry.uses:
                entry.uses -= 1
                self._to_main(entry)
            else:
                if from_small:
                    self._remember(entry)
                return entry
        return None

    def _pop(self, queue: OrderedDict[bytes, Entry[V]]) -> Entry[V]:
        _, entry = queue.popitem(last=False)
        if entry.in_main:
            self._main_bytes -= entry.size
        else:
            self._small_bytes -= entry.size
        return entry

    def _to_main(self, entry: Entry[V]) -> None:
        entry.in_main = True
        self._main[entry.key] = entry
        self._main_bytes += entry.size

    def _remember(self, entry: Entry[V]) -> None:
        self._ghosts[hash(entry.key)] = None
        while len(self._ghosts) > max(GHOSTS_MIN, len(self._main)):
            self._ghosts.popitem(last=False)
