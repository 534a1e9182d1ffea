"""`make bench`: the mount against the local disk and other bindings, and what each process costs.

    python -m benchmarks [--size MIB] [--files N] [--repeats N] [--json FILE] [--no-profile]

The sides are the mount with the direct binding ("mount"), the same cluster through pyfuse3, the
local disk, and libfuse's passthrough example in C over that disk. Machines are shared and noisy:
every workload runs on all sides in turn, several times, and the figure to quote is the median of
the ratios to the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import CpuMeter, profiled, profiler
from benchmarks.passthrough import build, passing_through
from benchmarks.workloads import MIB, WORKLOADS, Result, Scale, Workload, pack
from luciole.deploy.cli import main as luciole
from luciole.deploy.processes import read_record

GIB = 1 << 30


def processes_of(cluster: Path, mount: Path) -> dict[str, int]:
    """Process ids by name, from the cluster's pid files; of its mounts that one."""
    found = {}
    for path in sorted((cluster / "run").glob("*.pid")):
        record = read_record(path)
        assert record is not None
        if not path.stem.startswith("mount-"):
            found[path.stem] = record.pid
        elif record.mount_point == str(mount):
            found["mount"] = record.pid
    return found


def rate(workload: Workload, result: Result) -> float:
    """The figure in the workload's unit."""
    amount = result.size / 1e6 if workload.unit == "MB/s" else result.operations
    return amount / result.seconds


class Row:
    """The figures of one workload."""

    def __init__(self, workload: Workload, sides: Iterable[str]) -> None:
        self.workload = workload
        self.rates: dict[str, list[float]] = {side: [] for side in sides}
        self.cpu: Counter[str] = Counter()
        self.operations = self.size = 0

    def ratios(self, side: str) -> list[float]:
        """To the disk, round by round."""
        return [one / disk for one, disk in
                zip(self.rates[side], self.rates["disk"], strict=True)]

    def record(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {"name": self.workload.name, "unit": self.workload.unit, "rates": self.rates,
                "mount_cpu_s": dict(self.cpu), "operations": self.operations, "size": self.size}


def rotated(sides: Iterable[str], number: int) -> list[str]:
    """The sides, beginning with another one each round."""
    names = list(sides)
    begin = number % len(names)
    return names[begin:] + names[:begin]


def measure(
    sides: dict[str, Path], processes: dict[str, int], scale: Scale, options: argparse.Namespace
) -> tuple[list[Row], dict[str, Counter[str]]]:
    """Runs every workload on all sides; returns rows and profiles."""
    rows = [Row(workload, sides) for workload in WORKLOADS]
    profiles: dict[str, Counter[str]] = {}
    for number in range(options.repeats):
        for row in rows:
            # Whoever comes first finds other work of the machine's than the last: in turn.
            for side in rotated(sides, number):
                meter = CpuMeter(processes)
                result = row.workload.run(sides[side], scale)
                row.rates[side].append(rate(row.workload, result))
                if side == "mount":
                    row.cpu.update(meter.used())
                    row.operations += result.operations
                    row.size += result.size
    if not options.no_profile:
        # Apart from the timed runs: sampling costs time.
        for workload in WORKLOADS:
            with profiled(processes, profiles):
                workload.run(sides["mount"], scale)
    return rows, profiles


def render(rows: list[Row], profiles: dict[str, Counter[str]], out: Console) -> None:
    """Prints the tables."""
    sides = list(rows[0].rates)
    table = Table(title="Medians; ratios are to the disk, round by round")
    table.add_column("workload")
    for heading in ("unit", *sides, *(f"{side} / disk" for side in sides if side != "disk"),
                    "min-max of mount / disk"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = row.ratios("mount")
        table.add_row(
            row.workload.name, row.workload.unit,
            *(f"{statistics.median(row.rates[side]):,.0f}" for side in sides),
            *(f"{statistics.median(row.ratios(side)):.3f}" for side in sides if side != "disk"),
            f"{min(ratios):.3f}-{max(ratios):.3f}")
    out.print(table)
    names = sorted(rows[0].cpu)
    costs = Table(title="CPU: seconds per GiB for bulk, microseconds per operation otherwise")
    costs.add_column("workload")
    for name in names:
        costs.add_column(name, justify="right")
    for row in rows:
        bulk = row.workload.unit == "MB/s"
        scale = GIB / row.size if bulk else 1e6 / row.operations
        costs.add_row(row.workload.name, *(
            f"{row.cpu[name] * scale:,.2f} s" if bulk else f"{row.cpu[name] * scale:,.0f} µs"
            for name in names))
    out.print(costs)
    for name, samples in profiles.items():
        total = sum(samples.values())
        if not total:
            continue
        out.print(f"\n{name}: where the interpreter was ({total} samples)")
        for frame, count in samples.most_common(8):
            out.print(f"  {100 * count / total:4.1f} %  {frame}", highlight=False)


@contextmanager
def all_sides(root: Path, durability: str, out: Console) -> Iterator[dict[str, Path]]:
    """Every side's directory by its name, while the block runs."""
    cluster = str(root / "cluster")
    sides = {name: root / name for name in ("mount", "pyfuse3", "disk")}
    for side in sides.values():
        side.mkdir()
    with ExitStack() as stack:
        stack.callback(luciole, ["down", cluster])
        if luciole(["up", cluster, "--mount", str(sides["mount"]), "--durability", durability]):
            raise SystemExit("the cluster did not come up")
        if luciole(["mount", str(sides["pyfuse3"]), "--dir", cluster, "--fuse", "pyfuse3"]):
            out.print("no side pyfuse3: it is not installed (pip install -e .[fuse])")
            del sides["pyfuse3"]
        program = build(root)
        if program is None:
            out.print("no side in C: libfuse3-dev with its examples, gcc or pkg-config is missing")
        else:
            sides["C passthrough"] = stack.enter_context(
                passing_through(program, root / "behind", root / "passthrough"))
        # Two of them are the same filesystem.
        folders = {name: side / f"of {name}" for name, side in sides.items()}
        for folder in folders.values():
            folder.mkdir()
        yield folders


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks --size 256 --repeats 5")
    parser.add_argument("--size", type=int, default=256, metavar="MIB",
                        help="size of the big file (default: 256)")
    parser.add_argument("--files", type=int, default=500, metavar="N",
                        help="number of small files (default: 500)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N",
                        help="runs of each workload on each side (default: 3)")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--no-profile", action="store_true", help="leave the profile out")
    options = parser.parse_args(arguments)
    out = Console(width=None if sys.stdout.isatty() else 160)
    root = Path(tempfile.mkdtemp(prefix="luciole-bench-", dir=os.environ.get("TMPDIR")))
    scale = Scale(options.size * MIB, options.files, root / "small.tar")
    pack(scale.archive, scale.files)
    try:
        with all_sides(root, options.durability, out) as sides:
            processes = processes_of(root / "cluster", root / "mount")
            rows, profiles = measure(sides, processes, scale, options)
        render(rows, profiles, out)
        if not options.no_profile and profiler() is None:
            out.print("no profile: py-spy is not installed (pip install -e .[bench])")
        if options.json:
            options.json.write_text(json.dumps([row.record() for row in rows], indent=1))
        return 0
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
