"""`luciole config get|set`: what the manager stores for all services of a kind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from luciole.config import CONFIGS
from luciole.deploy.connect import add_cluster_options, client_config, open_client
from luciole.deploy.output import answers
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2
from luciole.runtime import drive

ASK_SECONDS = 10.0


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `config`."""
    parser = commands.add_parser(
        "config", help="read and change the cluster's configuration",
        description="What is set here is laid over each service's own file when it starts.",
        epilog="example: luciole config get meta")
    actions = parser.add_subparsers(metavar="COMMAND", required=True)
    get = actions.add_parser(
        "get", help="print it", description="Prints what is set for a service, as TOML.",
        epilog="example: luciole config get storage --dir ./cluster")
    change = actions.add_parser(
        "set", help="replace it", description="Replaces what is set for a service; services "
        "take it over when they start.",
        epilog="example: echo 'gc_grace_seconds = 60.0' | luciole config set meta -")
    for action in (get, change):
        action.add_argument("service", choices=sorted(CONFIGS), metavar="SERVICE",
                            help=", ".join(sorted(CONFIGS)))
    change.add_argument("file", nargs="?", default="-", metavar="FILE",
                        help="TOML with the keys to set (default: standard input)")
    for action in (get, change):
        add_cluster_options(action)
    get.set_defaults(run=run_get)
    change.set_defaults(run=run_set)


def run_get(args: argparse.Namespace) -> int:
    """Prints the stored configuration."""
    client = open_client(client_config(args))
    request = mgmtd_pb2.GetConfigRequest(service=args.service)
    reply = drive(client.manager.call(
        lambda stub: stub.get_config(request, timeout=ASK_SECONDS)))
    sys.stdout.write(reply.content)
    return 0


def run_set(args: argparse.Namespace) -> int:
    """Stores a configuration."""
    client = open_client(client_config(args))
    try:
        content = sys.stdin.read() if args.file == "-" else Path(args.file).read_text()
    except (OSError, UnicodeDecodeError) as failure:
        raise FsError(Kind.CONFIG_INVALID, f"cannot be read: {failure}", args.file) from failure
    request = mgmtd_pb2.SetConfigRequest(service=args.service, content=content)
    reply = drive(client.manager.call(
        lambda stub: stub.set_config(request, timeout=ASK_SECONDS)))
    answers().print(f"{args.service} configuration is now version {reply.version}; services take "
                    "it over when they start", soft_wrap=True)
    return 0
