"""What is done to real processes: killed, stopped for a while, cut off, started again."""

from __future__ import annotations

import random
import signal
import threading
import time
from dataclasses import dataclass, field

from luciole.client.session import Client
from luciole.deploy import local_cluster, processes
from luciole.deploy.cluster_directory import ClusterDirectory, Service, services_of
from luciole.deploy.connect import open_client
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.services import StorageStub
from luciole.routing import versioned
from luciole.runtime import drive
from luciole.tests.chaos import partitions
from luciole.tests.chaos.namespaces import Network
from luciole.tests.chaos.partitions import Partitions
from luciole.tests.standing import wait_until_it_stands

ASK_SECONDS = 2.0
ZOMBIE_ANSWER_SECONDS = 20.0
WHOLE_SECONDS = 60.0
FENCED = {Kind.NOT_SERVING, Kind.CHAIN_VERSION_MISMATCH}


@dataclass
class Fault:
    """One that was done."""

    at: float  # monotonic seconds, as the workers have them
    what: str
    name: str
    seconds: float  # until it was undone
    note: str = ""


@dataclass
class Faults:
    """Does faults to a cluster, never more at a time than it must bear."""

    directory: ClusterDirectory
    random: random.Random
    stop_seconds: float
    cut_seconds: float = 0.0
    network: Network | None = None  # where the processes live, if they have places of their own
    done: list[Fault] = field(default_factory=list)
    zombie_answers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = self.directory.read()
        self._client: Client = open_client(self.directory.client_config())
        self._started: list[processes.Child] = []
        self._partitions = None if self.network is None else Partitions(
            self.directory, self.network, self.random, self.status)

    def status(self) -> mgmtd_pb2.StatusReply | None:
        """What the primary says, or None while there is none."""
        try:
            return drive(self._client.manager.call(
                lambda stub: stub.status(common_pb2.Empty(), timeout=ASK_SECONDS), 0.0))
        except FsError:
            return None

    def restart(self) -> None:
        """Starts whatever does not run."""
        for child in self._started:
            child.ended()  # reaps it
        started = partitions.start(self.directory, self.network) if self.network \
            else local_cluster.start(self.directory, self._file)
        self._started += started.values()

    def inflict(self, kind: str) -> bool:
        """Does one fault and undoes it; returns whether it was possible now."""
        status = self.status()
        if kind == "cut-link":
            return status is not None and self._cut_link(status)
        victim = self._victim(kind, status) if status else None
        record = processes.running(self.directory.pid_file(victim.name)) if victim else None
        if status is None or victim is None or record is None:
            return False
        began = time.monotonic()
        fault = Fault(began, kind, victim.name, 0.0)
        self.done.append(fault)
        if kind == "stop":
            self._stop(fault, victim, record, status)
        elif kind in partitions.KINDS:
            assert self._partitions is not None
            fault.note = self._partitions.inflict(kind, victim, self.cut_seconds)
            fault.note += self._whole_again()
            if "it obeyed" in fault.note:
                self.zombie_answers.append(f"{victim.name}: {fault.note}")
        else:
            processes.send(record, signal.SIGKILL)
            processes.wait_end(record, 10.0)
            time.sleep(self.random.uniform(0.0, 5.0))
            self.restart()
        fault.seconds = time.monotonic() - began
        return True

    def _cut_link(self, status: mgmtd_pb2.StatusReply) -> bool:
        assert self._partitions is not None
        link = self._partitions.link(status)
        if link is None:
            return False
        chain_id, first, second = link
        fault = Fault(time.monotonic(), "cut-link", f"{first} and {second}", 0.0)
        self.done.append(fault)
        fault.note = self._partitions.inflict_link(chain_id, first, second, self.cut_seconds)
        fault.note += self._whole_again()
        fault.seconds = time.monotonic() - fault.at
        return True

    def _whole_again(self) -> str:
        """Waits until everything serves again after a cut was mended."""
        began = time.monotonic()
        while time.monotonic() < began + WHOLE_SECONDS:
            if redundant(self.status()):
                return f" whole {time.monotonic() - began:.1f} s after the mending"
            time.sleep(0.1)
        return " not whole again"

    def _victim(self, kind: str, status: mgmtd_pb2.StatusReply) -> Service | None:
        services = services_of(self._file)
        if kind in {"mgmtd", "cut-manager"}:
            return next((service for service in services
                         if service.node_id == status.primary.node_id), None)
        wanted = "meta" if kind == "meta" else "storage"
        candidates = [service for service in services if service.kind == wanted
                      and (wanted == "meta" or spared(status, service.node_id))]
        return self.random.choice(candidates) if candidates else None

    def _stop(
        self, fault: Fault, victim: Service, record: processes.ProcessRecord,
        status: mgmtd_pb2.StatusReply,
    ) -> None:
        """A process that stands still and comes back must not answer as if nothing had been."""
        answers: list[str] = []
        node = next(entry.node for entry in status.nodes
                    if entry.node.node_id == victim.node_id)
        # A client of its own, with a connection that is there before the process stands still.
        stub = open_client(self.directory.client_config()).connections.storage(node)
        drive(stub.read(storage_pb2.ReadRequest(), timeout=ASK_SECONDS))
        processes.send(record, signal.SIGSTOP)
        wait_until_it_stands(record.pid)
        asking = threading.Thread(target=self._ask, args=(stub, victim, status, answers))
        asking.start()
        time.sleep(self.stop_seconds)
        processes.send(record, signal.SIGCONT)
        asking.join(ZOMBIE_ANSWER_SECONDS)
        fault.note = answers[0] if answers else "no answer"
        if not answers or not answers[0].startswith("refused"):
            self.zombie_answers.append(f"{victim.name}: {fault.note}")

    def _ask(
        self, stub: StorageStub, victim: Service, status: mgmtd_pb2.StatusReply,
        answers: list[str],
    ) -> None:
        """Asks for a chunk with the chain version of before; the request waits in the socket."""
        own = {target.target_id for target in status.routing.targets
               if target.node_id == victim.node_id}
        chain = next(chain for chain in status.routing.chains
                     if any(member.target_id in own and member.state == mgmtd_pb2.SERVING
                            for member in chain.targets))
        request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(
            chain=versioned(chain),
            chunk_id=bytes(16), length=1)])
        began = time.monotonic()
        try:
            reply = drive(stub.read(
                request, timeout=self.stop_seconds + ZOMBIE_ANSWER_SECONDS,
                sink=lambda reply: [memoryview(bytearray(result.length))
                                    for result in reply.results if result.length]))
            kind = reply.results[0].error.kind
        except FsError as failure:
            kind = failure.kind
        name = common_pb2.ErrorKind.Name(kind)
        what = "refused" if kind in FENCED else "answered"
        answers.append(f"{what} with {name} after {time.monotonic() - began:.1f} s")


def spared(status: mgmtd_pb2.StatusReply, node_id: int) -> bool:
    """Whether every chain of a node has another serving target, on a node that was heard."""
    own = {target.target_id for target in status.routing.targets if target.node_id == node_id}
    return all(
        any(member.state == mgmtd_pb2.SERVING and member.target_id not in own
            for member in chain.targets)
        for chain in status.routing.chains
        if any(member.target_id in own for member in chain.targets))


def redundant(status: mgmtd_pb2.StatusReply | None) -> bool:
    """Whether every target of every chain serves."""
    return status is not None and all(
        member.state == mgmtd_pb2.SERVING
        for chain in status.routing.chains for member in chain.targets)
