"""A cluster of real processes for one measurement, and a client on this thread."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from luciole.client.session import Client
from luciole.config import StorageConfig
from luciole.deploy import local_cluster, processes
from luciole.deploy.cluster_directory import ClusterDirectory, ClusterFile, services_of
from luciole.deploy.connect import open_client
from luciole.deploy.local_cluster import Shape
from luciole.proto import meta_pb2
from luciole.runtime import drive

MIB = 1 << 20
UP_SECONDS = 60.0
Command = Callable[[str, Path], Sequence[str]]  # kind of service and its configuration -> argv


def luciole(kind: str, config: Path) -> Sequence[str]:
    """The command line of a service as it is."""
    return processes.luciole_command(kind, "serve", "--config", str(config))


def quiet(text: str, done: int = 0, total: int = 0) -> None:
    """Reports nothing."""


class Cluster:
    """A running cluster."""

    def __init__(
        self, root: Path, shape: Shape, command: Command, storage: dict[str, int]
    ) -> None:
        self.root = root
        self.directory = ClusterDirectory(root / "cluster")
        self._command = command
        file = local_cluster.prepare(self.directory, shape)
        for service in services_of(file):
            config = self.directory.service_config(service)
            if isinstance(config, StorageConfig):
                self.directory.write_config(
                    service.name, msgspec.structs.replace(config, **storage))
        self._file = file
        self.start()

    @property
    def file(self) -> ClusterFile:
        """Its shape."""
        return self._file

    def start(self, wait: bool = True) -> None:
        """Starts what does not run; may wait until all is healthy."""
        self.directory.log.mkdir(exist_ok=True)
        started = {}
        for service in services_of(self._file):
            pid_file = self.directory.pid_file(service.name)
            if processes.running(pid_file):
                continue
            child = processes.spawn(
                service.name,
                self._command(service.kind, self.directory.config_file(service.name)),
                directory=self.directory.path, log=self.directory.log_file(service.name))
            record = processes.record_of(child.process.pid)
            assert record is not None
            processes.write_record(pid_file, record)
            started[service.name] = child
        if wait:
            local_cluster.Watch(self.directory, self._file, started).wait(UP_SECONDS, quiet)

    def client(self) -> Client:
        """A client that knows the routing; drive its coroutines."""
        client = open_client(self.directory.client_config())
        drive(client.manager.wait_for_routing(UP_SECONDS))
        return client

    def stop(self) -> None:
        """Ends it and removes its files."""
        local_cluster.down(self.directory, 20.0, quiet)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def running(
    shape: Shape, command: Command = luciole, storage: dict[str, int] | None = None
) -> Iterator[Cluster]:
    """A healthy cluster while the block runs.

    Args:
        shape: as of `luciole up`.
        command: how a service is started.
        storage: settings of the storage services that differ from their defaults.
    """
    cluster = Cluster(
        Path(tempfile.mkdtemp(prefix="luciole-bench-")), shape, command, storage or {})
    try:
        yield cluster
    finally:
        cluster.stop()


def file_of_one_chain(number: int, length: int = 1 << 40) -> meta_pb2.Inode:
    """A file that only chunk clients know; all of it lies on one chain."""
    return meta_pb2.Inode(
        inode_id=(1 << 48) + number, type=meta_pb2.REGULAR, length=length,
        layout=meta_pb2.Layout(table_id=1, table_version=1, chunk_size=MIB, stripe=1))


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
