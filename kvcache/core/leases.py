"""Leases: which blocks must stay, until when, by whose word.

Layer: pure; the caller guards it and tells the time. A lease has an id that its owner chose, one
deadline, and the blocks that it holds; `Entry.leases` counts how many leases hold a block. A lease
ends when its owner ends it or its deadline passes, whichever is first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic

from luciole.kvcache.core.eviction import Entry, V

LEASE_SECONDS_MAX = 600.0
LEASES_MAX = 65_536


@dataclass
class _Lease(Generic[V]):
    deadline: float
    entries: list[Entry[V]] = field(default_factory=list)


class Leases(Generic[V]):
    """All leases of one cache."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease[V]] = {}
        self._order: list[tuple[float, int]] = []  # heap; may name deadlines that were moved

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, lease_id: int, entries: Iterable[Entry[V]], deadline: float) -> bool:
        """Adds blocks to a lease, which it makes if there is none; it lasts until the later
        deadline. Returns False, having done nothing, if there are too many leases."""
        lease = self._leases.get(lease_id)
        if lease is None:
            if len(self._leases) >= LEASES_MAX:
                return False
            lease = self._leases[lease_id] = _Lease(deadline)
            heapq.heappush(self._order, (deadline, lease_id))
        elif deadline > lease.deadline:
            lease.deadline = deadline
            heapq.heappush(self._order, (deadline, lease_id))
        before = len(lease.entries)
        lease.entries.extend(entries)
        for entry in lease.entries[before:]:
            entry.leases += 1
        return True

    def extend(self, lease_id: int, deadline: float) -> bool:
        """Sets a new deadline, also an earlier one. Returns whether the lease is there."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.deadline = deadline
        heapq.heappush(self._order, (deadline, lease_id))
        return True

    def release(self, lease_id: int) -> bool:
        """Ends a lease. Returns whether it was there."""
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return False
        for entry in lease.entries:
            entry.leases -= 1
        return True

    def expire(self, now: float) -> int:
        """Ends what is due; returns how many. Costs next to nothing when nothing is."""
        ended = 0
        while self._order and self._order[0][0] <= now:
            _, lease_id = heapq.heappop(self._order)
            lease = self._leases.get(lease_id)
            if lease is not None and lease.deadline <= now:
                self.release(lease_id)
                ended += 1
        return ended
