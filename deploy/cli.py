"""The command `luciole`.

Layer: shell. Each group of commands adds itself to the parser and names the function that runs
it. Exit status: 0 done, 1 an error (one line says which and what to do), 2 wrong usage, 3 the
cluster is degraded (`status`), 4 problems were found (`fsck`), 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from luciole.deploy import (
    bench,
    commands,
    configuration,
    doctor,
    fsck,
    kv,
    node,
    serve,
    status,
    trash,
    trees,
)
from luciole.deploy.output import error
from luciole.errors import FsError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="luciole", description="A distributed parallel filesystem for AI clusters.",
        epilog="example: luciole up && luciole status")
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_commands(groups)
    status.add_command(groups)
    doctor.add_command(groups)
    fsck.add_command(groups)
    trees.add_commands(groups)
    trash.add_command(groups)
    configuration.add_commands(groups)
    node.add_commands(groups)
    kv.add_commands(groups)
    bench.add_command(groups)
    serve.add_commands(groups)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except FsError as failure:
        error(str(failure))
        return EXIT_ERROR
    except KeyboardInterrupt:
        error("interrupted; what was started keeps running (`luciole status`, `luciole down`)")
        return EXIT_INTERRUPTED
    return code
