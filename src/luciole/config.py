"""Configuration: one TOML file per service, checked to the last key.

Layer: kernel. The structs below are the whole truth: names carry units, bounds stand in the type,
an unknown key, a wrong type or a value out of range is an error that names its path. The files in
deploy/config/ equal these defaults (a test says so).

What the cluster manager stores for a service (`luciole config set`) is laid over that service's
file when it starts, except for what is the machine's own (`MACHINE_KEYS`).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from luciole.errors import FsError, Kind

Port = Annotated[int, Meta(ge=0, le=65535)]
NodeId = Annotated[int, Meta(ge=1, le=2**31)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
ByteRate = Annotated[int, Meta(ge=0, le=1 << 40)]
LogLevel = Literal["debug", "info", "warning", "error"]
# How storage and metadata services are reached. auto: the best; shm: only those of this machine;
# rdma: only through a verbs device; tcp: never in a better way.
Transport = Literal["auto", "shm", "rdma", "tcp"]
# How queue pairs are connected. auto: over TCP, and by rdma_cm where a device knows no other way;
# tcp, cm: only so.
RdmaSetup = Literal["auto", "tcp", "cm"]
KiB = 1024
MiB = 1024 * 1024
MACHINE_KEYS = {
    "cluster_id", "node_id", "host", "rpc_port", "grpc_port", "kv", "mgmtd", "disks", "node_dir",
    "rdma_device", "rdma_port", "rdma_gid_index", "rdma_setup"}


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every service has."""

    cluster_id: Annotated[str, Meta(min_length=1, max_length=64)] = "local"
    node_id: NodeId = 1
    host: str = "127.0.0.1"
    rpc_port: Port = 0  # framed protocol; 0: any free port
    grpc_port: Port = 0
    rdma_device: str = ""  # of RDMA, both ways; empty, 0 and -1: chosen
    rdma_port: Annotated[int, Meta(ge=0, le=255)] = 0
    rdma_gid_index: Annotated[int, Meta(ge=-1, le=65535)] = -1
    rdma_setup: RdmaSetup = "auto"
    log_level: LogLevel = "info"


