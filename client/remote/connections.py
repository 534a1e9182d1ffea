"""One caller per peer address, made by whichever transport suits the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from luciole.config import ClientConfig, MetaConfig, StorageConfig
from luciole.proto import mgmtd_pb2
from luciole.proto.services import Caller, KvCacheStub, MetaStub, MgmtdStub, StorageStub
from luciole.rpc.interface import Memory
from luciole.rpc.rdma_device import Settings
from luciole.rpc.reach import Choice, NodeCaller
from luciole.rpc.tcp_client import BlockingCaller


@runtime_checkable
class Severable(Protocol):
    """A caller whose calls under way can be made to fail."""

    def sever(self) -> None:
        """Makes them fail now."""


@runtime_checkable
class Closable(Protocol):
    """A caller that holds connections."""

    def close(self) -> None:
        """Gives them up."""


def plain(size: int) -> memoryview:
    """Memory that nobody is lent."""
    return memoryview(bytearray(size))


class Connections:
    """Callers by address. Making one opens nothing; they connect when used.

    Args:
        connect: makes the caller of an address.
        reach: makes the caller of a node that is perhaps on this machine; None: as any other.
        memory: where bytes for nodes, and from them, may lie so that the best of transports has
            no need to move them.
    """

    def __init__(
        self, connect: Callable[[tuple[str, int]], Caller],
        reach: Callable[[mgmtd_pb2.Node], Caller] | None = None,
        memory: Memory = plain,
    ) -> None:
        self._connect = connect
        self._reach = reach
        self.memory = memory
        self._guard = threading.Lock()  # of making the caller of a node
        self._callers: dict[tuple[str, int], Caller] = {}
        self._nodes: dict[tuple[str, int], tuple[str, Caller]] = {}

    def caller(self, address: tuple[str, int]) -> Caller:
        """The caller of an address."""
        known = self._callers.get(address)
        if known is None:
            # Two threads may both make one; the loser's is unused and holds nothing.
            known = self._callers.setdefault(address, self._connect(address))
        return known

    def node(self, node: mgmtd_pb2.Node) -> Caller:
        """The caller of a node, over whatever reaches it best."""
        address, local = (node.host, node.rpc_port), node.local
        if self._reach is None or not local:
            return self.caller(address)
        known = self._nodes.get(address)
        if known is not None and known[0] == local:
            return known[1]
        with self._guard:  # a second one would be used, too, and nobody would close it
            known = self._nodes.get(address)
            if known is not None and known[0] == local:
                return known[1]
            old: object = known[1] if known is not None else None
            if isinstance(old, Closable):
                old.close()  # it led to a process that is no more
            made = self._reach(node)
            self._nodes[address] = local, made
            return made

    def way(self, node: mgmtd_pb2.Node) -> Choice | None:
        """By what calls go to a node; None: none was answered yet."""
        if self._reach is None or not node.local:
            return Choice("tcp", "the node announces no socket for callers on its machine")
        known = self._nodes.get((node.host, node.rpc_port))
        caller: object = known[1] if known is not None and known[0] == node.local else None
        return caller.choice if isinstance(caller, NodeCaller) else None

    def sever(self, node: mgmtd_pb2.Node) -> None:
        """Ends every call to a node that is known to be dead.

        A process that stands still keeps its connections, and a call would wait for its deadline.
        """
        address = node.host, node.rpc_port
        known = self._nodes.get(address)
        callers: list[object] = [self._callers.get(address), known[1] if known else None]
        for caller in callers:
            if isinstance(caller, Severable):
                caller.sever()

    def close(self) -> None:
        """Ends every call under way and gives all connections up. Callers are made anew."""
        callers: list[object] = [
            *self._callers.values(), *(made for _, made in self._nodes.values())]
        self._callers, self._nodes = {}, {}
        for caller in callers:
            if isinstance(caller, Severable):
                caller.sever()
            if isinstance(caller, Closable):
                caller.close()

    def storage(self, node: mgmtd_pb2.Node) -> StorageStub:
        """The storage service of a node."""
        return StorageStub(self.node(node))

    def kv_cache(self, node: mgmtd_pb2.Node) -> KvCacheStub:
        """The KV cache of a node."""
        return KvCacheStub(self.node(node))

    def meta(self, node: mgmtd_pb2.Node) -> MetaStub:
        """The metadata service of a node."""
        return MetaStub(self.node(node))

    def mgmtd(self, address: tuple[str, int]) -> MgmtdStub:
        """The manager at an address."""
        return MgmtdStub(self.caller(address))


Reaching = ClientConfig | MetaConfig | StorageConfig


def rdma_settings(config: Reaching) -> Settings:
    """What a configuration says of the RDMA device."""
    return Settings(
        config.rdma_device, config.rdma_port, config.rdma_gid_index, config.rdma_setup)


def connections_of(
    config: Reaching, name: str, make: type[BlockingCaller] = BlockingCaller, *,
    memory: Memory = plain,
) -> Connections:
    """Connections whose waits block, by the configured `transport`; `name` is for logs."""

    def connect(address: tuple[str, int]) -> Caller:
        return make(address, cluster_id=config.cluster_id, name=name)

    def reach(node: mgmtd_pb2.Node) -> Caller:
        return NodeCaller(
            (node.host, node.rpc_port), node.local, config.transport,
            cluster_id=config.cluster_id, name=name, make=make, rdma=rdma_settings(config))

    return Connections(connect, reach, memory)
