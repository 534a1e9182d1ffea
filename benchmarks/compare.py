"""`luciole bench`: this filesystem and others on this machine, in one run.

    python -m benchmarks.compare [--size MIB] [--files N] [--rounds N] [--minutes N]
        [--sides NAME,…] [--durability process|power] [--out FOLDER]

Every row runs on all sides in turn, each round beginning with another side. Peers that are not
installed are left out with a word. Tables, figures.json and a picture of each row go to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

import luciole
from benchmarks import ceilings, native
from benchmarks.peers.cephfs import CephFS
from benchmarks.peers.gluster import Gluster
from benchmarks.peers.juicefs import JuiceFS
from benchmarks.peers.luciole import Luciole
from benchmarks.peers.moosefs import MooseFS
from benchmarks.peers.plain import Disk, Passthrough
from benchmarks.peers.seaweedfs import SeaweedFS
from benchmarks.peers.side import Side, SideError
from benchmarks.report import Figure, Found, figure, middle, plot, record, render, render_ceilings
from benchmarks.rows import ROWS, JobError, Row
from benchmarks.workloads import MIB, Scale, pack

LEAST_FREE = 20  # times the big file: for all sides, rows and copies
WIDTH = 200


def sides_of(root: Path, options: argparse.Namespace) -> list[Side]:
    """All that there could be, ours first."""
    return [Luciole(root, options.durability, options.nodes), Disk(root), Passthrough(root),
            Gluster(root), CephFS(root), MooseFS(root), SeaweedFS(root), JuiceFS(root)]


def started(
    candidates: list[Side], wanted: list[str], stack: ExitStack, out: Console
) -> list[Side]:
    """Starts those that are wanted and can be; the stack stops them."""
    running = []
    for side in candidates:
        if wanted and side.name not in wanted:
            continue
        reason = side.missing()
        if reason is None:
            stack.callback(side.stop)
            try:
                side.start()
                (side.place / "bench").mkdir()
                running.append(side)
                continue
            except (SideError, OSError, subprocess.SubprocessError) as failure:
                reason = str(failure)
        out.print(f"without {side.name}: {reason}", highlight=False)
    return running


def run_row(row: Row, side: Side, scale: Scale) -> Figure:
    """One row on one side. Raises SideError, JobError or OSError."""
    folder = side.place / "bench"
    row.prepare(folder, scale)
    if row.cold:
        side.remount()
        os.stat(folder)
    before = side.cpu()
    result = row.run(folder, scale)
    after = side.cpu()
    return figure(row, result, {
        role: used - before.get(role, 0.0) for role, used in after.items()})


def run_rounds(sides: list[Side], scale: Scale, options: argparse.Namespace, out: Console
               ) -> list[Found]:
    """All rows on all sides, until the rounds or the minutes are over; one round at least."""
    found = [Found(row) for row in ROWS]
    began = time.monotonic()
    for number in range(options.rounds):
        passed = time.monotonic() - began
        # Not begun if it would take longer than there is time, as the others did.
        if number and passed * (number + 1) / number > options.minutes * 60:
            break
        turn = number % len(sides)
        for one in found:
            figures: dict[str, Figure] = {}
            for side in sides[turn:] + sides[:turn]:
                try:
                    figures[side.name] = run_row(one.row, side, scale)
                except (SideError, JobError, OSError, subprocess.SubprocessError) as failure:
                    out.print(f"{one.row.name} on {side.name}: {failure}", highlight=False)
                    figures[side.name] = Figure()
            one.rounds.append(figures)
        out.print(f"round {number + 1}: {time.monotonic() - began:.0f} s")
    return found


Pairs = list[tuple[float, float]]  # operations a second: ours, and the system call's


def run_native(cluster: Path, rounds: int) -> dict[str, Pairs]:
    """The native client beside preadv into the same memory, round by round."""
    rows = {}
    with luciole.connect(cluster) as fs, fs.buffer(2 * native.HALF * MIB) as buffer, \
            tempfile.TemporaryFile() as local:
        data = random.Random(1).randbytes(MIB) * (native.FILE_BYTES // MIB)
        local.write(data)
        local.flush()
        with fs.open("/native", "w") as file:
            file.write(data, 0)
        with fs.open("/native") as file:
            reads = native.Reads(fs, file, buffer, local.fileno())
            for name, ours, theirs in (
                    (f"read_many of {native.BATCH} x 4 KiB", reads.small_many, reads.small_preadv),
                    (f"ring, {2 * native.HALF} x 1 MiB under way", reads.large_ring,
                     reads.large_preadv),
                    ("1 MiB, one at a time", reads.large_into, reads.large_preadv)):
                rows[name] = [(ceilings.per_second(ours), ceilings.per_second(theirs))
                              for _ in range(rounds)]
        fs.remove("/native")
    return rows


def render_native(out: Console, rows: dict[str, Pairs]) -> None:
    """Prints them."""
    table = Table("native client", "operations/s", "preadv", "ratio",
                  title="Reads by the native client, beside preadv from the page cache")
    for name, pairs in rows.items():
        table.add_row(
            name, f"{middle(one for one, _ in pairs):,.0f}",
            f"{middle(other for _, other in pairs):,.0f}",
            f"{middle(one / other for one, other in pairs):.2f}")
    out.print(table)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="luciole bench", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: luciole bench --sides luciole,disk,JuiceFS --rounds 5")
    parser.add_argument("--size", type=int, default=128, metavar="MIB",
                        help="size of the big file (default: 128)")
    parser.add_argument("--files", type=int, default=200, metavar="N",
                        help="number of small files (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="rounds at most (default: 3)")
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N",
                        help="then no further round begins (default: 8)")
    parser.add_argument("--sides", default="", metavar="NAME,…", help="only these (default: all)")
    parser.add_argument("--nodes", type=int, default=2, metavar="N",
                        help="our storage processes (default: 2, as the peers have)")
    parser.add_argument("--durability", choices=["process", "power"], default="process")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER",
                        help="where results go (default: ./bench-results)")
    options = parser.parse_args(arguments)
    if options.size < 32 or options.size % 32 or options.files < 1 or options.rounds < 1:
        parser.error("--size is a multiple of 32; --files and --rounds are positive")
    return options


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped
    out = Console(width=None if sys.stdout.isatty() else WIDTH, record=True)
    root = Path(tempfile.mkdtemp(prefix="luciole-bench-", dir=os.environ.get("TMPDIR")))
    scale = Scale(options.size * MIB, options.files, root / "small.tar")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        if shutil.disk_usage(root).free < LEAST_FREE * scale.size:
            out.print(f"{root} has too little room: set TMPDIR, or give a smaller --size")
            return 1
        pack(scale.archive, scale.files)
        wanted = [name for name in options.sides.split(",") if name]
        sides = started(sides_of(root, options), wanted, stack, out)
        if not sides:
            out.print("no side is left to measure: see --sides and what was left out")
            return 1
        named = {side.name: side for side in sides}
        through_c = named.get("C passthrough")
        limits = ceilings.measure(root, through_c.place if through_c else None)
        render_ceilings(out, limits)
        for side in sides:
            out.print(f"{side.name}: copies {side.copies}; acknowledged survives: {side.survives}",
                      highlight=False)
        found = run_rounds(sides, scale, options, out)
        copies = {side.name: side.copies for side in sides}
        render(out, found, copies, limits)
        ours = named.get("luciole")
        native_rows = run_native(ours.cluster, options.rounds) if isinstance(ours, Luciole) else {}
        if native_rows:
            render_native(out, native_rows)
        options.out.mkdir(parents=True, exist_ok=True)
        everything = {**record(found, copies, limits), "native": native_rows}
        (options.out / "figures.json").write_text(json.dumps(everything, indent=1))
        if not plot(options.out, found, copies):
            out.print("no plots: matplotlib is not installed (pip install -e .[plot])")
        (options.out / "table.txt").write_text(out.export_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
