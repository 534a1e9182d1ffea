"""`RoutingTable`: the manager's routing, indexed. Immutable; a newer one replaces it whole.

Layer: pure.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, storage_pb2

# Replicas that hold every acknowledged byte and may answer.
SERVING = mgmtd_pb2.SERVING
# Replicas that a write must reach: the serving ones, and the one that is catching up.
WRITTEN = (mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING)


class RoutingTable:
    """Finds chains, targets and nodes."""

    def __init__(self, routing: mgmtd_pb2.Routing) -> None:
        self.routing = routing
        self.version = routing.version
        self._chains = {chain.chain_id: chain for chain in routing.chains}
        self._nodes = {node.node_id: node for node in routing.nodes}
        self._target_node = {target.target_id: target.node_id for target in routing.targets}
        self._tables = {(table.table_id, table.version): table for table in routing.tables}

    def chain(self, chain_id: int) -> mgmtd_pb2.Chain:
        """Raises FsError CHAIN_VERSION_MISMATCH when the chain is not known here (yet)."""
        chain = self._chains.get(chain_id)
        if chain is None:
            raise FsError(Kind.CHAIN_VERSION_MISMATCH, f"routing {self.version} has no such chain",
                          f"chain {chain_id}")
        return chain

    def chains(self) -> list[mgmtd_pb2.Chain]:
        """All chains."""
        return list(self._chains.values())

    def table(self, table_id: int, version: int) -> mgmtd_pb2.ChainTable:
        """Raises FsError UNAVAILABLE when the table is not known here (yet)."""
        table = self._tables.get((table_id, version))
        if table is None:
            raise FsError(Kind.UNAVAILABLE, f"routing {self.version} has no such chain table",
                          f"table {table_id} version {version}")
        return table

    def newest_table(self, table_id: int) -> mgmtd_pb2.ChainTable | None:
        """The table's latest version, or None."""
        versions = [table for (number, _), table in self._tables.items() if number == table_id]
        return max(versions, key=lambda table: table.version, default=None)

    def node(self, node_id: int) -> mgmtd_pb2.Node:
        """Raises FsError UNAVAILABLE for a node that is not registered."""
        node = self._nodes.get(node_id)
        if node is None:
            raise FsError(Kind.UNAVAILABLE, f"routing {self.version} has no such node",
                          f"node {node_id}")
        return node

    def nodes(self, kind: mgmtd_pb2.NodeKind) -> list[mgmtd_pb2.Node]:
        """Nodes of one kind."""
        return [node for node in self._nodes.values() if node.kind == kind]

    def kv_volumes(self) -> dict[int, int]:
        """Capacity of each volume of the KV cache that can be reached, by node id."""
        return {node.node_id: node.kv_capacity_bytes for node in self._nodes.values()
                if node.kv_capacity_bytes and node.state == mgmtd_pb2.CONNECTED}

    def kv_namespaces(self) -> list[mgmtd_pb2.KvNamespace]:
        """All namespaces of the KV cache."""
        return list(self.routing.kv_namespaces)

    def node_of(self, target_id: int) -> mgmtd_pb2.Node:
        """The node that runs a target."""
        node_id = self._target_node.get(target_id)
        if node_id is None:
            raise FsError(Kind.UNAVAILABLE, f"routing {self.version} has no such target",
                          f"target {target_id}")
        return self.node(node_id)


def versioned(chain: mgmtd_pb2.Chain) -> storage_pb2.VersionedChain:
    """A chain as a request names it: whoever knows another version of it refuses."""
    return storage_pb2.VersionedChain(chain_id=chain.chain_id, version=chain.version)


def serving_targets(chain: mgmtd_pb2.Chain) -> list[int]:
    """Targets that may answer, head first."""
    return [target.target_id for target in chain.targets if target.state == SERVING]


def written_targets(chain: mgmtd_pb2.Chain) -> list[int]:
    """Targets that a write must reach, head first."""
    return [target.target_id for target in chain.targets if target.state in WRITTEN]


def head(chain: mgmtd_pb2.Chain) -> int:
    """The target that takes writes. Raises FsError NOT_SERVING when none serves."""
    serving = serving_targets(chain)
    if not serving:
        raise FsError(Kind.NOT_SERVING, "no target of the chain serves now: `luciole status` "
                      "shows which node is missing", f"chain {chain.chain_id}")
    return serving[0]


def successor(chain: mgmtd_pb2.Chain, target_id: int) -> tuple[int, bool] | None:
    """(next target that a write must reach, whether it is syncing), or None at the end."""
    written = [target for target in chain.targets if target.state in WRITTEN]
    ids = [target.target_id for target in written]
    position = ids.index(target_id) + 1
    if position == len(ids):
        return None
    return ids[position], written[position].state == mgmtd_pb2.SYNCING
