"""Reads spread over the replicas of a chain against reads of its tail, in simulated time.

    python -m benchmarks.replicas

The figures are the same on every machine: time is modelled (tests/sim/reading.py says how).
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from luciole.tests.sim.reading import reads_per_second

SHARES = (0.0, 0.1, 0.5, 1.0)


def main() -> None:
    """Prints a table."""
    table = Table("chunks being written", "spread, reads/s", "tail only, reads/s", "ratio")
    for dirty in SHARES:
        spread = reads_per_second(dirty=dirty, spread=True)
        tail = reads_per_second(dirty=dirty, spread=False)
        table.add_row(f"{dirty:.0%}", f"{spread:.0f}", f"{tail:.0f}", f"{spread / tail:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
