"""`luciole bench`: runs the comparison of the checkout that this command belongs to.

Layer: shell. Benchmarks are no part of the installed package: they start foreign filesystems and
compile C, which nobody wants on a node that serves.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import luciole
from luciole.deploy.commands import Commands
from luciole.errors import FsError, Kind

# src/luciole/__init__.py of a checkout.
CHECKOUT = Path(luciole.__file__).resolve().parents[2]


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds `bench`; its options are the comparison's own (`luciole bench -h`)."""
    parser = commands.add_parser(
        "bench", help="measure beside other filesystems on this machine",
        description="Measures a local cluster beside the disk and the other distributed "
        "filesystems that are installed, in one run.",
        epilog="example: luciole bench --rounds 5 --out results",
        # So no word looks like an option of this parser, and all of them go on.
        prefix_chars="\0", add_help=False)
    parser.add_argument("options", nargs="*", metavar="OPTION")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; returns its exit status. Raises FsError NOT_FOUND without a checkout."""
    program = CHECKOUT / "benchmarks" / "compare.py"
    if not program.exists():
        raise FsError(Kind.NOT_FOUND, "benchmarks are not installed with the package: get the "
                      "repository, and there `make bench`", str(program))
    paths = [str(CHECKOUT), str(CHECKOUT / "src"), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.compare", *args.options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child heard it too, and stops what it started
