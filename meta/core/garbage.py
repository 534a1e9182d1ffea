"""From the last unlink to the last chunk.

Layer: pure. A file without names stands in the `ORPH` list while somebody may hold it open. When
no session is left and the grace period is over, one transaction moves its whole record to `GARB`:
from then on nobody can reach it. Its chunks are removed, and the record goes to `GARF`, which is
worked off a grace period later: a write of a client that had given it up, or died, may have
reached a chain after the removal. Every step can be repeated, by any server.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.kv.interface import KeyValue, Transaction, key_after, prefix_end
from luciole.meta.core import inodes, schema
from luciole.proto import meta_pb2


async def page_of_list(
    txn: Transaction, list_prefix: bytes, after: bytes, limit: int
) -> list[KeyValue]:
    """Entries of `ORPH`, `GARB` or `TRIM` behind the key `after`."""
    begin = key_after(after) if after else list_prefix
    return await txn.get_range(begin, prefix_end(list_prefix), limit=limit, snapshot=True)


async def condemn(txn: Transaction, inode_id: int, before_ns: int) -> bool:
    """Moves an orphan to the garbage list unless it is open or was unlinked after `before_ns`."""
    orphan = schema.listed_key(schema.ORPHAN, inode_id)
    value = await txn.get(schema.inode_key(inode_id))
    if value is None:
        txn.clear(orphan)
        return False
    inode = schema.decode(value, meta_pb2.Inode, f"inode {inode_id}")
    if inode.nlink:
        # It was made without a name, and got one after the list was read.
        txn.clear(orphan)
        return False
    begin, end = schema.session_range(inode_id)
    if inode.unlinked_ns > before_ns or await txn.get_range(begin, end, limit=1):
        return False
    unreported = await txn.get(schema.listed_key(schema.UNREPORTED, inode_id))
    if inode.trim_pending or unreported is not None:
        return False  # its recorded length is not exact yet, and tells where its chunks are
    inodes.drop(txn, inode)
    txn.clear(orphan)
    txn.clear(schema.listed_key(schema.TRIM, inode_id))
    if inode.HasField("layout"):
        txn.set(schema.listed_key(schema.GARBAGE, inode_id), value)
    return True


def freed_key(freed_ns: int, inode_id: int) -> bytes:
    """`GARF` + big-endian time + inode id, so that the oldest come first."""
    return schema.FREED + freed_ns.to_bytes(8, "big") + inode_id.to_bytes(8, "little")


async def freed(txn: Transaction, files: Sequence[meta_pb2.Inode], now_ns: int) -> None:
    """The chunks were removed; what came late is looked for once more."""
    for inode in files:
        txn.clear(schema.listed_key(schema.GARBAGE, inode.inode_id))
        txn.set(freed_key(now_ns, inode.inode_id), schema.encode(inode))


async def forget(txn: Transaction, keys: Sequence[bytes]) -> None:
    """Nothing can come any more."""
    for key in keys:
        txn.clear(key)
