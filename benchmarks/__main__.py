"""`make bench`: the mount against the local disk, side by side, and what each process costs.

    python -m benchmarks [--size MIB] [--repeats N] [--json FILE] [--no-profile]

Machines are shared and noisy: every workload runs on both sides in turn, several times, and the
figure to quote is the median of the ratios.
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
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import CpuMeter, profiled, profiler
from benchmarks.workloads import MIB, WORKLOADS, Result, Workload
from luciole.deploy.cli import main as luciole

GIB = 1 << 30


def processes_of(cluster: Path) -> dict[str, int]:
    """Process ids by name, from the cluster's pid files."""
    return {
        path.stem: int(json.loads(path.read_text())["pid"])
        for path in sorted((cluster / "run").glob("*.pid"))
    }


def rate(workload: Workload, result: Result) -> float:
    """The figure in the workload's unit."""
    amount = result.size / 1e6 if workload.unit == "MB/s" else result.operations
    return amount / result.seconds


def measure(
    mount: Path, disk: Path, processes: dict[str, int], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Counter[str]]]:
    """Runs every workload on both sides; returns rows and profiles."""
    rows: dict[str, dict[str, Any]] = {
        workload.name: {"name": workload.name, "unit": workload.unit, "mount": [], "disk": [],
                        "cpu": Counter(), "operations": 0, "size": 0}
        for workload in WORKLOADS
    }
    profiles: dict[str, Counter[str]] = {}
    for _ in range(options.repeats):
        for workload in WORKLOADS:
            row = rows[workload.name]
            row["disk"].append(rate(workload, workload.run(disk, options.size * MIB)))
            meter = CpuMeter(processes)
            result = workload.run(mount, options.size * MIB)
            row["mount"].append(rate(workload, result))
            row["cpu"].update(meter.used())
            row["operations"] += result.operations
            row["size"] += result.size
    if not options.no_profile:
        # Apart from the timed runs: sampling costs time.
        for workload in WORKLOADS:
            with profiled(processes, profiles):
                workload.run(mount, options.size * MIB)
    return list(rows.values()), profiles


def render(rows: list[dict[str, Any]], profiles: dict[str, Counter[str]], out: Console) -> None:
    """Prints the tables."""
    table = Table(title="Mount against local disk (medians; ratio is mount / disk, pair by pair)")
    for heading in ("workload", "unit", "mount", "disk", "ratio", "min-max"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = [mount / disk for mount, disk in zip(row["mount"], row["disk"], strict=True)]
        table.add_row(
            row["name"], row["unit"], f"{statistics.median(row['mount']):,.0f}",
            f"{statistics.median(row['disk']):,.0f}", f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f}-{max(ratios):.3f}")
    out.print(table)
    names = sorted(rows[0]["cpu"])
    costs = Table(title="CPU: seconds per GiB for bulk, microseconds per operation otherwise")
    costs.add_column("workload", justify="right")
    for name in names:
        costs.add_column(name, justify="right")
    for row in rows:
        bulk = row["unit"] == "MB/s"
        scale = GIB / row["size"] if bulk else 1e6 / row["operations"]
        costs.add_row(row["name"], *(
            f"{row['cpu'][name] * scale:,.2f} s" if bulk else f"{row['cpu'][name] * scale:,.0f} µs"
            for name in names))
    out.print(costs)
    for name, samples in profiles.items():
        total = sum(samples.values())
        if not total:
            continue
        out.print(f"\n{name}: where the interpreter was ({total} samples)")
        for frame, count in samples.most_common(8):
            out.print(f"  {100 * count / total:4.1f} %  {frame}", highlight=False)


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks --size 256 --repeats 5")
    parser.add_argument("--size", type=int, default=256, metavar="MIB",
                        help="size of the big file (default: 256)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N",
                        help="runs of each workload on each side (default: 3)")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--no-profile", action="store_true", help="leave the profile out")
    options = parser.parse_args(arguments)
    out = Console(width=None if sys.stdout.isatty() else 140)
    root = Path(tempfile.mkdtemp(prefix="luciole-bench-", dir=os.environ.get("TMPDIR")))
    cluster, mount, disk = root / "cluster", root / "mnt", root / "disk"
    mount.mkdir()
    disk.mkdir()
    try:
        status = luciole(["up", str(cluster), "--mount", str(mount),
                          "--durability", options.durability])
        if status:
            return status
        rows, profiles = measure(mount, disk, processes_of(cluster), options)
        render(rows, profiles, out)
        if not options.no_profile and profiler() is None:
            out.print("no profile: py-spy is not installed (pip install -e .[bench])")
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
        return 0
    finally:
        luciole(["down", str(cluster)])
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
