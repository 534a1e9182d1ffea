"""One run: a cluster, two mounts, writers and readers on both, faults, and the verdict."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from luciole.config import MetaConfig, StorageConfig, Transport
from luciole.deploy import mounts, processes
from luciole.deploy.cluster_directory import ClusterDirectory, ClusterFile, services_of
from luciole.errors import FsError
from luciole.tests.chaos import partitions
from luciole.tests.chaos.content import CACHE_SECONDS
from luciole.tests.chaos.faults import Fault, Faults, redundant
from luciole.tests.chaos.namespaces import Network

COMMAND_SECONDS = 120.0
HANG_SECONDS = 70.0  # a client gives an operation up after sixty
SETTLE_SECONDS = 90.0
WRITERS = 2
SHOWN = 12
FELL_BACK = "going on over TCP"  # in the log of whoever had RDMA in mind


@dataclass(frozen=True)
class Plan:
    """What a run is to be."""

    seconds: float
    nodes: int = 5
    replicas: int = 3
    targets_per_node: int = 6
    managers: int = 2
    metas: int = 2
    kills: tuple[str, ...] = ("storage",)
    every_seconds: float = 6.0
    stop_seconds: float = 30.0
    cut_seconds: float = 10.0
    seed: int = 1
    transport: Transport = "auto"

    @property
    def partitioned(self) -> bool:
        """Whether the processes need networks of their own."""
        return bool(set(self.kills) & set(partitions.KINDS))


class Report(msgspec.Struct):
    """What came of it."""

    seed: int
    seconds: float
    faults: list[str]
    operations: int
    longest_pause_seconds: float
    slowest: list[str]
    errors: list[str]
    mismatches: list[str]
    zombie_answers: list[str]
    redundancy_seconds: float  # after the last fault; -1: not within the bound
    fsck: list[str]
    transports: dict[str, int]  # by which nodes are reached in the end, from here and each other
    fell_back: int  # connections that had to do with a lesser transport meanwhile

    @property
    def ok(self) -> bool:
        """No error, no wrong byte, no answer of the fenced, whole again."""
        return not (self.errors or self.mismatches or self.zombie_answers or self.fsck) \
            and self.redundancy_seconds >= 0 and self.operations > 0


def longest_call(fault: Fault, calls: list[tuple[float, float, str, str]]) -> float:
    """Seconds of the longest of `calls` (took, began, what, whose) that overlaps a fault."""
    until = fault.at + fault.seconds + CACHE_SECONDS
    return max((took for took, at, _, _ in calls if at < until and at + took > fault.at),
               default=0.0)


class Run:
    """The processes of one run, below one directory."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan = plan
        self._root = root
        self.directory = ClusterDirectory(root / "cluster")
        self._places = [root / "mount-0", root / "mount-1"]
        self._records = root / "records"
        self._network: Network | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        for path in (*self._places, self._records):
            path.mkdir()

    def _luciole(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            processes.luciole_command(*arguments), capture_output=True, text=True, check=False,
            timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL)

    def execute(self) -> Report:
        """Runs the plan. Raises RuntimeError when it cannot begin."""
        try:
            self._begin()
            return self._run()
        finally:
            self._end()

    def _begin(self) -> None:
        plan = self._plan
        made = self._up_in_namespaces() if plan.partitioned else self._luciole(
            "up", str(self.directory.path), "--nodes", str(plan.nodes), "--replicas",
            str(plan.replicas), "--targets-per-node", str(plan.targets_per_node), "--managers",
            str(plan.managers), "--metas", str(plan.metas))
        if made.returncode == 0 and plan.transport != "auto":
            made = self._take(plan.transport)
        for place in self._places:
            if made.returncode == 0:
                made = self._luciole("mount", str(place), "--dir", str(self.directory.path))
        if made.returncode:
            raise RuntimeError(f"the cluster does not start: {made.stdout}{made.stderr}")

    def _take(self, transport: Transport) -> subprocess.CompletedProcess[str]:
        """Has mounts and services reach services by one transport; they start anew for it."""
        self.directory.write_config("client", msgspec.structs.replace(
            self.directory.client_config(), transport=transport))
        self._luciole("down", str(self.directory.path))
        for service in services_of(self.directory.read()):
            config = self.directory.service_config(service)
            if isinstance(config, MetaConfig | StorageConfig):
                self.directory.write_config(
                    service.name, msgspec.structs.replace(config, transport=transport))
        return self._luciole("up", str(self.directory.path))

    def _up_in_namespaces(self) -> subprocess.CompletedProcess[str]:
        plan = self._plan
        file = ClusterFile(
            cluster_id="chaos", nodes=plan.nodes, replicas=plan.replicas,
            targets_per_node=plan.targets_per_node, durability="process",
            port_base=partitions.PORT_BASE, managers=plan.managers, metas=plan.metas)
        names = [service.name for service in services_of(file)]
        self._network = Network(self._root / "network", names)
        try:
            partitions.up(self.directory, file, self._network)
        except FsError as failure:
            return subprocess.CompletedProcess([], 1, "", str(failure))
        return subprocess.CompletedProcess([], 0, "", "")

    def _work(self, role: str, mount: int) -> subprocess.Popen[bytes]:
        plan = self._plan
        record = self._records / f"{role}-{mount}.json"
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "luciole.tests.chaos.worker", role,
             str(self._places[mount]), str(self._records), str(record), "--number", str(mount),
             "--writers", str(WRITERS), "--seed", str(plan.seed + mount)])

    def _run(self) -> Report:
        plan = self._plan
        chance = random.Random(plan.seed)
        faults = Faults(
            self.directory, chance, plan.stop_seconds, plan.cut_seconds, self._network)
        began = time.monotonic()
        self._workers = [self._work(role, mount)
                         for role in ("write", "read") for mount in range(WRITERS)]
        time.sleep(CACHE_SECONDS)
        turn = 0
        while time.monotonic() < began + plan.seconds and not self._hung():
            time.sleep(plan.every_seconds * chance.uniform(0.5, 1.5))
            if faults.inflict(plan.kills[turn % len(plan.kills)]):
                turn += 1
        faults.restart()
        whole = self._wait_for_redundancy(faults)
        self._stop_workers()
        time.sleep(CACHE_SECONDS + 0.5)
        for mount in range(WRITERS):
            self._work("check", mount).wait(COMMAND_SECONDS)
        found = self._luciole("fsck", "--dir", str(self.directory.path), "--json")
        problems = [found.stderr] if found.returncode not in {0, 4} else [
            json.dumps(problem) for problem in json.loads(found.stdout)["problems"]]
        return self._report(faults, began, whole, problems)

    def _hung(self) -> bool:
        return any(record["under_way"] and record["under_way"][1] > HANG_SECONDS
                   for record in self._read_records())

    def _read_records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) | {"name": path.stem}
                for path in sorted(self._records.glob("*.json"))]

    @staticmethod
    def _wait_for_redundancy(faults: Faults) -> float:
        began = time.monotonic()
        while time.monotonic() < began + SETTLE_SECONDS:
            if redundant(faults.status()):
                return time.monotonic() - began
            time.sleep(0.2)
        return -1.0

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + HANG_SECONDS
        for worker in self._workers:
            try:
                worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()

    def _report(
        self, faults: Faults, began: float, whole: float, problems: list[str]
    ) -> Report:
        records = self._read_records()
        slowest = sorted(
            ((took, at, what, record["name"]) for record in records
             for took, at, what in record["slowest"]), reverse=True)
        errors = [f"{record['name']}: {error}" for record in records for error in record["errors"]]
        errors += [f"{record['name']}: {record['under_way'][0]} did not return"
                   for record in records if record["under_way"]]
        transports = self._transports()
        # Who has had no need of a neighbour since it started says nothing of it.
        if self._plan.transport != "auto" and transports.keys() - {self._plan.transport, "none"}:
            errors.append(f"nodes are reached by {transports}, not by {self._plan.transport}")
        return Report(
            seed=self._plan.seed, seconds=time.monotonic() - began,
            faults=[f"{fault.at - began:6.1f} s {fault.what} {fault.name} for "
                    f"{fault.seconds:.1f} s, longest call {longest_call(fault, slowest):.1f} s "
                    f"{fault.note}" for fault in faults.done],
            operations=sum(sum(record["counts"].values()) for record in records),
            longest_pause_seconds=slowest[0][0] if slowest else 0.0,
            slowest=[f"{at - began:6.1f} s {what} of {name} took {took:.2f} s"
                     for took, at, what, name in slowest[:SHOWN]],
            errors=errors,
            mismatches=[f"{record['name']}: {mismatch}" for record in records
                        for mismatch in record["mismatches"]],
            zombie_answers=faults.zombie_answers, redundancy_seconds=whole, fsck=problems,
            transports=transports, fell_back=self._fell_back())

    def _transports(self) -> dict[str, int]:
        told = self._luciole("doctor", "--dir", str(self.directory.path), "--json").stdout
        nodes = json.loads(told)["nodes"] if told else []
        return dict(Counter(way["transport"] or "none" for node in nodes
                            for way in (node, *node["neighbours"])))

    def _fell_back(self) -> int:
        return sum(path.read_text().count(FELL_BACK) for path in self.directory.log.glob("*.log"))

    def _end(self) -> None:
        """Leaves no process and no mount behind."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
        self._luciole("down", str(self.directory.path), "--timeout", "10")
        for place in self._places:
            if mounts.is_mounted(place):
                subprocess.run(["fusermount3", "-u", "-z", str(place)], check=False, timeout=20)
        if self._network is not None:
            self._network.close()
