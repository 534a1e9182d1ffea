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

The queues are linked through their entries: caches have many, and a table of its own for each queue
would cost as much memory as all else of an entry.
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

    __slots__ = ("before", "behind", "created_ns", "in_main", "key", "leases", "length", "place",
                 "size", "uses")

    def __init__(self, key: bytes, length: int, size: int, place: V, created_ns: int = 0) -> None:
        self.key = key
        self.length = length  # bytes of the block
        self.size = size  # bytes that it takes
        self.place = place
        self.created_ns = created_ns
        self.uses = 0
        self.leases = 0
        self.in_main = False
        self.before: Entry[V] | None = None  # in its queue
        self.behind: Entry[V] | None = None


class Queue(Generic[V]):
    """Entries in the order in which they came. An entry is in one queue at most."""

    __slots__ = ("_first", "_last", "count", "total")

    def __init__(self) -> None:
        self._first: Entry[V] | None = None
        self._last: Entry[V] | None = None
        self.count = 0
        self.total = 0  # bytes

    def push(self, entry: Entry[V]) -> None:
        """Puts an entry behind all others."""
        entry.before, entry.behind = self._last, None
        if self._last is None:
            self._first = entry
        else:
            self._last.behind = entry
        self._last = entry
        self.count += 1
        self.total += entry.size

    def remove(self, entry: Entry[V]) -> None:
        """Takes out an entry of this queue."""
        before, behind = entry.before, entry.behind
        if before is None:
            self._first = behind
        else:
            before.behind = behind
        if behind is None:
            self._last = before
        else:
            behind.before = before
        entry.before = entry.behind = None
        self.count -= 1
        self.total -= entry.size

    def pop(self) -> Entry[V]:
        """Takes out the first one. There must be one."""
        entry = self._first
        assert entry is not None
        self.remove(entry)
        return entry


class Queues(Generic[V]):
    """The two queues of blocks and the names of those that left."""

    def __init__(self) -> None:
        self._small: Queue[V] = Queue()
        self._main: Queue[V] = Queue()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return self._small.count + self._main.count

    @property
    def total(self) -> int:
        """Of all blocks."""
        return self._small.total + self._main.total

    def insert(self, entry: Entry[V], *, known: bool = False) -> None:
        """Takes a block in. `known`: it was here for long already (after a restart)."""
        ghost = hash(entry.key)
        if known or ghost in self._ghosts:
            self._ghosts.pop(ghost, None)
            self._to_main(entry)
        else:
            entry.in_main = False
            self._small.push(entry)

    def remove(self, entry: Entry[V]) -> None:
        """Forgets a block, for another reason than room."""
        (self._main if entry.in_main else self._small).remove(entry)

    def evict(self) -> Entry[V] | None:
        """Takes out the block that goes next; None if all that were met are leased."""
        patience = LEASED_MET_MAX
        # Each block is met at most once for each of its uses and once more.
        for _ in range((USES_MAX + 1) * len(self) + LEASED_MET_MAX):
            if patience == 0 or not len(self):
                return None
            from_small = self._small.count > 0 and (
                self._small.total * SMALL_SHARE >= self.total or not self._main.count)
            entry = (self._small if from_small else self._main).pop()
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

    def _to_main(self, entry: Entry[V]) -> None:
        entry.in_main = True
        self._main.push(entry)

    def _remember(self, entry: Entry[V]) -> None:
        self._ghosts[hash(entry.key)] = None
        while len(self._ghosts) > max(GHOSTS_MIN, self._main.count):
            self._ghosts.popitem(last=False)
