"""`luciole fsck`: checks a cluster while it runs."""

from __future__ import annotations

import argparse
from collections import Counter

from luciole.client.fsck import Report, check
from luciole.deploy.connect import add_cluster_options, client_config, open_client
from luciole.deploy.output import answers, print_json, progress
from luciole.runtime import ThreadRuntime, drive

EXIT_PROBLEMS = 4


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `fsck`."""
    parser = commands.add_parser(
        "fsck", help="check namespace and replicas", description="Reads all metadata and the "
        "chunk lists of all serving replicas and tells what cannot be right. Changes nothing; "
        "the cluster may be in use. Exit status 0: clean, 4: problems were found.",
        epilog="example: luciole fsck --dir ./cluster --json")
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks, and prints what was found."""
    runtime = ThreadRuntime()
    client = open_client(client_config(args), runtime)
    drive(client.connect())
    try:
        with progress(quiet=args.json) as report:
            found = drive(check(client, runtime, report))
    finally:
        drive(client.end_session())
    if args.json:
        print_json({"clean": not found.problems, "inodes": found.inodes,
                    "dentries": found.dentries, "chunks": found.chunks,
                    "cached_blocks": found.cached, "problems": [
                        {"kind": problem.kind, "subject": problem.subject,
                         "message": problem.message} for problem in found.problems]})
    else:
        _render(found)
    return EXIT_PROBLEMS if found.problems else 0


def _render(found: Report) -> None:
    console = answers()
    for problem in found.problems:
        console.print(
            f"{problem.kind}: {problem.subject}: {problem.message}", style="yellow",
            soft_wrap=True)
    read = f"{found.inodes} inodes, {found.dentries} entries and {found.chunks} replicas of chunks"
    if found.cached:
        read += f", {found.cached} cached blocks"
    if not found.problems:
        console.print(f"clean: {read}", style="green", soft_wrap=True)
        return
    kinds = Counter(problem.kind for problem in found.problems)
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    console.print(f"{len(found.problems)} problems ({summary}) in {read}", style="bold red",
                  soft_wrap=True)
