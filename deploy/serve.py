"""`luciole mgmtd|meta|storage serve`: one service in this process, until SIGTERM."""

from __future__ import annotations

import argparse
from pathlib import Path

from luciole.config import MetaConfig, MgmtdConfig, StorageConfig, load
from luciole.log import configure


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the three services."""
    for kind, about in (("mgmtd", "the cluster manager"), ("meta", "the metadata service"),
                        ("storage", "the storage service")):
        parser = commands.add_parser(
            kind, help=f"run {about}", description=f"Runs {about} in the foreground.",
            epilog=f"example: luciole {kind} serve --config /etc/luciole/{kind}.toml")
        actions = parser.add_subparsers(metavar="COMMAND", required=True)
        serve = actions.add_parser(
            "serve", help="run until SIGTERM", description=f"Runs {about} until SIGTERM; logs "
            "one JSON object a line to standard error. Relative paths in the configuration are "
            "relative to the working directory.",
            epilog=f"example: luciole {kind} serve --config /etc/luciole/{kind}.toml")
        serve.add_argument("--config", required=True, metavar="FILE", help="its TOML file")
        serve.set_defaults(run=run, kind=kind)


def run(args: argparse.Namespace) -> int:
    """Serves. Raises FsError when it cannot start."""
    path = Path(args.config)
    # Each service brings libraries that the others, and short commands, need not load.
    if args.kind == "mgmtd":
        from luciole.mgmtd.server import serve as serve_mgmtd  # noqa: PLC0415

        mgmtd = load(path, MgmtdConfig)
        configure(level=mgmtd.log_level)
        serve_mgmtd(mgmtd)
    elif args.kind == "meta":
        from luciole.meta.server import serve as serve_meta  # noqa: PLC0415

        meta = load(path, MetaConfig)
        configure(level=meta.log_level)
        serve_meta(meta)
    else:
        from luciole.kvcache.volume.server import beside_storage  # noqa: PLC0415
        from luciole.storage.server import serve as serve_storage  # noqa: PLC0415

        storage = load(path, StorageConfig)
        configure(level=storage.log_level)
        serve_storage(storage, beside_storage)
    return 0
