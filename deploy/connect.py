"""A command's way to a cluster: which one, and a client on this thread."""

from __future__ import annotations

import argparse
from pathlib import Path

from luciole.client.remote.connections import connections_of
from luciole.client.session import Client
from luciole.config import ClientConfig, load
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.runtime import ThreadRuntime

DEFAULT_DIRECTORY = "cluster"


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """`--dir` for a local cluster, `--config` for any other."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dir", default=DEFAULT_DIRECTORY, metavar="DIR",
        help="directory of a local cluster (default: ./cluster)")
    which.add_argument(
        "--config", metavar="FILE", help="client.toml of any other cluster")


def client_config(args: argparse.Namespace) -> ClientConfig:
    """The configuration that the options of `add_cluster_options` name. Raises FsError."""
    if args.config:
        return load(Path(args.config), ClientConfig)
    return ClusterDirectory(Path(args.dir)).client_config()


def open_client(config: ClientConfig, runtime: ThreadRuntime | None = None) -> Client:
    """A client whose coroutines never suspend (runtime.drive). Nothing is sent yet."""
    return Client(
        config, runtime or ThreadRuntime(), connections_of(config, "command line"), kind="cli")
