"""A mount through the direct binding: threads serve the device, trio keeps the client alive.

Layer: shell.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from luciole.client.fuse.attributes import UNTOLD_S
from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.around import Around
from luciole.client.fuse.direct.channel import Channel
from luciole.client.fuse.direct.context import Context, Freshness
from luciole.client.fuse.direct.dispatch import Dispatcher
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.messages import Validity
from luciole.client.fuse.direct.negotiation import REQUEST_BYTES_MAX
from luciole.client.fuse.direct.server import Server
from luciole.client.fuse.direct.twins import Twins
from luciole.client.fuse.read_ahead import set_read_ahead
from luciole.client.operations import Operations
from luciole.client.remote.connections import connections_of
from luciole.client.sends import Sends
from luciole.client.session import Client
from luciole.client.side_tree import MakeTree
from luciole.config import ClientConfig
from luciole.log import get_logger
from luciole.process import Loop, run_loops
from luciole.proto import meta_pb2
from luciole.rpc.tcp_client import BlockingCaller
from luciole.runtime import ThreadRuntime, drive

log = get_logger("mount")
CLOSE_SECONDS = 20.0
# Chunks on their way at once, of all files: as many as one file has, or a processor each. More of
# them only make each other dearer (docs/performance.md).
SENDS_MAX = max(8, len(os.sched_getaffinity(0)))


class KernelCaches:
    """What the kernel has cached of a mount."""

    def __init__(self, channel: Channel, drop: Callable[[int], None]) -> None:
        self._channel = channel
        self._drop = drop

    def forget(self, change: meta_pb2.Change) -> None:
        """Takes pages, attributes and names back."""
        for inode_id in change.inode_ids:
            self._drop(inode_id)
        for changed in change.entries:
            self._channel.invalidate_entry(changed.parent, changed.name)

    def forget_all(self, inode_ids: Sequence[int]) -> None:
        """Takes all names back, and these inodes; an open asks for every other one anew."""
        self._channel.forget_names()
        for inode_id in inode_ids:
            self._drop(inode_id)


def start_server(
    operations: Operations, mount_point: Path, *, allow_other: bool, attribute_seconds: float,
    entry_seconds: float, read_only: bool = False, feed: Freshness | None = None,
    read_around_bytes: int = 0,
) -> Server:
    """Mounts `operations`, which block (ThreadRuntime), and serves them on threads.

    The kernel may cache for the seconds given while `feed` is live, else for a second at most.
    Raises FsError when it cannot mount.
    """
    channel = Channel(mounting.mount(
        mount_point, allow_other=allow_other, max_read=REQUEST_BYTES_MAX, read_only=read_only))
    twins = Twins()
    around = Around(operations, channel, twins, read_around_bytes)
    context = Context(
        operations, Validity.of(attribute_seconds, entry_seconds),
        Validity.of(min(attribute_seconds, UNTOLD_S), min(entry_seconds, UNTOLD_S)),
        Drops(operations, channel.invalidate_inode, around.disturbed), feed, twins=twins,
        around=around, store_page=channel.store)
    server = Server(channel, Dispatcher(context))
    server.start()
    return server


def serve_direct(
    config: ClientConfig, mount_point: Path, *, allow_other: bool,
    make_caller: type[BlockingCaller] = BlockingCaller, tree: MakeTree | None = None,
) -> None:
    """Mounts and serves until unmounted or SIGTERM. Raises FsError when it cannot mount.

    All calls to services go through a `make_caller`, which may count them.
    """
    client = Client(
        config, ThreadRuntime(), connections_of(config, f"mount {mount_point}", make_caller),
        kind="fuse", mount_point=str(mount_point), spawn=Sends(SENDS_MAX).spawn, tree=tree)
    drive(client.connect())
    server = start_server(
        client.operations, mount_point, allow_other=allow_other,
        attribute_seconds=config.attribute_cache_seconds,
        entry_seconds=config.entry_cache_seconds, read_only=config.read_only, feed=client.feed,
        read_around_bytes=config.read_around_bytes)
    client.caches = KernelCaches(server.channel, server.context.drops.drop)
    trio.run(_serve, config, mount_point, client, server)


async def _serve(config: ClientConfig, mount_point: Path, client: Client, server: Server) -> None:
    async def unmounted() -> None:
        await trio.to_thread.run_sync(server.wait_unmounted, abandon_on_cancel=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(
            trio.to_thread.run_sync, set_read_ahead, mount_point, config.read_ahead_bytes,
            abandon_on_cancel=True))
        nursery.start_soon(partial(
            trio.to_thread.run_sync, server.background.open, mount_point, abandon_on_cancel=True))
        try:
            await run_loops([
                Loop("routing", 0, client.manager.follow),
                Loop("changes", 0, client.feed.follow),
                Loop("session", config.session_seconds, client.keep_session),
            ], until=unmounted)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await trio.to_thread.run_sync(
                    _end, mount_point, client, server, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def _end(mount_point: Path, client: Client, server: Server) -> None:
    """Takes the mount away, writes out what it holds, and says good-bye.

    A mount in use that is told to stop goes on serving those who use it meanwhile, until the end of
    the process aborts it.
    """
    mounting.detach(mount_point)
    if server.wait_unmounted(0.0):
        server.wait_finished(CLOSE_SECONDS / 2)
    refused = server.dispatcher.refused
    log.info("mount_ended", refused={
        errno.errorcode.get(number, str(number)): count for number, count in refused.items()})
    drive(client.operations.close_all())
    drive(client.end_session())
