"""`luciole status`: a cluster at a glance, and the same as one JSON object.

Layer: shell. Works when parts are down: without the manager it tells what the pid files tell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luciole.client.session import Client
from luciole.config import ClientConfig, load
from luciole.deploy import local_cluster, mounts, processes
from luciole.deploy.cluster_directory import ClusterDirectory, services_of
from luciole.deploy.connect import DEFAULT_DIRECTORY, open_client
from luciole.deploy.health import (
    chain_problems,
    damage_problems,
    link_problems,
    node_problems,
    resync_progress,
    resync_seconds_left,
    state_name,
)
from luciole.deploy.output import answers, print_json
from luciole.errors import FsError
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.runtime import drive

EXIT_DEGRADED = 3
ASK_SECONDS = 3.0
_COLOURS = {"serving": "green", "syncing": "yellow", "waiting": "yellow",
            "last serving": "red", "offline": "red"}


class NodeView(msgspec.Struct):
    """A member of the cluster."""

    node_id: int
    kind: str
    name: str  # of the local process, or empty
    address: str
    state: str
    heartbeat_age_seconds: float  # -1 when the primary has not heard it yet
    pid: int  # of the local process, 0 when it does not run or is elsewhere
    targets: int


class ManagerView(msgspec.Struct):
    """A cluster manager."""

    address: str
    name: str  # of the local process, or empty
    state: str  # "primary", "standby", "down"


class TargetView(msgspec.Struct):
    """A member of a chain."""

    target_id: int
    node_id: int
    state: str


class ChainView(msgspec.Struct):
    """A chain."""

    chain_id: int
    version: int
    targets: list[TargetView]
    resync_done: int
    resync_total: int
    resync_seconds_left: int = 0


class ScrubView(msgspec.Struct, frozen=True):
    """Bit rot: what was verified and found, of all targets, each since its process started."""

    chunks: int = 0
    bytes: int = 0
    damaged: int = 0
    repaired: int = 0
    unrepairable: int = 0  # now


class ClientView(msgspec.Struct):
    """A client whose lease runs."""

    kind: str
    host: str
    pid: int
    mount_point: str


class ProcessView(msgspec.Struct):
    """A process of a local cluster."""

    name: str
    pid: int  # 0 when it does not run
    log: str


class MountView(msgspec.Struct):
    """A mount made from a local cluster's directory."""

    mount_point: str
    pid: int
    state: str  # "mounted", "stale", "not mounted"


class StatusView(msgspec.Struct):
    """Everything that `luciole status --json` says. Keys are only ever added."""

    cluster_id: str
    directory: str
    healthy: bool
    problems: list[str]
    manager: list[str]
    manager_answers: bool
    bootstrapping: bool
    capacity_bytes: int = 0
    free_bytes: int = 0
    used_bytes: int = 0
    nodes: list[NodeView] = []
    chains: list[ChainView] = []
    clients: list[ClientView] = []
    processes: list[ProcessView] = []
    mounts: list[MountView] = []
    scrub: ScrubView = ScrubView()
    managers: list[ManagerView] = []


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `status`."""
    parser = commands.add_parser(
        "status", help="show nodes, chains, space and clients",
        description="Shows the state of a cluster. Exit status 0: healthy, 3: degraded or down.",
        epilog="example: luciole status ./cluster --json")
    parser.add_argument("directory", nargs="?", default=DEFAULT_DIRECTORY, metavar="DIR",
                        help="directory of a local cluster (default: ./cluster)")
    parser.add_argument("--config", metavar="FILE", help="client.toml of any other cluster")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the state."""
    if args.config:
        view = look(load(Path(args.config), ClientConfig), None)
    else:
        directory = ClusterDirectory(Path(args.directory))
        view = look(directory.client_config(), directory)
    if args.json:
        print_json(view)
    else:
        render(view, answers())
    return 0 if view.healthy else EXIT_DEGRADED


def look(config: ClientConfig, directory: ClusterDirectory | None) -> StatusView:
    """The state of a cluster now, local or not."""
    client = open_client(config)
    view = StatusView(
        cluster_id=config.cluster_id, directory=str(directory.path) if directory else "",
        healthy=False, problems=[], manager=config.mgmtd, manager_answers=False,
        bootstrapping=False)
    if directory is not None:
        _add_local(view, directory)
    names = _service_names(directory) if directory is not None else {}
    states = local_cluster.manager_states(client.connections, config.mgmtd)
    view.managers = [
        ManagerView(address, names.get(address, ""),
                    state if state in {"primary", "standby"} else "down")
        for address, state in states.items()]
    try:
        status = drive(client.manager.call(
            lambda stub: stub.status(common_pb2.Empty(), timeout=ASK_SECONDS)))
    except FsError as failure:
        view.problems.append(f"the manager does not answer: {failure}")
    else:
        view.problems += local_cluster.manager_problems(states)
        _add_cluster(view, status, client, names)
    view.healthy = not view.problems
    return view


def _add_local(view: StatusView, directory: ClusterDirectory) -> None:
    file = directory.read()
    for name, record in local_cluster.running(directory, file).items():
        view.processes.append(ProcessView(
            name, record.pid if record else 0, str(directory.log_file(name))))
        if record is None:
            view.problems.append(f"{name} does not run (log: {directory.log_file(name)})")
    for pid_file in directory.mount_pid_files():
        mount_record = processes.read_record(pid_file)
        if mount_record is None:
            continue
        place = Path(mount_record.mount_point)
        state = "not mounted"
        if mounts.is_mounted(place):
            state = "mounted" if processes.is_alive(mount_record) else "stale"
        view.mounts.append(MountView(str(place), mount_record.pid, state))
        if state != "mounted":
            view.problems.append(f"the mount {place} is {state}: `luciole mount {place}`")


