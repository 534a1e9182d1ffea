"""Usage of quota roots: two counters, and the limits that they are held to.

Layer: pure. Every inode names the root that it counts for (`Inode.quota_root`, inherited when it is
made). The counters of a root are at any time the number and the lengths of the inodes that name it:
whatever makes, drops or resizes an inode adds the difference atomically, so that creates below one
root do not conflict. Limits are checked against a snapshot, unless a request wants more than a
64th of the room that is left: then the counter is read with conflict checking, so that usage
passes a limit at most by what is under way at one moment in requests that are that small.
"""

from __future__ import annotations

from luciole.errors import Kind, require
from luciole.kv.interface import Transaction
from luciole.meta.core import schema
from luciole.proto import meta_pb2

SMALL = 64


def count(txn: Transaction, root: int, size: int, inodes: int = 0) -> None:
    """Adds bytes and inodes (either may be negative) to the usage of `root`; 0: no root."""
    if not root:
        return
    if size:
        txn.add(schema.listed_key(schema.BYTES_USED, root), size)
    if inodes:
        txn.add(schema.listed_key(schema.INODES_USED, root), inodes)


async def charge(txn: Transaction, root: int, size: int, inodes: int = 0) -> None:
    """Counts what somebody asks for. Raises FsError QUOTA_EXCEEDED when a limit forbids it."""
    await check(txn, root, size, inodes)
    count(txn, root, size, inodes)


async def check(txn: Transaction, root: int, size: int, inodes: int) -> None:
    """Raises FsError QUOTA_EXCEEDED unless there is room for as much more."""
    if root and (size > 0 or inodes > 0):
        quota = await load(txn, root)
        if size > 0 and quota is not None:
            await _check(txn, root, schema.BYTES_USED, quota.bytes_limit, size)
        if inodes > 0 and quota is not None:
            await _check(txn, root, schema.INODES_USED, quota.inodes_limit, inodes)


async def _check(txn: Transaction, root: int, prefix: bytes, limit: int, wanted: int) -> None:
    if not limit:
        return
    key = schema.listed_key(prefix, root)
    used = schema.decode_counter(await txn.get(key, snapshot=True))
    if wanted * SMALL > limit - used:
        used = schema.decode_counter(await txn.get(key))
    what = "bytes" if prefix == schema.BYTES_USED else "inodes"
    require(used + wanted <= limit, Kind.QUOTA_EXCEEDED, f"the quota of {limit} {what} is used up "
            f"({used} are in use): remove something, or raise it", f"directory {root}")


async def load(
    txn: Transaction, root: int, *, snapshot: bool = True
) -> meta_pb2.Quota | None:
    """The stored record of a root: its limits."""
    value = await txn.get(schema.listed_key(schema.QUOTA, root), snapshot=snapshot)
    return None if value is None else schema.decode(value, meta_pb2.Quota, f"quota {root}")


async def with_usage(txn: Transaction, quotas: list[meta_pb2.Quota]) -> list[meta_pb2.Quota]:
    """Fills the counters into records, in place: one read for all."""
    keys = [schema.listed_key(prefix, quota.inode_id) for quota in quotas
            for prefix in (schema.BYTES_USED, schema.INODES_USED)]
    keys.append(schema.QUOTA_WALK)
    values = await txn.get_many(keys, snapshot=True)
    walk = values.pop()
    under_way = schema.decode(walk, meta_pb2.QuotaWalk, "quota walk") if walk else None
    for index, quota in enumerate(quotas):
        quota.bytes_used = schema.decode_counter(values[2 * index])
        quota.inodes_used = schema.decode_counter(values[2 * index + 1])
        quota.pending = under_way is not None and quota.inode_id in {
            under_way.source, under_way.target}
    return quotas