class MgmtdConfig(ServiceConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The cluster manager."""

    kv: str = "embedded:/var/lib/luciole/kv"  # or "fdb:/etc/foundationdb/fdb.cluster"
    # A node silent for so long has failed. It fences itself after half of it, which is three
    # heartbeats, and what it served pauses for the whole of it: a longer lease means fewer
    # false alarms on a busy machine and longer pauses when a node dies.
    lease_seconds: Seconds = 3.0
    # A primary manager silent for so long is replaced by another.
    primary_lease_seconds: Seconds = 2.0
    # How long nodes may take to start together with the cluster before they count as failed.
    start_grace_seconds: Seconds = 12.0
    client_lease_seconds: Seconds = 30.0
    tick_seconds: Seconds = 0.2


class MetaConfig(ServiceConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metadata service."""

    kv: str = "embedded:/var/lib/luciole/kv"
    mgmtd: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7000"])
    transport: Transport = "auto"  # to storage services
    # Of the embedded store: what a change of names survives when it is answered. "power": a loss of
    # power. "process": the death of every process, and a loss of power after sync_seconds or fsync.
    durability: Literal["process", "power"] = "process"
    sync_seconds: Seconds = 1.0
    heartbeat_seconds: Seconds = 0.5
    chunk_size: Annotated[int, Meta(ge=64 * KiB, le=64 * MiB)] = MiB  # a power of two
    stripe: Count = 4  # chains that one file uses
    gc_interval_seconds: Seconds = 2.0
    # A file stays this long after its last unlink: three times the clients' hold interval.
    gc_grace_seconds: Annotated[float, Meta(ge=0, le=86400)] = 30.0


class StorageConfig(ServiceConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The storage service."""

    mgmtd: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7000"])
    transport: Transport = "auto"  # to the other storage services
    disks: list[str] = msgspec.field(default_factory=lambda: ["/var/lib/luciole/disk1"])
    targets_per_disk: Annotated[int, Meta(ge=1, le=256)] = 4
    durability: Literal["process", "power"] = "process"
    sync_seconds: Seconds = 5.0  # with "process": how long an acknowledged byte may stay unflushed
    # Writes of at least so many bytes go past the page cache; 0: none do.
    direct_write_bytes: Annotated[int, Meta(ge=0)] = 256 * KiB
    heartbeat_seconds: Seconds = 0.5
    reserve_bytes: Annotated[int, Meta(ge=0)] = 256 * MiB  # of the disk, never filled with chunks
    resync_interval_seconds: Seconds = 0.5
    resync_bytes_per_second: ByteRate = 512 * MiB  # sent per process; 0: no bound
    scrub_bytes_per_second: ByteRate = 16 * MiB  # stored bytes verified per process; 0: never
    scrub_interval_seconds: Annotated[float, Meta(gt=0, le=366 * 86400)] = 86400.0  # between passes
    # Of the first disk, for cached blocks of inference engines; 0: this node caches none.
    kv_capacity_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 0


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client: the mount, the native library, the command line."""

    cluster_id: Annotated[str, Meta(min_length=1, max_length=64)] = "local"
    mgmtd: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:7000"])
    request_timeout_seconds: Seconds = 10.0  # one attempt
    total_timeout_seconds: Seconds = 60.0  # an operation with all its retries, then EIO
    session_seconds: Seconds = 10.0  # how often the client shows that it lives
    hold_seconds: Seconds = 10.0  # read handles older than this are registered
    attribute_cache_seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    entry_cache_seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    write_buffer_bytes: Annotated[int, Meta(ge=64 * KiB, le=1024 * MiB)] = 8 * MiB  # per open file
    read_ahead_bytes: Annotated[int, Meta(ge=0, le=256 * MiB)] = 4 * MiB  # kernel readahead
    # Small reads at random are fetched with so many bytes around them; 0: never.
    read_around_bytes: Annotated[int, Meta(ge=0, le=16 * MiB, multiple_of=4096)] = MiB
    fuse_binding: Literal["direct", "pyfuse3"] = "direct"  # docs/posix.md says how they differ
    transport: Transport = "auto"
    rdma_device: str = ""  # empty, 0 and -1: chosen
    rdma_port: Annotated[int, Meta(ge=0, le=255)] = 0
    rdma_gid_index: Annotated[int, Meta(ge=-1, le=65535)] = -1
    rdma_setup: RdmaSetup = "auto"
    read_only: bool = False  # nothing is changed through a mount: EROFS
    log_level: LogLevel = "info"


CONFIGS: dict[str, type[ServiceConfig] | type[ClientConfig]] = {
    "mgmtd": MgmtdConfig,
    "meta": MetaConfig,
    "storage": StorageConfig,
    "client": ClientConfig,
}
ConfigT = TypeVar("ConfigT", MgmtdConfig, MetaConfig, StorageConfig, ClientConfig)


def parse(text: str, kind: type[ConfigT], source: str) -> ConfigT:
    """Reads TOML. Raises FsError CONFIG_INVALID naming the source, the key and the remedy."""
    try:
        return _checked(msgspec.convert(tomllib.loads(text), kind), source)
    except tomllib.TOMLDecodeError as failure:
        raise FsError(Kind.CONFIG_INVALID, f"not TOML: {failure}", source) from failure
    except msgspec.ValidationError as failure:
        known = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise FsError(
            Kind.CONFIG_INVALID, f"{failure}; known keys: {known}", source) from failure


def _checked(config: ConfigT, source: str) -> ConfigT:
    """What types cannot say."""
    if isinstance(config, MetaConfig) and config.chunk_size & (config.chunk_size - 1):
        raise FsError(Kind.CONFIG_INVALID, f"chunk_size {config.chunk_size} is no power of two",
                      source)
    for address in getattr(config, "mgmtd", []):
        parse_address(address)
    return config


def load(path: Path, kind: type[ConfigT]) -> ConfigT:
    """Reads a configuration file. Raises FsError CONFIG_INVALID."""
    try:
        text = path.read_text()
    except OSError as failure:
        raise FsError(Kind.CONFIG_INVALID, f"cannot read the configuration: {failure.strerror}",
                      str(path)) from failure
    return parse(text, kind, str(path))


def validate_service_config(service: str, content: str) -> None:
    """Checks what an operator wants the manager to store for all services of a kind.

    Raises FsError CONFIG_INVALID.
    """
    if service not in CONFIGS:
        raise FsError(Kind.CONFIG_INVALID, f"there is no service {service!r}: one of "
                      f"{', '.join(CONFIGS)}")
    kind: Any = CONFIGS[service]
    parse(content, kind, f"{service} configuration")
    own = MACHINE_KEYS & set(tomllib.loads(content))
    if own:
        raise FsError(Kind.CONFIG_INVALID, f"{', '.join(sorted(own))} belong in each machine's "
                      "own file", f"{service} configuration")


def overlay(config: ConfigT, content: str, source: str) -> ConfigT:
    """`config` with the keys that the cluster's configuration sets."""
    if not content.strip():
        return config
    merged = msgspec.to_builtins(config) | tomllib.loads(content)
    return _checked(msgspec.convert(merged, type(config)), source)


def parse_address(address: str) -> tuple[str, int]:
    """Splits "host:port". Raises FsError CONFIG_INVALID."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise FsError(Kind.CONFIG_INVALID, "not an address of the form host:port", address)
    return host, int(port)


def render(config: msgspec.Struct) -> str:
    """TOML text with every key of `config`."""
    lines = []
    for key, value in msgspec.to_builtins(config).items():
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, list):
            text = "[" + ", ".join(_quote(item) for item in value) + "]"
        else:
            text = _quote(value) if isinstance(value, str) else repr(value)
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    # A JSON string is a TOML basic string.
    return msgspec.json.encode(text).decode()
