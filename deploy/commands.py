"""`luciole up`, `down`, `mount` and `umount`."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import msgspec

from luciole.client.fuse.mount import serve_mount
from luciole.config import ClientConfig, load
from luciole.deploy import local_cluster, mounts, processes, trees
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.deploy.connect import DEFAULT_DIRECTORY, add_cluster_options
from luciole.deploy.local_cluster import Shape
from luciole.deploy.output import answers, notes, print_json, progress
from luciole.kvcache.tree import BlockTree
from luciole.log import configure

Commands = argparse._SubParsersAction


def seconds(text: str) -> float:
    """A positive, finite number of seconds, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return number


def port(text: str) -> int:
    """A port number that a user may take, for argparse."""
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1024 to 65535")
    return int(text)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the four commands."""
    _add_up(commands)
    down = commands.add_parser(
        "down", help="stop a local cluster", description="Unmounts and stops a local cluster; "
        "its data stay.", epilog="example: luciole down ./cluster")
    down.add_argument("directory", nargs="?", default=DEFAULT_DIRECTORY, metavar="DIR",
                      help="directory of the cluster (default: ./cluster)")
    down.add_argument("--timeout", type=seconds, default=20.0, metavar="SECONDS",
                      help="then what still runs is killed (default: 20)")
    down.add_argument("--json", action="store_true", help="print one JSON object")
    down.set_defaults(run=run_down)
    mount = commands.add_parser(
        "mount", help="mount a cluster", description="Mounts a cluster through FUSE and returns "
        "when the mount answers.", epilog="example: luciole mount /mnt/luciole --dir ./cluster")
    mount.add_argument("path", metavar="PATH", help="an empty directory")
    add_cluster_options(mount)
    mount.add_argument("--foreground", action="store_true", help="serve the mount in this process")
    _add_binding(mount)
    mount.add_argument("--read-only", action="store_true", help="change nothing (EROFS)")
    mount.add_argument("--pid-file", help=argparse.SUPPRESS)
    mount.add_argument("--timeout", type=seconds, default=mounts.MOUNT_SECONDS, metavar="SECONDS",
                       help="bound of the wait (default: 30)")
    mount.add_argument("--json", action="store_true", help="print one JSON object")
    mount.set_defaults(run=run_mount)
    umount = commands.add_parser(
        "umount", help="unmount", description="Unmounts and waits until everything is written.",
        epilog="example: luciole umount /mnt/luciole")
    umount.add_argument("path", metavar="PATH", help="where it is mounted")
    umount.add_argument("--lazy", action="store_true",
                        help="detach now, end when the last program closes its files")
    umount.set_defaults(run=run_umount)


def _add_binding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fuse", choices=("direct", "pyfuse3"), help="how to speak with the kernel (default: "
        "fuse_binding of the client's configuration, which is direct)")


def _add_up(commands: Commands[argparse.ArgumentParser]) -> None:
    up = commands.add_parser(
        "up", help="make or start a local cluster", description="Makes a cluster of real "
        "processes on this machine, or starts the one that is there, and returns when it is "
        "healthy.", epilog="example: luciole up ./cluster --nodes 3 --replicas 2 --mount /mnt/l")
    up.add_argument("directory", nargs="?", default=DEFAULT_DIRECTORY, metavar="DIR",
                    help="directory of the cluster (default: ./cluster)")
    up.add_argument("--nodes", type=int, help="storage processes of a new cluster (default: 3)")
    up.add_argument("--replicas", type=int, help="copies of each chunk (default: 2)")
    up.add_argument("--targets-per-node", type=int, metavar="N",
                    help="targets of each storage process (default: 4)")
    up.add_argument("--managers", type=int, metavar="N",
                    help="cluster managers of a new cluster, 1 to 3 (default: 1)")
    up.add_argument("--metas", type=int, metavar="N",
                    help="metadata services of a new cluster (default: 1)")
    up.add_argument("--durability", choices=("process", "power"), help="what an acknowledged "
                    "write survives: the end of every process, or loss of power too (default: "
                    "process)")
    up.add_argument("--kv-capacity", type=trees.amount, metavar="SIZE", help="room on each storage "
                    "node for cached blocks of inference engines, 0: none (default: 1G)")
    up.add_argument("--mount", metavar="PATH", help="mount it there, too")
    _add_binding(up)
    up.add_argument("--port-base", type=port, metavar="N",
                    help="first port (default: first free block from 7400)")
    up.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS",
                    help="bound of the wait for health (default: 60)")
    up.add_argument("--json", action="store_true", help="print one JSON object")
    up.set_defaults(run=run_up)


def run_up(args: argparse.Namespace) -> int:
    """Makes or starts a cluster, and mounts it."""
    directory = ClusterDirectory(Path(args.directory))
    shape = Shape(args.nodes, args.replicas, args.targets_per_node, args.durability,
                  args.port_base, args.managers, args.metas, args.kv_capacity)
    directory.check_usable()
    place = mounts.absolute(args.mount) if args.mount else None
    if place is not None:
        mounts.clear_stale(place)
        if mounts.mounted_by(directory, place) is None:
            mounts.check_mount_point(place)
    made_here = not directory.path.exists()
    directory.path.mkdir(parents=True, exist_ok=True)
    try:
        with directory.locked(), progress(quiet=args.json) as report:
            _, status = local_cluster.up(directory, shape, args.timeout, report)
            if place is not None:
                report("mounting")
                mounts.mount(directory.config_file("client"), place, directory=directory,
                             binding=args.fuse)
    finally:
        # A refused request leaves no empty directory behind.
        if made_here and not any(directory.path.iterdir()):
            directory.path.rmdir()
    _print_up(directory, place, len(status.routing.chains), as_json=args.json)
    return 0


def _print_up(
    directory: ClusterDirectory, place: Path | None, chains: int, *, as_json: bool
) -> None:
    file = directory.read()
    if as_json:
        print_json({"cluster_id": file.cluster_id, "directory": str(directory.path),
                    "healthy": True, "nodes": file.nodes, "replicas": file.replicas,
                    "chains": chains, "port_base": file.port_base,
                    "mount": str(place) if place else None})
        return
    where = os.path.relpath(directory.path)
    shown = "" if where == DEFAULT_DIRECTORY else f" {where}"
    console = answers()
    console.print(f"cluster {file.cluster_id} is up: {file.nodes} storage nodes, {chains} chains "
                  f"of {file.replicas} replicas, ports from {file.port_base}", soft_wrap=True)
    if place is not None:
        console.print(f"mounted on {place}", soft_wrap=True)
    else:
        at = f" --dir {where}" if shown else ""
        console.print(f"mount it:  luciole mount PATH{at}", soft_wrap=True)
    console.print(f"look:      luciole status{shown}\nstop it:   luciole down{shown}",
                  soft_wrap=True)


def run_down(args: argparse.Namespace) -> int:
    """Stops a cluster."""
    directory = ClusterDirectory(Path(args.directory))
    directory.read()
    with directory.locked(), progress(quiet=args.json) as report:
        done = local_cluster.down(directory, args.timeout, report)
    if args.json:
        print_json(vars(done))
        return 0
    for note in done.notes:
        notes().print(f"luciole: {note}")
    for name in done.killed:
        notes().print(f"luciole: {name} did not end within {args.timeout:.0f} s and was killed")
    text = f"stopped {len(done.stopped)} processes" if done.stopped else "nothing was running"
    unmounted = f", unmounted {', '.join(done.mounts)}" if done.mounts else ""
    answers().print(f"{text}{unmounted}", soft_wrap=True)
    return 0


def run_mount(args: argparse.Namespace) -> int:
    """Mounts, in a daemon or here."""
    directory = None if args.config else ClusterDirectory(Path(args.dir))
    if directory is not None:
        directory.client_config()
    config_file = Path(args.config) if args.config else directory.config_file("client") \
        if directory else Path()
    place = mounts.absolute(args.path)
    if args.foreground:
        return _serve_mount(
            config_file, place, args.pid_file, args.fuse, read_only=args.read_only)
    load(config_file, ClientConfig)
    if directory is None:
        record = mounts.mount(config_file, place, directory=None, seconds=args.timeout,
                              binding=args.fuse, read_only=args.read_only)
    else:
        with directory.locked(), progress(quiet=args.json) as report:
            report("mounting")
            record = mounts.mount(
                config_file, place, directory=directory, seconds=args.timeout,
                binding=args.fuse, read_only=args.read_only)
    if args.json:
        print_json({"mount": str(place), "pid": record.pid})
    else:
        answers().print(f"mounted on {place}; `luciole umount {place}` ends it", soft_wrap=True)
    return 0


def _serve_mount(
    config_file: Path, place: Path, pid_file: str | None, binding: str | None, *, read_only: bool
) -> int:
    config = load(config_file, ClientConfig)
    if binding is not None:
        config = msgspec.convert(
            msgspec.to_builtins(config) | {"fuse_binding": binding}, ClientConfig)
    config = msgspec.structs.replace(config, read_only=config.read_only or read_only)
    configure(level=config.log_level)
    own = Path(pid_file) if pid_file else None
    if own is not None:
        record = processes.record_of(os.getpid(), str(place))
        assert record is not None
        processes.write_record(own, record)
    try:
        serve_mount(config, place, allow_other=os.geteuid() == 0, tree=BlockTree)
    finally:
        if own is not None:
            own.unlink(missing_ok=True)
    return 0


def run_umount(args: argparse.Namespace) -> int:
    """Unmounts."""
    place = mounts.absolute(args.path)
    mounts.unmount(place, lazy=args.lazy)
    answers().print(f"unmounted {place}", soft_wrap=True)
    return 0
