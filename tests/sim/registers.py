"""Whether a history of one register can be explained by some order of its operations.

A write of unknown outcome may take effect at any time after it began, or never. Source: Wing and
Gong, "Testing and Verifying Concurrent Objects", 1993, with the memory of Lowe, "Testing for
Linearizability", 2017: a set of operations done and a value are looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FOREVER = float("inf")


@dataclass(frozen=True)
class Operation:
    """One read or write. `ended` is FOREVER for a write whose outcome nobody knows."""

    write: bool
    value: int
    began: float
    ended: float


def linearizable(history: Sequence[Operation], first: int) -> bool:
    """Whether an order exists that respects real time and in which reads see the last write."""
    needed = sum(1 << i for i, operation in enumerate(history) if operation.ended < FOREVER)
    seen: set[tuple[int, int]] = set()
    pending = [(0, first)]
    while pending:
        done, value = pending.pop()
        if done & needed == needed:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        open_operations = [i for i in range(len(history)) if not done >> i & 1]
        horizon = min(history[i].ended for i in open_operations)
        for i in open_operations:
            operation = history[i]
            if operation.began <= horizon and (operation.write or operation.value == value):
                pending.append((done | 1 << i, operation.value))
    return False
