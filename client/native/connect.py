"""`luciole.connect`: from the name of a cluster to its files.

Layer: shell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from luciole.client.native.filesystem import FileSystem
from luciole.client.remote.connections import connections_of
from luciole.client.sends import Sends
from luciole.client.session import Client
from luciole.config import ClientConfig, load, parse_address
from luciole.errors import FsError, Kind
from luciole.runtime import ThreadRuntime, drive

SENDS_MAX = 16
CLIENT_FILE = Path("config", "client.toml")


def connect(
    where: str | Path | ClientConfig,
    *,
    cluster_id: str | None = None,
    transport: Literal["auto", "shm", "rdma", "tcp"] | None = None,
) -> FileSystem:
    """Connects to a cluster.

    Args:
        where: a local cluster's directory, a client.toml, "host:port" of a manager (several with
            commas between them), or a configuration.
        cluster_id: of the cluster; needed with addresses unless it is "local".
        transport: how storage and metadata services are reached; None: as configured.

    Raises FsError, within ten seconds when no manager answers.
    """
    config = where if isinstance(where, ClientConfig) else _find(where)
    changes = {"cluster_id": cluster_id, "transport": transport}
    config = msgspec.structs.replace(
        config, **{key: value for key, value in changes.items() if value is not None})
    runtime = ThreadRuntime()
    client = Client(config, runtime, connections_of(config, "native client"), kind="native",
                    spawn=Sends(SENDS_MAX).spawn)
    try:
        drive(client.connect())
    except FsError:
        client.connections.close()
        raise
    return FileSystem(client, runtime)


def _find(where: str | Path) -> ClientConfig:
    path = Path(where)
    if (path / CLIENT_FILE).is_file():
        return load(path / CLIENT_FILE, ClientConfig)
    if path.is_file():
        return load(path, ClientConfig)
    addresses = str(where).split(",")
    try:
        for address in addresses:
            parse_address(address)
    except FsError as failure:
        raise FsError(Kind.CONFIG_INVALID, "neither a cluster's directory, nor a client.toml, nor "
                      "host:port of a manager", str(where)) from failure
    return ClientConfig(mgmtd=addresses)
