"""`luciole node enable|disable|drain`: takes a node out of service, and back in."""

from __future__ import annotations

import argparse
import time

from luciole.client.session import Client
from luciole.deploy.commands import seconds
from luciole.deploy.connect import add_cluster_options, client_config, open_client
from luciole.deploy.health import node_name, resync_progress
from luciole.deploy.output import Reporter, answers, progress
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.runtime import drive

ASK_SECONDS = 5.0
POLL_SECONDS = 0.5
ACTIONS = {"enable": mgmtd_pb2.ENABLE, "disable": mgmtd_pb2.DISABLE, "drain": mgmtd_pb2.DRAIN}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `node`."""
    parser = commands.add_parser(
        "node", help="take a node out of service, or back in",
        description="What is decided here stays through restarts of the node and the managers.",
        epilog="example: luciole node drain 103 --dir ./cluster")
    actions = parser.add_subparsers(metavar="COMMAND", required=True)
    enable = actions.add_parser(
        "enable", help="take it back in", description="Undoes disable and drain; the node's "
        "targets are brought up to date, then serve.", epilog="example: luciole node enable 103")
    disable = actions.add_parser(
        "disable", help="take it out now", description="The node's targets count as offline from "
        "now on. Refused when a chain would be left without a serving target.",
        epilog="example: luciole node disable 103")
    drain = actions.add_parser(
        "drain", help="take it out when the others can do without it",
        description="Waits until every other target of the node's chains serves, then disables "
        "it.", epilog="example: luciole node drain 103 --timeout 600")
    drain.add_argument("--timeout", type=seconds, default=300.0, metavar="SECONDS",
                       help="bound of the wait (default: 300)")
    for name, action in (("enable", enable), ("disable", disable), ("drain", drain)):
        action.add_argument("node", type=int, metavar="NODE",
                            help="its number in `luciole status`")
        add_cluster_options(action)
        action.set_defaults(run=run, action=name)
    disable.add_argument("--force", action="store_true",
                         help="even if files become inaccessible until the node is enabled")


def run(args: argparse.Namespace) -> int:
    """Asks the manager, and waits while a drain has to."""
    client = open_client(client_config(args))
    request = mgmtd_pb2.AdministerNodeRequest(
        node_id=args.node, action=ACTIONS[args.action], force=getattr(args, "force", False))
    with progress(quiet=False) as report:
        _ask_until(client, request, time.monotonic() + getattr(args, "timeout", 0.0), report)
    done = "is in service again" if args.action == "enable" else "is out of service"
    node = next(entry.node for entry in _status(client).nodes if entry.node.node_id == args.node)
    answers().print(f"{node_name(node)} {done}")
    return 0


def _ask_until(
    client: Client, request: mgmtd_pb2.AdministerNodeRequest, deadline: float, report: Reporter
) -> None:
    """Raises FsError: a refusal, or BUSY when the wait was too long."""
    while True:
        try:
            drive(client.manager.call(
                lambda stub: stub.administer_node(request, timeout=ASK_SECONDS)))
        except FsError as failure:
            if failure.kind != Kind.BUSY or time.monotonic() > deadline:
                raise
            status = _status(client)
            parts = [resync_progress(status, chain) for chain in status.routing.chains]
            report(f"{failure.subject} {failure.message}", sum(done for done, _ in parts),
                   sum(total for _, total in parts))
            time.sleep(POLL_SECONDS)
        else:
            return


def _status(client: Client) -> mgmtd_pb2.StatusReply:
    return drive(client.manager.call(
        lambda stub: stub.status(common_pb2.Empty(), timeout=ASK_SECONDS)))
