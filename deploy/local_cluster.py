"""A whole cluster on one machine: real processes, made, started, watched and stopped.

Layer: shell. `up` starts what does not run and returns when everything is healthy; a service that
ends meanwhile ends the wait with its own words. `down` stops the manager first, so that nobody is
declared dead, then those who use the others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import msgspec

from luciole.client.remote.connections import Connections
from luciole.config import MetaConfig, ServiceConfig, parse_address
from luciole.deploy import mounts, ports, processes
from luciole.deploy.cluster_directory import (
    ClusterDirectory,
    ClusterFile,
    Service,
    manager_addresses,
    ports_of,
    services_of,
)
from luciole.deploy.connect import open_client
from luciole.deploy.health import (
    chain_problems,
    node_problems,
    resync_progress,
    without_disabled,
)
from luciole.deploy.output import Reporter
from luciole.deploy.processes import Child, ProcessRecord
from luciole.errors import FsError, Kind, Retry
from luciole.proto import common_pb2, meta_pb2, mgmtd_pb2
from luciole.proto.services import Caller, MetaStub
from luciole.runtime import drive

POLL_SECONDS = 0.1
ASK_SECONDS = 2.0
ROOT_INODE = 1
PROBLEMS_SHOWN = 4
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Shape:
    """What `luciole up` was asked for; None: whatever the cluster has, or the default."""

    nodes: int | None = None
    replicas: int | None = None
    targets_per_node: int | None = None
    durability: str | None = None
    port_base: int | None = None
    managers: int | None = None
    metas: int | None = None
    kv_capacity_bytes: int | None = None


DEFAULTS = {"nodes": 3, "replicas": 2, "targets_per_node": 4, "durability": "process",
            "kv_capacity_bytes": 1 << 30}


def prepare(directory: ClusterDirectory, shape: Shape) -> ClusterFile:
    """Makes the cluster's files, or checks those that are there against what is asked for.

    Call with the directory locked. Raises FsError before anything is started.
    """
    wanted = {key: value for key, value in vars(shape).items() if value is not None}
    if not directory.exists:
        file = _new_file(DEFAULTS | wanted)
        directory.create(file)
        return file
    file = directory.read()
    for key, value in wanted.items():
        has = getattr(file, key)
        if key != "port_base" and value != has:
            raise FsError(Kind.CONFIG_INVALID, f"the cluster was made with {key} = {has}, which "
                          f"cannot become {value}: leave the option out, or make a new cluster in "
                          "another directory", str(directory.path))
    if shape.port_base is not None and shape.port_base != file.port_base:
        file = _move_ports(directory, file, shape.port_base)
    if file.durability == "power":
        _keep_power(directory, file)
    return file


def _keep_power(directory: ClusterDirectory, file: ClusterFile) -> None:
    """A cluster that is older than the metadata service's setting keeps what it promised."""
    for service in services_of(file):
        config = directory.service_config(service)
        if isinstance(config, MetaConfig) and config.durability != file.durability:
            directory.write_config(
                service.name, msgspec.structs.replace(config, durability=file.durability))


def _new_file(wanted: dict[str, object]) -> ClusterFile:
    try:
        file = msgspec.convert(
            {"cluster_id": f"local-{secrets.token_hex(3)}", "port_base": 0} | wanted, ClusterFile)
    except msgspec.ValidationError as failure:
        raise FsError(Kind.CONFIG_INVALID, str(failure)) from failure
    check_shape(file.nodes, file.replicas, file.targets_per_node)
    size = 2 * len(services_of(file))
    base = file.port_base or ports.find_block(size)
    if base + size > 65536:
        raise FsError(Kind.CONFIG_INVALID, f"--port-base {base}: {size} ports are needed, and "
                      "65535 is the last: choose a smaller one")
    return msgspec.structs.replace(file, port_base=base)


def check_shape(nodes: int, replicas: int, targets_per_node: int) -> None:
    """Raises FsError CONFIG_INVALID unless all targets can be grouped into chains."""
    if replicas > nodes:
        raise FsError(Kind.CONFIG_INVALID, f"{replicas} replicas need {replicas} storage nodes, "
                      f"and --nodes is {nodes}: more nodes, or fewer replicas")
    total = nodes * targets_per_node
    if total % replicas:
        raise FsError(Kind.CONFIG_INVALID, f"{nodes} nodes with {targets_per_node} targets are "
                      f"{total} targets, which do not make whole chains of {replicas}: choose "
                      "--targets-per-node so that --replicas divides nodes x targets")


def _move_ports(directory: ClusterDirectory, file: ClusterFile, base: int) -> ClusterFile:
    if any(running(directory, file).values()):
        raise FsError(Kind.CONFIG_INVALID, "the cluster runs, so its ports cannot change: "
                      "`luciole down` first", str(directory.path))
    moved = msgspec.structs.replace(file, port_base=base)
    manager = manager_addresses(moved)
    for service in services_of(file):
        config = directory.service_config(service)
        rpc, grpc = ports_of(service, base)
        own = {"rpc_port": rpc, "grpc_port": grpc}
        if service.kind != "mgmtd":
            directory.write_config(
                service.name, msgspec.structs.replace(config, mgmtd=manager, **own))
        else:
            directory.write_config(service.name, msgspec.structs.replace(config, **own))
    directory.write_config(
        "client", msgspec.structs.replace(directory.client_config(), mgmtd=manager))
    directory.write(moved)
    return moved


