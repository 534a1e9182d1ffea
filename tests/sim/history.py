"""Whether what clients saw of one chunk can be explained by some order of their operations.

A chunk is a row of cells. A write sets a range of them to one value, a read sees a range; both are
atomic. A write of unknown outcome may take effect at any time after it began, or never. Source:
Wing and Gong, "Testing and Verifying Concurrent Objects", 1993, with the memory of Lowe, "Testing
for Linearizability", 2017, on sets of operations done and the cells after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FOREVER = float("inf")
LOOKS_MAX = 200_000


@dataclass(frozen=True)
class CellOperation:
    """One read or write of cells from `first` on. `ended` is FOREVER if nobody knows."""

    write: bool
    first: int
    values: tuple[int, ...]
    began: float
    ended: float
    who: str = ""

    def fits(self, cells: tuple[int, ...]) -> bool:
        """Whether the cells are what this read saw."""
        return cells[self.first : self.first + len(self.values)] == self.values

    def applied(self, cells: tuple[int, ...]) -> tuple[int, ...]:
        """The cells after this write."""
        end = self.first + len(self.values)
        return cells[: self.first] + self.values + cells[end:]

    def __str__(self) -> str:
        kind = "write" if self.write else "read "
        return (f"{self.began:9.4f} to {self.ended:9.4f} {kind} {self.first}: {self.values} "
                f"{self.who}")


def explained(history: Sequence[CellOperation], cells: int) -> bool | None:
    """Whether an order exists, of cells that were zero; None when the search was given up."""
    order = sorted(history, key=lambda operation: operation.began)
    needed = sum(1 << i for i, operation in enumerate(order) if operation.ended < FOREVER)
    seen: set[tuple[int, tuple[int, ...]]] = set()
    stack = [(0, (0,) * cells)]
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if len(seen) > LOOKS_MAX:
            return None
        stack.extend(_steps(order, done, state))
    return False


def _steps(
    order: Sequence[CellOperation], done: int, state: tuple[int, ...]
) -> list[tuple[int, tuple[int, ...]]]:
    """Every way to go on: an operation that may be next, and the cells after it.

    A read that fits now can be taken now without losing any order, so it is the only way then.
    """
    horizon = FOREVER
    ways = []
    for i, operation in enumerate(order):
        if done >> i & 1:
            continue
        if operation.began > horizon:
            break  # it and all that follow began after one that must come first had ended
        horizon = min(horizon, operation.ended)
        if operation.write:
            ways.append((i, operation))
        elif operation.fits(state):
            return [(done | 1 << i, state)]
    # The last is tried first: writes of unknown outcome had better wait.
    ways.sort(key=lambda way: -way[1].ended)
    return [(done | 1 << i, operation.applied(state)) for i, operation in ways
            if operation.began <= horizon]
