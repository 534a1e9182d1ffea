"""One client of a cluster: its connections, its routing, its lease with the manager.

Layer: shell. `Client` is what a mount, a gateway or a command holds; its `run_*` loops are run by
whoever owns it (trio tasks in the pyfuse3 mount); the direct mount runs
their steps on threads (process.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from luciole.client.operations import Operations
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.feed import ChangeFeed
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.client.remote.meta import MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.client.side_tree import MakeTree, OperationsWithTree
from luciole.client.write_buffer import Spawn
from luciole.config import ClientConfig
from luciole.errors import FsError
from luciole.log import get_logger
from luciole.proto import meta_pb2, mgmtd_pb2
from luciole.runtime import Runtime

log = get_logger("client")
FIRST_ROUTING_S = 10.0
RETRY_PAUSE_S = 0.5
# Of an answer that a change has overtaken: nobody can be told any more that it is old.
BELIEVE_S = 1.0


class Caches(Protocol):
    """What somebody above keeps of this client's answers: the kernel, of a mount."""

    def forget(self, change: meta_pb2.Change) -> None:
        """Others changed something."""

    def forget_all(self, inode_ids: Sequence[int]) -> None:
        """Others may have changed anything, the files with these ids too, which are open."""


class Client:
    """A client with an identity of its own. `tree` makes what stands beside the namespace."""

    def __init__(
        self,
        config: ClientConfig,
        runtime: Runtime,
        connections: Connections,
        *,
        kind: str,
        mount_point: str = "",
        spawn: Spawn | None = None,
        tree: MakeTree | None = None,
    ) -> None:
        self.config = config
        self._runtime = runtime
        self.client_id = runtime.entropy.token(16)
        self.connections = connections
        self.routing = RoutingCache(runtime)
        self.manager = Manager(runtime, connections, config.mgmtd, self.routing)
        self.meta = MetaClient(
            runtime, connections, self.routing, self.client_id,
            attempt_seconds=config.request_timeout_seconds,
            total_seconds=config.total_timeout_seconds)
        self.chunks = ChunkClient(
            runtime, connections, self.routing, self.client_id,
            attempt_seconds=config.request_timeout_seconds,
            total_seconds=config.total_timeout_seconds)
        self.packed = PackedReader(
            runtime, connections, self.routing, self.chunks,
            attempt_seconds=config.request_timeout_seconds)
        make: Callable[..., Operations] = Operations if tree is None else partial(
            OperationsWithTree, tree=tree(runtime, connections, self.routing))
        self.operations = make(
            runtime, self.meta, self.chunks, self.packed, write_limit=config.write_buffer_bytes,
            hold_seconds=config.hold_seconds,
            believe_seconds=min(config.attribute_cache_seconds, BELIEVE_S), spawn=spawn)
        self.feed = ChangeFeed(runtime, self.meta, heard=self._heard, lost=self._lost)
        self.operations.locks.told = self.feed
        self.caches: Caches | None = None
        self._session = mgmtd_pb2.ClientSession(
            client_id=self.client_id, host=socket.gethostname(), mount_point=mount_point,
            kind=kind, pid=os.getpid(), started_ns=runtime.clock.wall_ns())

    def _heard(self, change: meta_pb2.Change) -> None:
        self.operations.forget(change.inode_ids)
        if self.caches is not None:
            self.caches.forget(change)

    def _lost(self) -> None:
        self.operations.forget_all()
        if self.caches is not None:
            self.caches.forget_all(self.operations.open_files())

    async def connect(self) -> None:
        """Learns the routing and begins the lease. Raises FsError within ten seconds."""
        await self.manager.wait_for_routing(FIRST_ROUTING_S)
        await self.extend_session()

    async def extend_session(self) -> None:
        """Shows the manager that this client lives. Raises FsError."""
        request = mgmtd_pb2.ExtendClientSessionRequest(
            cluster_id=self.config.cluster_id, session=self._session)
        sent_at = self._runtime.clock.now()
        reply = await self.manager.call(lambda stub: stub.extend_client_session(
            request, timeout=self.config.request_timeout_seconds))
        self.operations.locks.extend_lease(sent_at, reply.lease_ms / 1000)

    async def end_session(self) -> None:
        """Says good-bye. A manager that cannot be reached will notice by itself."""
        request = mgmtd_pb2.EndClientSessionRequest(client_id=self.client_id)
        try:
            await self.manager.call(
                lambda stub: stub.end_client_session(request, timeout=2.0))
        except FsError as failure:
            log.info("session_not_ended", error=str(failure))

    async def run_routing(self) -> None:
        """Keeps the routing up to date, for ever."""
        while True:
            try:
                await self.manager.follow()
            except FsError as failure:
                log.info("routing_unavailable", error=str(failure))
                await self._runtime.sleep(RETRY_PAUSE_S)

    async def keep_session(self) -> None:
        """Extends the lease and registers files that stay open. Raises FsError."""
        await self.extend_session()
        await self.operations.hold_once()

    async def run_session(self) -> None:
        """Keeps the lease and the files that are open, for ever."""
        while True:
            await self._runtime.sleep(self.config.session_seconds)
            try:
                await self.keep_session()
            except FsError as failure:
                log.info("session_not_extended", error=str(failure))
