"""The rest of the cluster as the metadata service sees it, through the manager.

Layer: shell. `ClusterView` implements `meta.ports.Cluster`.
"""

from __future__ import annotations

from luciole.client.remote.manager import Manager
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import Runtime

TABLE_ID = 1
SPACE_SECONDS = 2.0
CALL_TIMEOUT_S = 5.0


class ClusterView:
    """Layouts, space and live clients."""

    def __init__(
        self, runtime: Runtime, manager: Manager, *, chunk_size: int, stripe: int
    ) -> None:
        self._runtime = runtime
        self._manager = manager
        self._chunk_size = chunk_size
        self._stripe = stripe
        self._space = (0, 0, 0)
        self._space_until = 0.0

    async def new_layout(self) -> meta_pb2.Layout:
        """Stripes over the newest version of table 1, from a random chain on."""
        table = self._manager.routing.current().newest_table(TABLE_ID)
        if table is None:
            raise FsError(Kind.UNAVAILABLE, "the cluster has no chains yet: create them first")
        chains = len(table.chain_ids)
        return meta_pb2.Layout(
            table_id=table.table_id, table_version=table.version, chunk_size=self._chunk_size,
            stripe=min(self._stripe, chains), seed=self._runtime.entropy.below(chains))

    async def space(self) -> tuple[int, int, int]:
        """(capacity, free, used), at most two seconds old."""
        now = self._runtime.clock.now()
        if now >= self._space_until:
            status = await self._manager.call(
                lambda stub: stub.status(common_pb2.Empty(), timeout=CALL_TIMEOUT_S))
            self._space = (status.capacity_bytes, status.free_bytes, status.used_bytes)
            self._space_until = now + SPACE_SECONDS
        return self._space

    async def live_clients(self) -> set[bytes] | None:
        """Ids of clients with a lease; None while the manager is too young to say."""
        reply = await self._manager.call(
            lambda stub: stub.list_client_sessions(common_pb2.Empty(), timeout=CALL_TIMEOUT_S))
        if reply.bootstrapping:
            return None
        return {session.client_id for session in reply.sessions}