def _service_names(directory: ClusterDirectory) -> dict[str, str]:
    """Names of a local cluster's processes by the address of each."""
    file = directory.read()
    configs = {service.name: directory.service_config(service) for service in services_of(file)}
    return {f"{config.host}:{config.rpc_port}": name for name, config in configs.items()}


def _add_cluster(
    view: StatusView, status: mgmtd_pb2.StatusReply, client: Client, names: dict[str, str]
) -> None:
    view.manager_answers, view.bootstrapping = True, status.bootstrapping
    view.capacity_bytes, view.free_bytes = status.capacity_bytes, status.free_bytes
    view.used_bytes = status.used_bytes
    pids = {process.name: process.pid for process in view.processes}
    for entry in sorted(status.nodes, key=lambda entry: entry.node.node_id):
        node = entry.node
        address = f"{node.host}:{node.rpc_port}"
        name = names.get(address, "")
        view.nodes.append(NodeView(
            node.node_id, mgmtd_pb2.NodeKind.Name(node.kind).lower(), name,
            address, mgmtd_pb2.NodeState.Name(node.state).lower(),
            entry.last_heartbeat_age_ms / 1000 if entry.heard else -1, pids.get(name, 0),
            len(entry.targets)))
    node_of = {target.target_id: target.node_id for target in status.routing.targets}
    for chain in sorted(status.routing.chains, key=lambda chain: chain.chain_id):
        done, total = resync_progress(status, chain)
        view.chains.append(ChainView(chain.chain_id, chain.version, [
            TargetView(member.target_id, node_of.get(member.target_id, 0),
                       state_name(member.state)) for member in chain.targets], done, total,
            resync_seconds_left(status, chain)))
    view.clients = [ClientView(session.kind, session.host, session.pid, session.mount_point)
                    for session in status.clients]
    reports = [report for entry in status.nodes for report in entry.targets]
    view.scrub = ScrubView(
        sum(report.scrubbed_chunks for report in reports),
        sum(report.scrubbed_bytes for report in reports),
        sum(report.damaged for report in reports), sum(report.repaired for report in reports),
        sum(report.unrepairable for report in reports))
    view.problems += node_problems(status) + chain_problems(status) + damage_problems(status)
    view.problems += link_problems(status)
    view.problems += local_cluster.meta_problems(client.connections.caller, status)


def size_text(size: int) -> str:
    """"12.3 GiB"."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def render(view: StatusView, console: Console) -> None:
    """Shows the state to a person."""
    word = Text("healthy", "bold green") if view.healthy else Text("degraded", "bold yellow")
    if not view.manager_answers:
        word = Text("down", "bold red")
    console.print(Text.assemble(f"cluster {view.cluster_id}  ", word))
    if view.manager_answers:
        console.print(f"space   {size_text(view.free_bytes)} free of "
                      f"{size_text(view.capacity_bytes)}, {size_text(view.used_bytes)} used by "
                      "files (each byte counted once)")
        scrub = view.scrub
        console.print(f"scrub   {size_text(scrub.bytes)} verified, {scrub.damaged} chunks damaged, "
                      f"{scrub.repaired} repaired, {scrub.unrepairable} beyond repair")
        for manager in view.managers:
            console.print(f"manager {manager.name or manager.address}: {manager.state}")
        console.print()
        console.print(_nodes_table(view))
        console.print()
        console.print(_chains_table(view))
    else:
        table = _table("process", "pid", "log")
        for process in view.processes:
            table.add_row(process.name, str(process.pid or "-"), process.log)
        console.print(table)
    for client in view.clients:
        console.print(f"client  {client.kind} on {client.host} pid {client.pid} "
                      f"{client.mount_point}")
    for problem in view.problems:
        console.print(Text(f"problem {problem}", "yellow"), soft_wrap=True)
    if not view.manager_answers and view.directory:
        console.print(f"\nstart it with: luciole up {view.directory}", soft_wrap=True)


def _nodes_table(view: StatusView) -> Table:
    table = _table("node", "kind", "name", "address", "state", "heard", "pid", "targets")
    for node in view.nodes:
        colour = "green" if node.state == "connected" else "red"
        table.add_row(
            str(node.node_id), node.kind, node.name, node.address, Text(node.state, colour),
            f"{node.heartbeat_age_seconds:.1f} s ago" if node.heartbeat_age_seconds >= 0
            else "not yet", str(node.pid or "-"),
            str(node.targets or "-"))
    return table


def _chains_table(view: StatusView) -> Table:
    table = _table("chain", "version", "targets, head first", "resync")
    for chain in view.chains:
        members = Text("  ").join(
            Text.assemble(f"{target.target_id} ", (target.state, _COLOURS.get(target.state, "")))
            for target in chain.targets)
        progress = f"{chain.resync_done}/{chain.resync_total}" if chain.resync_total else ""
        if chain.resync_seconds_left:
            progress += f", {chain.resync_seconds_left} s left"
        table.add_row(str(chain.chain_id), str(chain.version), members, progress)
    return table