def running(directory: ClusterDirectory, file: ClusterFile) -> dict[str, ProcessRecord | None]:
    """The process of each service by name, None where it does not run."""
    return {service.name: processes.running(directory.pid_file(service.name))
            for service in services_of(file)}


def start(directory: ClusterDirectory, file: ClusterFile) -> dict[str, Child]:
    """Starts every service that does not run; returns those by name.

    Raises FsError, before anything is started, for configuration and ports that cannot be used.
    """
    for created in (directory.log, directory.run):
        created.mkdir(exist_ok=True)
    alive = running(directory, file)
    missing = [service for service in services_of(file) if alive[service.name] is None]
    configs = {service.name: directory.service_config(service)
               for service in services_of(file)}
    directory.client_config()
    for service in missing:
        _check_ports(service, configs[service.name], directory)
    started = {}
    for service in missing:
        child = processes.spawn(
            service.name,
            processes.luciole_command(
                service.kind, "serve", "--config", str(directory.config_file(service.name))),
            directory=directory.path, log=directory.log_file(service.name))
        record = processes.record_of(child.process.pid)
        assert record is not None, "our own child stays in the table until it is waited for"
        processes.write_record(directory.pid_file(service.name), record)
        started[service.name] = child
    return started


def _check_ports(service: Service, config: ServiceConfig, directory: ClusterDirectory) -> None:
    for port in (config.rpc_port, config.grpc_port):
        if port:
            ports.check_free(port, config.host, f"{service.name} of {directory.path}")


