"""One caller per peer address, made by whichever transport suits the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from luciole.proto import mgmtd_pb2
from luciole.proto.services import Caller, KvCacheStub, MetaStub, MgmtdStub, StorageStub


@runtime_checkable
class Severable(Protocol):
    """A caller whose calls under way can be made to fail."""

    def sever(self) -> None:
        """Makes them fail now."""


class Connections:
    """Callers by address. Making one opens nothing; they connect when used."""

    def __init__(self, connect: Callable[[tuple[str, int]], Caller]) -> None:
        self._connect = connect
        self._callers: dict[tuple[str, int], Caller] = {}

    def caller(self, address: tuple[str, int]) -> Caller:
        """The caller of an address."""
        known = self._callers.get(address)
        if known is None:
            # Two threads may both make one; the loser's is unused and holds nothing.
            known = self._callers.setdefault(address, self._connect(address))
        return known

    def sever(self, node: mgmtd_pb2.Node) -> None:
        """Ends every call to a node that is known to be dead.

        A process that stands still keeps its connections, and a call would wait for its deadline.
        """
        caller: object = self._callers.get((node.host, node.rpc_port))
        if isinstance(caller, Severable):
            caller.sever()

    def storage(self, node: mgmtd_pb2.Node) -> StorageStub:
        """The storage service of a node."""
        return StorageStub(self.caller((node.host, node.rpc_port)))

    def kv_cache(self, node: mgmtd_pb2.Node) -> KvCacheStub:
        """The KV cache of a node."""
        return KvCacheStub(self.caller((node.host, node.rpc_port)))

    def meta(self, node: mgmtd_pb2.Node) -> MetaStub:
        """The metadata service of a node."""
        return MetaStub(self.caller((node.host, node.rpc_port)))

    def mgmtd(self, address: tuple[str, int]) -> MgmtdStub:
        """The manager at an address."""
        return MgmtdStub(self.caller(address))
