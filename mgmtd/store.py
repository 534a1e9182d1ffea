"""The manager's records in the key-value store.

Layer: shell. Keys: docs/data-layout.md. The routing version is raised in every transaction that
changes what routing shows. Every transaction of a primary reads the lease record too
(mgmtd/primary.py), so that one which was deposed meanwhile cannot commit.
"""

from __future__ import annotations

from typing import TypeVar

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction, prefix_end
from luciole.proto import mgmtd_pb2

NODE = b"NODE"
TARGET = b"TGIF"
CHAIN = b"CHIF"
TABLE = b"CHIT"
CONFIG = b"CONF"
KV_NAMESPACE = b"KVNS"
KV_NEXT_NAMESPACE = b"SINGkv-next-namespace"
CLUSTER_ID = b"SINGcluster-id"
ROUTING_VERSION = b"SINGrouting-version"
PRIMARY = b"SINGprimary-manager"
FORMAT = b"SINGformat"
FORMAT_VERSION = 1
VALUE_VERSION = b"\x01"


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


async def create_cluster(txn: Transaction, cluster_id: str) -> None:
    """Writes the cluster's identity. Raises FsError WRONG_CLUSTER if there is another already."""
    known = await txn.get(CLUSTER_ID)
    if known is not None and known.decode() != cluster_id:
        raise FsError(Kind.WRONG_CLUSTER, f"the store belongs to cluster {known.decode()!r}",
                      cluster_id)
    await check_format(txn)
    if known is None:
        txn.set(CLUSTER_ID, cluster_id.encode())
        txn.set(FORMAT, _number(FORMAT_VERSION))
        txn.set(ROUTING_VERSION, (1).to_bytes(8, "little"))


async def check_format(txn: Transaction) -> None:
    """Raises FsError CONFIG_INVALID when a newer program wrote the store."""
    found = await txn.get(FORMAT)
    if found is not None and int.from_bytes(found, "big") > FORMAT_VERSION:
        raise FsError(Kind.CONFIG_INVALID, f"the store has format {int.from_bytes(found, 'big')}, "
                      f"this program knows {FORMAT_VERSION}: use a newer version of luciole")


async def load_routing(txn: Transaction) -> mgmtd_pb2.Routing:
    """Everything that routing shows. Node states are the primary's to fill in."""
    cluster_id = await txn.get(CLUSTER_ID)
    if cluster_id is None:
        raise FsError(Kind.CONFIG_INVALID, "the store holds no cluster: create one first")
    version = await txn.get(ROUTING_VERSION)
    routing = mgmtd_pb2.Routing(
        version=int.from_bytes(version or b"", "little"), cluster_id=cluster_id.decode())
    routing.nodes.extend(await _all(txn, NODE, mgmtd_pb2.Node))
    routing.targets.extend(await _all(txn, TARGET, mgmtd_pb2.Target))
    routing.chains.extend(await _all(txn, CHAIN, mgmtd_pb2.Chain))
    routing.tables.extend(await _all(txn, TABLE, mgmtd_pb2.ChainTable))
    routing.kv_namespaces.extend(await _all(txn, KV_NAMESPACE, mgmtd_pb2.KvNamespace))
    return routing


Record = (mgmtd_pb2.Node | mgmtd_pb2.Target | mgmtd_pb2.Chain | mgmtd_pb2.ChainTable
          | mgmtd_pb2.PrimaryLease | mgmtd_pb2.KvNamespace)
RecordT = TypeVar(
    "RecordT", mgmtd_pb2.Node, mgmtd_pb2.Target, mgmtd_pb2.Chain, mgmtd_pb2.ChainTable,
    mgmtd_pb2.KvNamespace)


async def _all(
    txn: Transaction, prefix: bytes, kind: type[RecordT]
) -> list[RecordT]:
    rows = await txn.get_range(prefix, prefix_end(prefix))
    found = []
    for row in rows:
        record = kind()
        record.ParseFromString(_checked(row.value))
        found.append(record)
    return found


def _checked(value: bytes) -> bytes:
    """The record behind its version byte. Raises FsError CONFIG_INVALID for a newer one."""
    if value[:1] != VALUE_VERSION:
        raise FsError(Kind.CONFIG_INVALID, f"a record has format {value[:1]!r}, this program knows "
                      f"{VALUE_VERSION!r}: use a newer version of luciole")
    return value[1:]


def _put(txn: Transaction, key: bytes, record: Record) -> None:
    txn.set(key, VALUE_VERSION + record.SerializeToString())


def put_node(txn: Transaction, node: mgmtd_pb2.Node) -> None:
    """Stores a node."""
    _put(txn, NODE + _number(node.node_id), node)


def put_target(txn: Transaction, target: mgmtd_pb2.Target) -> None:
    """Stores where a target is."""
    _put(txn, TARGET + _number(target.target_id), target)


def put_chain(txn: Transaction, chain: mgmtd_pb2.Chain) -> None:
    """Stores a chain."""
    _put(txn, CHAIN + _number(chain.chain_id), chain)


def put_table(txn: Transaction, table: mgmtd_pb2.ChainTable) -> None:
    """Stores one version of a chain table."""
    _put(txn, TABLE + _number(table.table_id) + _number(table.version), table)


async def next_kv_namespace(txn: Transaction) -> int:
    """The id of the next namespace of the KV cache."""
    return int.from_bytes(await txn.get(KV_NEXT_NAMESPACE) or _number(1), "big")


def put_kv_namespace(txn: Transaction, record: mgmtd_pb2.KvNamespace, next_id: int) -> None:
    """Stores a namespace of the KV cache; `next_id` is the least id that was never given."""
    _put(txn, KV_NAMESPACE + _number(record.namespace_id), record)
    txn.set(KV_NEXT_NAMESPACE, _number(next_id))


def drop_kv_namespace(txn: Transaction, namespace_id: int) -> None:
    """Forgets a namespace of the KV cache."""
    txn.clear(KV_NAMESPACE + _number(namespace_id))


async def get_primary(txn: Transaction) -> mgmtd_pb2.PrimaryLease | None:
    """The lease of the primary manager; None before the first. Conflicts with every change."""
    value = await txn.get(PRIMARY)
    return None if value is None else mgmtd_pb2.PrimaryLease.FromString(value[1:])


def put_primary(txn: Transaction, lease: mgmtd_pb2.PrimaryLease) -> None:
    """Stores the lease of the primary manager."""
    _put(txn, PRIMARY, lease)


async def raise_version(txn: Transaction) -> int:
    """The next routing version."""
    known = int.from_bytes(await txn.get(ROUTING_VERSION) or b"", "little")
    txn.set(ROUTING_VERSION, (known + 1).to_bytes(8, "little"))
    return known + 1


async def get_config(txn: Transaction, service: str) -> tuple[int, str]:
    """(version, TOML) of a service's configuration; (0, "") when none was set."""
    value = await txn.get(CONFIG + service.encode())
    if value is None:
        return 0, ""
    record = _checked(value)
    return int.from_bytes(record[:8], "little"), record[8:].decode()


def put_config(txn: Transaction, service: str, version: int, content: str) -> None:
    """Stores a service's configuration."""
    txn.set(CONFIG + service.encode(),
            VALUE_VERSION + version.to_bytes(8, "little") + content.encode())
