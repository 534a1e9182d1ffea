"""`make run`: a real replicated cluster, mounted, with real data copied through it and verified.

Runs the same commands that a user would type. The first run copies the Python standard library
into the mount; every run reads each file back through the cluster and compares checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from luciole.deploy.cli import main as luciole
from luciole.errors import FsError

WORKERS = 8
BUFFER_BYTES = 1 << 20
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}
DONE_MARK = ".complete"


class Outcome(NamedTuple):
    """What one pass over all files did."""

    files: int
    size: int
    seconds: float

    def rates(self) -> tuple[str, str]:
        """(files a second, MB a second) as text."""
        return f"{self.files / self.seconds:,.0f}", f"{self.size / self.seconds / 1e6:,.1f}"


def library_files(root: Path) -> Iterator[Path]:
    """Regular files of the standard library, relative to `root`, without what is derived."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root)


def checksum(path: Path, *, from_cluster: bool) -> str:
    """SHA-256 of a file; `from_cluster` first drops the kernel's cached pages of it."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if from_cluster:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return digest.hexdigest()


def over_all(
    title: str, files: list[Path], step: Callable[[Path], int], console: Console
) -> Outcome:
    """Runs `step` (returning bytes) on every file, several at a time, under a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(WORKERS) as pool:
        sizes = list(progress.track(
            pool.map(step, files), total=len(files), description=title))
    return Outcome(len(files), sum(sizes), time.monotonic() - began)


def copy_tree(source: Path, target: Path, files: list[Path], console: Console) -> Outcome:
    """Copies files and their folders."""
    for folder in sorted({path.parent for path in files}):
        (target / folder).mkdir(parents=True, exist_ok=True)

    def copy(path: Path) -> int:
        shutil.copyfile(source / path, target / path)
        return (source / path).stat().st_size

    outcome = over_all("copying", files, copy, console)
    (target / DONE_MARK).write_text("every file was copied\n")
    return outcome


def verify_tree(source: Path, target: Path, files: list[Path], console: Console) -> Outcome:
    """Compares every file by checksum. Raises SystemExit naming the first that differs."""
    def verify(path: Path) -> int:
        expected = checksum(source / path, from_cluster=False)
        if checksum(target / path, from_cluster=True) != expected:
            raise SystemExit(f"demo: {target / path} differs from {source / path}")
        return (target / path).stat().st_size

    return over_all("verifying", files, verify, console)


def summary(rows: Iterable[tuple[str, Outcome]], mount: Path, console: Console) -> None:
    """Prints what was done and where to look next."""
    table = Table(title="Through the mount, replication 2")
    for heading in ("", "files", "MB", "files/s", "MB/s"):
        table.add_column(heading, justify="right")
    for title, outcome in rows:
        files_rate, size_rate = outcome.rates()
        table.add_row(title, f"{outcome.files:,}", f"{outcome.size / 1e6:,.1f}", files_rate,
                      size_rate)
    console.print(table)
    console.print(
        f"The cluster is running, its files are in [bold]{mount}[/]. Next:\n"
        "  .venv/bin/luciole status     nodes, chains, space, mounts\n"
        "  .venv/bin/luciole fsck       check everything, online\n"
        "  make stop                    stop it; make run starts it again with its data")


def run(cluster: Path, mount: Path) -> int:
    """Brings the cluster up, fills it the first time, verifies it. Returns the exit status."""
    console = Console()
    mount.mkdir(exist_ok=True)
    status = luciole(["up", str(cluster), "--nodes", "3", "--replicas", "2",
                      "--mount", str(mount)])
    if status:
        return status
    source, target = Path(sysconfig.get_path("stdlib")), mount / "stdlib"
    files = list(library_files(source))
    rows = []
    if not (target / DONE_MARK).exists():
        rows.append(("copy", copy_tree(source, target, files, console)))
    else:
        console.print("The data of the last run is still there.")
    rows.append(("verify", verify_tree(source, target, files, console)))
    summary(rows, mount, console)
    return 0


def main(arguments: list[str]) -> int:
    """Entry point. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m luciole.deploy.demo", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m luciole.deploy.demo run")
    parser.add_argument("action", choices=["run", "stop"])
    parser.add_argument("--cluster", type=Path, default=Path("cluster"), metavar="DIR",
                        help="where the cluster lives (default: ./cluster)")
    parser.add_argument("--mount", type=Path, default=Path("mnt"), metavar="DIR",
                        help="where it is mounted (default: ./mnt)")
    options = parser.parse_args(arguments)
    try:
        if options.action == "run":
            return run(options.cluster, options.mount)
        return luciole(["down", str(options.cluster)]) if options.cluster.exists() else 0
    except (FsError, OSError) as failure:
        sys.stderr.write(f"demo: {failure}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