class Watch:
    """Waits for a started cluster to become healthy."""

    def __init__(
        self, directory: ClusterDirectory, file: ClusterFile, started: dict[str, Child]
    ) -> None:
        self._directory = directory
        self._file = file
        self._started = started
        self._since = time.monotonic()
        self._client = open_client(directory.client_config())

    def wait(self, seconds: float, report: Reporter) -> mgmtd_pb2.StatusReply:
        """The healthy status. Raises FsError: a service that ended, or what is still wrong."""
        deadline = time.monotonic() + seconds
        while True:
            self._check_children()
            status, problems = self._look(report)
            if status is not None and not problems:
                return status
            if time.monotonic() > deadline:
                raise self._too_late(problems, seconds)
            time.sleep(POLL_SECONDS)

    def _check_children(self) -> None:
        for child in self._started.values():
            code = child.ended()
            if code is not None:
                raise FsError(Kind.UNAVAILABLE, f"{child.name} ended with status {code}; the end "
                              f"of its log {child.log}:\n{child.last_words()}\n", child.name)

    def _look(self, report: Reporter) -> tuple[mgmtd_pb2.StatusReply | None, list[str]]:
        try:
            status = drive(self._client.manager.call(
                lambda stub: stub.status(common_pb2.Empty(), timeout=ASK_SECONDS)))
        except FsError as failure:
            report("waiting for the manager")
            return None, [f"the manager does not answer: {failure}"]
        wanted = without_disabled(status)
        problems = self._missing_nodes(status) + node_problems(wanted)
        if problems:
            report("waiting for the nodes", len(status.nodes),
                   self._file.nodes + self._file.metas)
            return status, problems
        if not status.routing.chains:
            self._create_chains()
            return status, ["the chains are being made"]
        problems = chain_problems(wanted)
        if problems:
            self._report_chains(status, report)
        else:
            problems = self._meta_problems(status) + manager_problems(
                manager_states(
                    self._client.connections, self._directory.client_config().mgmtd))
        return status, problems

    def _missing_nodes(self, status: mgmtd_pb2.StatusReply) -> list[str]:
        """Nodes that the manager has not heard since they were started."""
        entries = {entry.node.node_id: entry for entry in status.nodes}
        found = []
        for service in services_of(self._file):
            if service.kind == "mgmtd":
                continue
            entry = entries.get(service.node_id)
            # An age that reaches back before the start is of the process that ran before.
            age_max = (time.monotonic() - self._since) * 1000
            if entry is None:
                found.append(f"{service.name} has not registered with the manager")
            elif service.name in self._started and (
                    not entry.heard or entry.last_heartbeat_age_ms > age_max):
                found.append(f"{service.name} has not registered since it was started")
            elif service.kind == "storage" and len(entry.targets) < self._file.targets_per_node:
                found.append(f"{service.name} has reported {len(entry.targets)} of "
                             f"{self._file.targets_per_node} targets")
        return found

    def _create_chains(self) -> None:
        request = mgmtd_pb2.CreateChainsRequest(replicas=self._file.replicas)
        try:
            drive(self._client.manager.call(
                lambda stub: stub.create_chains(request, timeout=ASK_SECONDS)))
        except FsError as failure:
            # The answer to an earlier try may have been lost; the next look tells.
            if failure.kind != Kind.EXISTS and failure.facts.retry is Retry.NEVER:
                raise

    def _report_chains(self, status: mgmtd_pb2.StatusReply, report: Reporter) -> None:
        done = total = 0
        for chain in status.routing.chains:
            progress = resync_progress(status, chain)
            done, total = done + progress[0], total + progress[1]
        if total:
            report("bringing replicas up to date (chunks)", done, total)
        else:
            serving = sum(all(member.state == mgmtd_pb2.SERVING for member in chain.targets)
                          for chain in status.routing.chains)
            report("waiting for the chains", serving, len(status.routing.chains))

    def _meta_problems(self, status: mgmtd_pb2.StatusReply) -> list[str]:
        return meta_problems(self._client.connections.caller, status)

    def _too_late(self, problems: list[str], seconds: float) -> FsError:
        shown = problems[:PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        return FsError(
            Kind.DEADLINE_EXCEEDED, f"not healthy after {seconds:.0f} s: {'; '.join(shown)}. "
            f"What was started keeps running: `luciole up` again waits longer, `luciole status` "
            f"shows the state, the logs are in {self._directory.log}", str(self._directory.path))


def meta_problems(
    caller: Callable[[tuple[str, int]], Caller], status: mgmtd_pb2.StatusReply
) -> list[str]:
    """Metadata services that do not answer a question."""
    found = []
    for entry in status.nodes:
        node = entry.node
        if node.kind == mgmtd_pb2.META and node.state == mgmtd_pb2.CONNECTED:
            try:
                drive(MetaStub(caller((node.host, node.rpc_port))).stat(
                    meta_pb2.StatRequest(inode_id=ROOT_INODE), timeout=ASK_SECONDS))
            except FsError as failure:
                found.append(f"meta node {node.node_id} does not answer: {failure}")
    return found


def manager_states(connections: Connections, addresses: list[str]) -> dict[str, str]:
    """By address: "primary", "standby", or why a manager does not answer."""
    found = {}
    for address in addresses:
        try:
            drive(connections.mgmtd(parse_address(address)).status(
                common_pb2.Empty(), timeout=ASK_SECONDS))
            found[address] = "primary"
        except FsError as failure:
            found[address] = "standby" if failure.kind == Kind.NOT_PRIMARY else str(failure)
    return found


def manager_problems(states: dict[str, str]) -> list[str]:
    """Managers that do not answer."""
    return [f"the manager at {address} does not answer: {state}"
            for address, state in states.items() if state not in {"primary", "standby"}]


def up(
    directory: ClusterDirectory, shape: Shape, seconds: float, report: Reporter
) -> tuple[ClusterFile, mgmtd_pb2.StatusReply]:
    """Makes or starts a cluster and waits until it is healthy. Raises FsError.

    A service that ends while it starts takes those that were started with it down again, so that
    a failed `up` leaves what it found.
    """
    report("starting")
    chooses = not directory.exists and shape.port_base is None
    with ports.choosing(seconds) if chooses else nullcontext():
        file = prepare(directory, shape)
        started = start(directory, file)
        watch = Watch(directory, file, started)
        try:
            return file, watch.wait(seconds, report)
        except FsError as failure:
            if failure.kind == Kind.UNAVAILABLE:
                _stop(directory, list(started), STOP_SECONDS)
            raise


def _stop(directory: ClusterDirectory, names: list[str], seconds: float) -> list[str]:
    """Ends services side by side; returns the names of those that had to be killed."""
    records = {}
    for name in names:
        record = processes.running(directory.pid_file(name))
        if record is not None:
            records[name] = record
    killed = processes.stop(list(records.values()), seconds)
    for name in names:
        directory.pid_file(name).unlink(missing_ok=True)
    return [name for name, record in records.items() if record in killed]


@dataclass
class Stopped:
    """What `down` did."""

    stopped: list[str]
    killed: list[str]
    mounts: list[str]
    notes: list[str]


def down(directory: ClusterDirectory, seconds: float, report: Reporter) -> Stopped:
    """Ends every mount and process of a cluster within about `seconds` and some for killing."""
    file = directory.read()
    deadline = time.monotonic() + seconds
    done = Stopped([], [], [], [])
    for pid_file in directory.mount_pid_files():
        record = processes.read_record(pid_file)
        done.mounts += [record.mount_point] if record else []
    report("unmounting")
    killed = mounts.take_down(directory, seconds / 2, done.notes.append)
    done.killed += [f"the mount {record.mount_point}" for record in killed]
    done.stopped = [name for name, record in running(directory, file).items() if record]
    services = services_of(file)
    for kind in ("mgmtd", "meta", "storage"):
        report(f"stopping {kind}")
        names = [service.name for service in services if service.kind == kind]
        done.killed += _stop(directory, names, max(1.0, deadline - time.monotonic()))
    return done
