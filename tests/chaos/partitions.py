"""Cuts between the processes of a cluster that lives in namespaces (namespaces.py).

Layer: tests. The embedded key-value store is a directory that all share whatever is cut: a manager
that is out of touch with every node still has its lease, and must give it up by itself.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from luciole.config import ClientConfig, MgmtdConfig
from luciole.deploy import local_cluster, processes
from luciole.deploy.cluster_directory import ClusterDirectory, ClusterFile, Service, services_of
from luciole.proto import mgmtd_pb2
from luciole.tests.chaos.namespaces import HERE, Network, Way, both

KINDS = ("cut-storage", "cut-manager", "one-way", "cut-link")
PORT_BASE = 7400
UP_SECONDS = 60.0
ASK_SECONDS = 20.0
POLL_SECONDS = 0.05
# Asks a manager, from where it is, to change something, and prints what it answers.
_ORDER = """
import sys
from luciole.errors import FsError
from luciole.proto import mgmtd_pb2
from luciole.proto.services import MgmtdStub
from luciole.rpc.tcp_client import BlockingCaller
from luciole.runtime import drive
host, port, cluster_id = sys.argv[1:]
stub = MgmtdStub(BlockingCaller((host, int(port)), cluster_id=cluster_id))
try:
    drive(stub.set_config(mgmtd_pb2.SetConfigRequest(service="client"), timeout=5.0))
    print("it obeyed")
except FsError as failure:
    print(failure)
"""


def spread(directory: ClusterDirectory, file: ClusterFile, network: Network) -> None:
    """Makes a cluster of which every process has an address of its own."""
    directory.create(file)
    configs = {service.name: directory.service_config(service) for service in services_of(file)}
    managers = [f"{network.address(name)}:{config.rpc_port}"
                for name, config in configs.items() if isinstance(config, MgmtdConfig)]
    for name, config in configs.items():
        placed = msgspec.structs.replace(config, host=network.address(name))
        if not isinstance(placed, MgmtdConfig):
            placed = msgspec.structs.replace(placed, mgmtd=managers)
        directory.write_config(name, placed)
    directory.write_config("client", ClientConfig(cluster_id=file.cluster_id, mgmtd=managers))


def start(directory: ClusterDirectory, network: Network) -> dict[str, processes.Child]:
    """Starts every service that does not run, each in its place."""
    file = directory.read()
    started = {}
    for service in services_of(file):
        if processes.running(directory.pid_file(service.name)):
            continue
        child = processes.spawn(
            service.name,
            network.inside(service.name) + processes.luciole_command(
                service.kind, "serve", "--config", str(directory.config_file(service.name))),
            directory=directory.path, log=directory.log_file(service.name))
        record = processes.record_of(child.process.pid)
        assert record is not None
        processes.write_record(directory.pid_file(service.name), record)
        started[service.name] = child
    return started


def up(directory: ClusterDirectory, file: ClusterFile, network: Network) -> None:
    """Makes and starts a cluster and waits until it is healthy. Raises FsError."""
    spread(directory, file, network)
    started = start(directory, network)

    def quiet(text: str, done: int = 0, total: int = 0) -> None:
        pass

    local_cluster.Watch(directory, file, started).wait(UP_SECONDS, quiet)


class Partitions:
    """Cuts ways of a running cluster and joins them again."""

    def __init__(
        self, directory: ClusterDirectory, network: Network, chance: random.Random,
        status: Callable[[], mgmtd_pb2.StatusReply | None],
    ) -> None:
        self._directory = directory
        self._file = directory.read()
        self._network = network
        self._chance = chance
        self._status = status

    def everybody(self, name: str) -> list[str]:
        """All places but one."""
        return [other for other in (*self._network.places, HERE) if other != name]

    def link(self, status: mgmtd_pb2.StatusReply) -> tuple[int, str, str] | None:
        """A chain, and the names of two services that follow each other in it, all serving."""
        names = {service.node_id: service.name for service in services_of(self._file)}
        node_of = {target.target_id: target.node_id for target in status.routing.targets}
        chains = [chain for chain in status.routing.chains if len(chain.targets) > 1 and all(
            member.state == mgmtd_pb2.SERVING for member in chain.targets)]
        if not chains:
            return None
        chain = self._chance.choice(chains)
        position = self._chance.randrange(len(chain.targets) - 1)
        first, second = (names[node_of[member.target_id]]
                         for member in chain.targets[position : position + 2])
        return chain.chain_id, first, second

    def inflict(self, kind: str, victim: Service, seconds: float) -> str:
        """Cuts a process off for a while; returns what was seen meanwhile."""
        out: list[Way] = [(victim.name, other) for other in self.everybody(victim.name)]
        back: list[Way] = [(other, victim.name) for other in self.everybody(victim.name)]
        self._network.cut(out if kind == "one-way" else out + back)
        began = time.monotonic()
        try:
            return self._another_leads(victim, began, seconds) if kind == "cut-manager" else ""
        finally:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            self._network.join()

    def inflict_link(self, chain_id: int, first: str, second: str, seconds: float) -> str:
        """Cuts two neighbours of a chain apart; returns how the chain bore it."""
        before = self._members(chain_id)
        self._network.cut(both(first, second))
        began = time.monotonic()
        try:
            parted = self._until(lambda: self._members(chain_id) != before, began, seconds)
            whole = self._until(lambda: self._parted(chain_id, before), began, seconds)
            return f"chain {chain_id}: parted {parted}, all serve in another order {whole}"
        finally:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            self._network.join()

    def _members(self, chain_id: int) -> list[tuple[int, mgmtd_pb2.PublicState]]:
        status = self._status()
        return [(member.target_id, member.state) for chain in (status.routing.chains if status
                else ()) if chain.chain_id == chain_id for member in chain.targets]

    def _parted(self, chain_id: int, before: list[tuple[int, mgmtd_pb2.PublicState]]) -> bool:
        now = self._members(chain_id)
        return bool(now) and now != before \
            and all(state == mgmtd_pb2.SERVING for _, state in now)

    @staticmethod
    def _until(condition: Callable[[], bool], began: float, seconds: float) -> str:
        while time.monotonic() < began + seconds:
            if condition():
                return f"after {time.monotonic() - began:.1f} s"
            time.sleep(POLL_SECONDS)
        return "not in time"

    def _another_leads(self, victim: Service, began: float, seconds: float) -> str:
        def leads() -> bool:
            status = self._status()
            return status is not None and status.primary.node_id != victim.node_id

        told = self._until(leads, began, seconds)
        config = self._directory.service_config(victim)
        done = subprocess.run(
            [*self._network.inside(victim.name), sys.executable, "-P", "-c", _ORDER, config.host,
             str(config.rpc_port), self._file.cluster_id],
            capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
        return f"another leads {told}; the deposed one: {(done.stdout or done.stderr).strip()}"
