"""A mount through pyfuse3: everything is a task of one trio loop.

Layer: shell.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from luciole.client.fuse.attributes import UNTOLD_S
from luciole.client.fuse.pyfuse3_binding import Pyfuse3Binding
from luciole.client.fuse.read_ahead import set_read_ahead
from luciole.client.remote.connections import Connections
from luciole.client.session import Client
from luciole.client.side_tree import MakeTree
from luciole.config import ClientConfig
from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.proto.services import Caller
from luciole.rpc.tcp_client import TrioCaller
from luciole.runtime import TrioRuntime

log = get_logger("mount")
CLOSE_SECONDS = 20.0
MAX_TASKS = 64


def serve_pyfuse3(
    config: ClientConfig, mount_point: Path, *, allow_other: bool, tree: MakeTree | None = None
) -> None:
    """Mounts and serves until unmounted or SIGTERM. Raises FsError when it cannot mount."""
    trio.run(_serve, config, mount_point, allow_other, tree)


async def _serve(
    config: ClientConfig, mount_point: Path, allow_other: bool, tree: MakeTree | None
) -> None:
    async with trio.open_nursery() as nursery:
        client = _make_client(config, mount_point, nursery, tree)
        await client.connect()
        nursery.start_soon(client.run_routing)
        nursery.start_soon(client.run_session)
        binding = Pyfuse3Binding(
            client.operations, attribute_seconds=min(config.attribute_cache_seconds, UNTOLD_S),
            entry_seconds=min(config.entry_cache_seconds, UNTOLD_S))
        mount(binding, mount_point, allow_other=allow_other, read_only=config.read_only)
        try:
            nursery.start_soon(partial(
                trio.to_thread.run_sync, set_read_ahead, mount_point, config.read_ahead_bytes,
                abandon_on_cancel=True))
            nursery.start_soon(stop_on_signal)
            await pyfuse3.main(max_tasks=MAX_TASKS)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await client.operations.close_all()
                await client.end_session()
            pyfuse3.close(unmount=True)
        nursery.cancel_scope.cancel()


def _make_client(
    config: ClientConfig, mount_point: Path, nursery: trio.Nursery, tree: MakeTree | None
) -> Client:
    def connect(address: tuple[str, int]) -> Caller:
        return TrioCaller(address, cluster_id=config.cluster_id, name=f"mount {mount_point}")

    def spawn(run: Callable[[], Awaitable[None]]) -> None:
        nursery.start_soon(run)

    return Client(
        config, TrioRuntime(), Connections(connect), kind="fuse",
        mount_point=str(mount_point), spawn=spawn, tree=tree)


def mount(
    binding: Pyfuse3Binding, mount_point: Path, *, allow_other: bool, read_only: bool = False
) -> None:
    """Mounts; `pyfuse3.main` serves it then. Raises FsError CONFIG_INVALID with the remedy."""
    options = set(pyfuse3.default_options)
    options |= {"fsname=luciole", "subtype=luciole", "default_permissions"}
    if allow_other:
        options.add("allow_other")
    if read_only:
        options.add("ro")
    try:
        pyfuse3.init(binding, str(mount_point), options)
    except RuntimeError as failure:
        raise FsError(
            Kind.CONFIG_INVALID, f"the kernel refused the mount ({failure}): is /dev/fuse there, "
            "and is nothing mounted on it already?", str(mount_point)) from failure


async def stop_on_signal() -> None:
    """Ends `pyfuse3.main` on SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            pyfuse3.terminate()
