"""The directory of a local cluster: what it is made of, and where everything in it lies.

Layer: shell.

    DIR/cluster.toml        what was decided when the cluster was made; its presence makes DIR one
    DIR/config/NAME.toml    configuration of each service, and of clients
    DIR/kv/                 key-value store of manager and metadata
    DIR/storage-N/disk0/    targets of storage process N
    DIR/log/NAME.log        what each process wrote
    DIR/run/NAME.pid        processes that run

Paths inside the configuration are relative to DIR, which is the services' working directory: a
stopped cluster may be moved. `cluster.toml` is written last, by rename: a creation that was
interrupted leaves no cluster, and the next `luciole up` makes it again.
"""

from __future__ import annotations

import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from luciole.config import (
    ClientConfig,
    MetaConfig,
    MgmtdConfig,
    Port,
    ServiceConfig,
    StorageConfig,
    load,
    render,
)
from luciole.errors import FsError, Kind

FORMAT = 1
CLUSTER_FILE = "cluster.toml"
MGMTD_NODE, META_NODE, FIRST_STORAGE_NODE = 1, 2, 101
MORE_MGMTD_NODES, MORE_META_NODES = 10, 20  # the second manager is node 12
_MADE_FIRST = {"config", "log", "run"}
KINDS: dict[str, type[MgmtdConfig] | type[MetaConfig] | type[StorageConfig]] = {
    "mgmtd": MgmtdConfig, "meta": MetaConfig, "storage": StorageConfig}


class ClusterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was decided when a local cluster was made."""

    format: int = FORMAT
    cluster_id: Annotated[str, Meta(min_length=1, max_length=64)]
    nodes: Annotated[int, Meta(ge=1, le=1000)]
    replicas: Annotated[int, Meta(ge=1, le=16)]
    targets_per_node: Annotated[int, Meta(ge=1, le=256)]
    durability: Literal["process", "power"]
    port_base: Port
    managers: Annotated[int, Meta(ge=1, le=3)] = 1
    metas: Annotated[int, Meta(ge=1, le=16)] = 1
    kv_capacity_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 0  # of each node


@dataclass(frozen=True)
class Service:
    """One process of a local cluster."""

    name: str
    kind: str  # "mgmtd", "meta" or "storage"
    node_id: int
    number: int  # of its pair of ports


def services_of(file: ClusterFile) -> list[Service]:
    """The services of a cluster, managers first.

    Names, ids and ports of a cluster with one manager and one metadata service do not depend on
    how many more others have.
    """
    found = [Service("mgmtd", "mgmtd", MGMTD_NODE, 0), Service("meta", "meta", META_NODE, 1)]
    found += [
        Service(f"storage-{number}", "storage", FIRST_STORAGE_NODE + number - 1, number + 1)
        for number in range(1, file.nodes + 1)
    ]
    more = [("mgmtd", MORE_MGMTD_NODES, number) for number in range(2, file.managers + 1)]
    more += [("meta", MORE_META_NODES, number) for number in range(2, file.metas + 1)]
    found += [
        Service(f"{kind}-{number}", kind, first + number, file.nodes + 2 + position)
        for position, (kind, first, number) in enumerate(more)
    ]
    order = ("mgmtd", "meta", "storage")
    return sorted(found, key=lambda service: order.index(service.kind))


def manager_addresses(file: ClusterFile) -> list[str]:
    """"host:port" of every manager."""
    return [f"127.0.0.1:{ports_of(service, file.port_base)[0]}"
            for service in services_of(file) if service.kind == "mgmtd"]


class ClusterDirectory:
    """Paths and configuration of one local cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config"
        self.log = self.path / "log"
        self.run = self.path / "run"

    @property
    def exists(self) -> bool:
        """Whether a cluster is here."""
        return (self.path / CLUSTER_FILE).is_file()

    def config_file(self, name: str) -> Path:
        """Configuration of a service, or of "client"."""
        return self.config / f"{name}.toml"

    def log_file(self, name: str) -> Path:
        """Log of a process."""
        return self.log / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        """Pid file of a process."""
        return self.run / f"{name}.pid"

    def mount_pid_files(self) -> list[Path]:
        """Pid files of this cluster's mounts."""
        return sorted(self.run.glob("mount-*.pid"))

    def read(self) -> ClusterFile:
        """`cluster.toml`. Raises FsError CONFIG_INVALID, saying what to do."""
        path = self.path / CLUSTER_FILE
        if not self.exists:
            raise FsError(Kind.CONFIG_INVALID, "there is no cluster here: make one with "
                          "`luciole up`, or name its directory", str(self.path))
        try:
            content = tomllib.loads(path.read_text())
            version = content.get("format")
            if isinstance(version, int) and version > FORMAT:
                raise FsError(Kind.CONFIG_INVALID, "the cluster was made by a newer version of "
                              f"luciole (format {version}, this one knows {FORMAT}): use that "
                              "version, or another directory", str(path))
            return msgspec.convert(content, ClusterFile)
        except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as failure:
            raise FsError(Kind.CONFIG_INVALID, f"not a cluster's description: {failure}",
                          str(path)) from failure

    def client_config(self) -> ClientConfig:
        """Configuration of clients of this cluster."""
        self.read()
        return load(self.config_file("client"), ClientConfig)

    def service_config(self, service: Service) -> ServiceConfig:
        """A service's own file. Raises FsError CONFIG_INVALID."""
        path = self.config_file(service.name)
        if service.kind == "mgmtd":
            return load(path, MgmtdConfig)
        return load(path, MetaConfig) if service.kind == "meta" else load(path, StorageConfig)

    def check_usable(self) -> None:
        """Raises FsError CONFIG_INVALID unless a cluster is here or may be made here."""
        if not self.path.exists() or self.exists:
            return
        if not self.path.is_dir():
            raise FsError(Kind.CONFIG_INVALID, "not a directory: name one for the cluster",
                          str(self.path))
        names = {entry.name for entry in self.path.iterdir()}
        if names - _MADE_FIRST:
            raise FsError(Kind.CONFIG_INVALID, "the directory is not empty and holds no cluster: "
                          "name an empty or a new one", str(self.path))

    def create(self, file: ClusterFile) -> None:
        """Writes everything that makes this directory a cluster."""
        for directory in (self.config, self.log, self.run):
            directory.mkdir(parents=True, exist_ok=True)
        for name, config in default_configs(file).items():
            self.write_config(name, config)
        self.write(file)

    def write_config(self, name: str, config: msgspec.Struct) -> None:
        """Writes the configuration of a service, or of "client"."""
        self.config_file(name).write_text(render(config))

    def write(self, file: ClusterFile) -> None:
        """Writes `cluster.toml`, whole or not at all."""
        scratch = self.path / f"{CLUSTER_FILE}.new"
        scratch.write_text(render(file))
        scratch.replace(self.path / CLUSTER_FILE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other command that changes this cluster out. Raises FsError BUSY."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as failure:
            raise FsError(Kind.BUSY, "another luciole command is changing this cluster: wait for "
                          "it to end, then try again", str(self.path)) from failure
        finally:
            os.close(descriptor)


def default_configs(file: ClusterFile) -> dict[str, msgspec.Struct]:
    """Configuration of every service of a new cluster, and of its clients."""
    manager = manager_addresses(file)
    found: dict[str, msgspec.Struct] = {
        "client": ClientConfig(cluster_id=file.cluster_id, mgmtd=manager)}
    for service in services_of(file):
        rpc, grpc = ports_of(service, file.port_base)
        if service.kind == "mgmtd":
            found[service.name] = MgmtdConfig(
                cluster_id=file.cluster_id, node_id=service.node_id, rpc_port=rpc,
                grpc_port=grpc, kv="embedded:kv")
        elif service.kind == "meta":
            found[service.name] = MetaConfig(
                cluster_id=file.cluster_id, node_id=service.node_id, rpc_port=rpc,
                grpc_port=grpc, kv="embedded:kv", mgmtd=manager,
                durability=file.durability)
        else:
            found[service.name] = StorageConfig(
                cluster_id=file.cluster_id, node_id=service.node_id, rpc_port=rpc,
                grpc_port=grpc, mgmtd=manager, disks=[f"{service.name}/disk0"],
                targets_per_disk=file.targets_per_node, durability=file.durability,
                kv_capacity_bytes=file.kv_capacity_bytes)
    return found


def ports_of(service: Service, base: int) -> tuple[int, int]:
    """(framed, gRPC) ports of a service in the block that begins at `base`."""
    return base + 2 * service.number, base + 2 * service.number + 1
