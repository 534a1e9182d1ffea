"""Many processes that do anything to one tree through two mounts at once.

By hand: `python -m luciole.tests.model.tree_stress PROCESSES SECONDS MOUNT OTHER-MOUNT`, as root.

Layer: tests. After the idea of fsstress: nobody knows what a call should return, but it returns,
and never an error that only a fault explains. Afterwards fsck must be clean.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

from luciole.tests.model.tree_exerciser import Operation, TreeExerciser

FAULTS = {"EIO", "ETIMEDOUT", "EAGAIN", "EBUSY", "ENOLCK", "ENOSYS", "EDEADLK"}


class Stress(TreeExerciser):
    """Every call on both mounts, one after the other, whatever others do meanwhile."""

    def __init__(self, one: Path, other: Path, seed: int) -> None:
        super().__init__(one, [other], seed)
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0, ""

    def _do(self, text: str, operation: Operation, *, changes: bool = True) -> None:
        user = self._chance.choice([0, 0, 1000])
        for root in (self._mount, self._local):
            began = time.monotonic()
            outcome = self._outcome(operation, root, user)
            self.slowest = max(self.slowest, (time.monotonic() - began, text))
            name = outcome if isinstance(outcome, str) and outcome.startswith("E") else "done"
            assert name not in FAULTS, f"{root}: {text} -> {name}"
            self.outcomes[name] += 1

    def _next_turn(self) -> None:
        """Nobody waits for anybody."""

    def run_for(self, seconds: float) -> None:
        """Works for so long. Raises AssertionError at an error that a fault explains."""
        steps, weights = zip(*self._steps, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            [step] = self._chance.choices(steps, weights)
            self._log.append("")
            step()
        self.close()


def work(one: Path, other: Path, seed: int, seconds: float) -> tuple[Counter[str], float, str]:
    """One process: how many calls ended how, the slowest one's seconds, and which it was."""
    stress = Stress(one, other, seed)
    stress.run_for(seconds)
    return stress.outcomes, *stress.slowest


def main() -> None:
    """Runs from the command line."""
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    one, other = (Path(place) / "stressed" for place in sys.argv[3:5])
    one.mkdir()
    (one / "tree").mkdir()
    outcomes: Counter[str] = Counter()
    with multiprocessing.Pool(count) as pool:
        for found, slowest, text in pool.starmap(
                work, [(one, other, seed, seconds) for seed in range(count)]):
            outcomes += found
            print(f"slowest: {slowest:.2f} s, {text[:120]}")
    print(sum(outcomes.values()), "calls:", dict(outcomes))


if __name__ == "__main__":
    main()
