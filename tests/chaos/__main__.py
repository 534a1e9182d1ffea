"""`python -m luciole.tests.chaos`: works a cluster under faults and says what came of it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from luciole.deploy.output import answers, print_json
from luciole.tests.chaos import namespaces, partitions
from luciole.tests.chaos.harness import Plan, Report, Run

CANNOT = 77
KINDS = ("storage", "mgmtd", "meta", "stop", *partitions.KINDS)
PARTITION = "partition"  # every kind of partition in turn


def show(report: Report) -> None:
    """The report for a person."""
    table = Table("what", "found", box=None, pad_edge=False, header_style="bold")
    table.add_row("seed", str(report.seed))
    table.add_row("system calls", str(report.operations))
    table.add_row("longest pause", f"{report.longest_pause_seconds:.2f} s")
    table.add_row("redundancy whole again", f"{report.redundancy_seconds:.1f} s after the last")
    table.add_row("ways to nodes", ", ".join(
        f"{count} by {way}" for way, count in sorted(report.transports.items())))
    table.add_row("connections fell back", str(report.fell_back))
    for name, lines in (
        ("fault", report.faults), ("slow", report.slowest), ("error", report.errors),
        ("mismatch", report.mismatches), ("zombie", report.zombie_answers),
        ("fsck", report.fsck),
    ):
        for line in lines or ["none"]:
            table.add_row(name, line)
    table.add_row("verdict", "ok" if report.ok else "FAILED")
    answers().print(table)


def main() -> int:
    """Returns 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m luciole.tests.chaos")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--targets-per-node", type=int, default=6)
    parser.add_argument("--managers", type=int, default=2)
    parser.add_argument("--metas", type=int, default=2)
    parser.add_argument(
        "--kill", action="append", choices=(*KINDS, PARTITION), help="may be repeated: in turn")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between faults")
    parser.add_argument("--stop-seconds", type=float, default=30.0)
    parser.add_argument("--cut-seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--transport", default="auto", choices=("auto", "shm", "rdma", "tcp"),
        help="of mounts and services")
    parser.add_argument("--keep", action="store_true", help="leave the directory")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kills: list[str] = []
    for kind in args.kill or ["storage"]:
        kills += partitions.KINDS if kind == PARTITION else [kind]
    if set(kills) & set(partitions.KINDS) and not namespaces.enclosed():
        reason = namespaces.why_not()
        if reason:
            print(f"processes cannot be parted here: {reason}", file=sys.stderr)
            return CANNOT
        return namespaces.enclose([sys.executable, "-m", "luciole.tests.chaos", *sys.argv[1:]])
    plan = Plan(
        seconds=args.minutes * 60, nodes=args.nodes, replicas=args.replicas,
        targets_per_node=args.targets_per_node, managers=args.managers, metas=args.metas,
        kills=tuple(kills), every_seconds=args.every,
        stop_seconds=args.stop_seconds, cut_seconds=args.cut_seconds, seed=args.seed,
        transport=args.transport)
    root = Path(tempfile.mkdtemp(prefix="luciole-chaos-"))
    report = Run(plan, root).execute()
    if args.json:
        print_json(report)
    else:
        show(report)
    if report.ok and not args.keep:
        shutil.rmtree(root, ignore_errors=True)
    else:
        print(f"logs and records are in {root}", file=sys.stderr)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
