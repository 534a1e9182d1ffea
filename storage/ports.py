"""What the storage service asks of the rest of the cluster."""

from __future__ import annotations

from typing import Protocol

from luciole.proto import mgmtd_pb2
from luciole.proto.services import StorageStub
from luciole.routing import RoutingTable
from luciole.rpc.interface import Memory
from luciole.rpc.reach import Choice


class Routing(Protocol):
    """The newest routing that this process knows."""

    def current(self) -> RoutingTable:
        """The table. Raises FsError UNAVAILABLE before the first arrived."""

    async def newer_than(self, version: int, timeout: float) -> RoutingTable:
        """Waits up to `timeout` seconds for a newer table; returns the current one either way."""


class Peers(Protocol):
    """Connections to other storage services."""

    @property
    def memory(self) -> Memory:
        """Where bytes for them, and from them, may lie so that they need not be moved."""

    def storage(self, node: mgmtd_pb2.Node) -> StorageStub:
        """A stub of the service on `node`."""

    def way(self, node: mgmtd_pb2.Node) -> Choice | None:
        """By what calls go to a node; None: none was answered yet."""


class Fence(Protocol):
    """Whether the manager has heard from this process lately."""

    def check(self) -> None:
        """Raises FsError NOT_SERVING when its lease is in doubt."""
