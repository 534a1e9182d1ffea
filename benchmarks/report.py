"""What a comparison found, as tables, JSON and plots.

Ratios are taken round by round, since a machine that others use is another one each minute; shown
are their medians.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.ceilings import is_bytes
from benchmarks.rows import Row
from benchmarks.workloads import Result

OURS = "luciole"
NEAR = 0.5  # of a ceiling: then that part holds it up


@dataclass
class Figure:
    """One run of one row on one side; empty rates tell that it failed."""

    rate: float = math.nan
    cpu: dict[str, float] = field(default_factory=dict)  # role -> seconds
    operations: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass
class Found:
    """All figures of one row."""

    row: Row
    rounds: list[dict[str, Figure]] = field(default_factory=list)  # side -> figure

    def median(self, side: str) -> float:
        """Of its rates; NaN without any."""
        return middle(one[side].rate for one in self.rounds if side in one)

    def ratio(self, sides: Iterable[str]) -> float:
        """Ours to the best of the sides, round by round."""
        names = list(sides)
        return middle(
            one[OURS].rate / max(rates) for one in self.rounds if OURS in one
            if (rates := [one[name].rate for name in names
                          if name in one and not math.isnan(one[name].rate)]))

    def ceiling(self, ceilings: dict[str, float]) -> tuple[str, float]:
        """The part that limits the row, and the rate it allows in the row's unit."""
        scale = 1e6 if self.row.unit == "MB/s" else 1.0
        allowed = [(ceilings[name] / times / scale, name)
                   for name, times in self.row.needs.items() if name in ceilings]
        rate, name = min(allowed, default=(math.nan, ""))
        return name, rate

    def cost(self, side: str) -> float:
        """CPU of all its processes: seconds per GiB, or microseconds per operation."""
        def one(figure: Figure) -> float:
            amount = figure.size / 2**30 if self.row.unit == "MB/s" else figure.operations / 1e6
            return sum(figure.cpu.values()) / amount if amount else math.nan

        return middle(one(figures[side]) for figures in self.rounds if side in figures)

    def heaviest(self, side: str) -> str:
        """Whose CPU time it is, most first."""
        total: dict[str, float] = {}
        for figures in self.rounds:
            for role, used in (figures[side].cpu if side in figures else {}).items():
                total[role] = total.get(role, 0.0) + used
        whole = sum(total.values()) or 1.0
        return ", ".join(f"{role} {100 * used / whole:.0f} %" for role, used in sorted(
            total.items(), key=lambda item: -item[1])[:3] if used)


def figure(row: Row, result: Result, cpu: dict[str, float]) -> Figure:
    """What one run gave."""
    amount = result.size / 1e6 if row.unit == "MB/s" else result.operations
    return Figure(amount / result.seconds, cpu, result.operations, result.size, result.seconds)


def middle(values: Iterable[float]) -> float:
    """The median of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def shown(value: float, form: str = ",.0f") -> str:
    """A number, or a dash."""
    return "-" if math.isnan(value) else format(value, form)


def render(
    out: Console, found: Sequence[Found], sides: dict[str, int], ceilings: dict[str, float]
) -> None:
    """Prints all tables. Args: sides: how many copies each makes, by its name."""
    peers = [name for name, copies in sides.items() if name != OURS and copies > 1]
    table = Table(title="Medians of all rounds; ratios round by round")
    table.add_column("row")
    for heading in ("unit", *sides, "to the best of two copies",
                    *([f"to {name}" for name in sides if name == "JuiceFS"])):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.row.name, one.row.unit, *(shown(one.median(side)) for side in sides),
            shown(one.ratio(peers), ".2f"),
            *(shown(one.ratio([name]), ".2f") for name in sides if name == "JuiceFS"))
    out.print(table)
    if OURS in sides:
        _render_limits(out, found, ceilings)
    costs = Table(title="CPU, client and servers: s/GiB for bytes, µs an operation otherwise")
    costs.add_column("row")
    costly = [side for side in sides if any(one.cost(side) > 0 for one in found)]
    for side in costly:
        costs.add_column(side, justify="right")
    for one in found:
        form = ".2f" if one.row.unit == "MB/s" else ",.0f"
        costs.add_row(one.row.name, *(shown(one.cost(side), form) for side in costly))
    out.print(costs)


def _render_limits(out: Console, found: Sequence[Found], ceilings: dict[str, float]) -> None:
    limits = Table(title=f"What {OURS} reaches of this machine's ceilings, and whose CPU it takes")
    for heading in ("row", "ceiling", "at most", "reached", "what holds it up", "CPU of each role"):
        limits.add_column(heading)
    for one in found:
        name, most = one.ceiling(ceilings)
        reached = one.median(OURS) / most
        limits.add_row(
            one.row.name, name, f"{shown(most)} {one.row.unit}", shown(reached, ".2f"),
            name if reached >= NEAR else "our own work and wake-ups", one.heaviest(OURS))
    out.print(limits)


def render_ceilings(out: Console, ceilings: dict[str, float]) -> None:
    """Prints what the machine can do."""
    table = Table("ceiling of this machine", "rate", "each")
    for name, rate in ceilings.items():
        table.add_row(name, *(
            (f"{rate / 1e6:,.0f} MB/s", f"{2**20 / rate * 1e6:,.0f} µs a MiB")
            if is_bytes(name) else (f"{rate:,.0f}/s", f"{1e6 / rate:,.1f} µs")))
    out.print(table)


def record(
    found: Sequence[Found], sides: dict[str, int], ceilings: dict[str, float]
) -> dict[str, object]:
    """All of it, for JSON."""
    return {
        "sides": sides, "ceilings": ceilings,
        "rows": [{
            "name": one.row.name, "unit": one.row.unit, "cold": one.row.cold,
            "rounds": [{side: {
                "rate": None if math.isnan(each.rate) else each.rate, "cpu_s": each.cpu,
                "operations": each.operations, "bytes": each.size, "seconds": each.seconds,
            } for side, each in figures.items()} for figures in one.rounds],
        } for one in found],
    }


def plot(folder: Path, found: Sequence[Found], sides: dict[str, int]) -> bool:
    """A picture of each row; returns False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    for one in found:
        names = [side for side in sides if not math.isnan(one.median(side))]
        picture, axes = pyplot.subplots(figsize=(7, 0.45 * len(names) + 1))
        axes.barh(names[::-1], [one.median(side) for side in names[::-1]],
                  color=["tab:orange" if side == OURS else "tab:gray" for side in names[::-1]])
        axes.set_title(one.row.name + (", cold client" if one.row.cold else ""))
        axes.set_xlabel(one.row.unit)
        picture.tight_layout()
        picture.savefig(folder / (re.sub(r"\W+", "-", one.row.name) + ".png"), dpi=100)
        pyplot.close(picture)
    return True
