"""Raw pages of the key space, for fsck. Read-only snapshots."""

from __future__ import annotations

from luciole.kv.interface import KeyValue, Transaction, key_after, prefix_end
from luciole.meta.core import inodes, schema, usage
from luciole.proto import meta_pb2

PAGE_MAX = 1000
UNREACHABLE = schema.GARBAGE[:3]
assert schema.FREED.startswith(UNREACHABLE)
assert schema.DETACHED.startswith(UNREACHABLE)
assert schema.TRASHED.startswith(UNREACHABLE)


async def _page(
    txn: Transaction, prefix: bytes, request: meta_pb2.ScanRequest
) -> tuple[list[KeyValue], meta_pb2.ScanReply]:
    limit = min(request.limit or PAGE_MAX, PAGE_MAX)
    begin = key_after(request.after) if request.after else prefix
    rows = await txn.get_range(begin, prefix_end(prefix), limit=limit, snapshot=True)
    reply = meta_pb2.ScanReply(more=len(rows) == limit)
    if rows:
        reply.last = rows[-1].key
    return rows, reply


async def scan_inodes(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """Inodes in key order."""
    rows, reply = await _page(txn, schema.INODE, request)
    found = [schema.decode(row.value, meta_pb2.Inode, repr(row.key)) for row in rows]
    reply.inodes.extend(await inodes.complete(txn, found))
    return reply


async def scan_dentries(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """Entries of all directories in key order."""
    rows, reply = await _page(txn, schema.DENTRY, request)
    reply.dentries.extend(
        schema.decode_dentry(schema.inode_id_of(row.key), row.key[12:], row.value)
        for row in rows)
    return reply


async def scan_sessions(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """Open sessions in key order."""
    rows, reply = await _page(txn, schema.SESSION, request)
    reply.sessions.extend(
        schema.decode(row.value, meta_pb2.Session, repr(row.key)) for row in rows)
    return reply


async def scan_garbage(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """Inodes whose chunks are being removed, or were lately; removed trees; the trash."""
    rows, reply = await _page(txn, UNREACHABLE, request)
    reply.garbage.extend(
        schema.decode(row.value, meta_pb2.Inode, repr(row.key)).inode_id for row in rows)
    return reply


async def scan_contents(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """How long the inline parts of files are, in key order."""
    rows, reply = await _page(txn, schema.INLINE, request)
    for row in rows:
        content = schema.decode_bytes(row.value, repr(row.key))
        reply.contents.add(inode_id=schema.inode_id_of(row.key), length=len(content))
    return reply


async def scan_quotas(txn: Transaction, request: meta_pb2.ScanRequest) -> meta_pb2.ScanReply:
    """Quota roots in key order, with their usage."""
    rows, reply = await _page(txn, schema.QUOTA, request)
    found = [schema.decode(row.value, meta_pb2.Quota, repr(row.key)) for row in rows]
    reply.quotas.extend(await usage.with_usage(txn, found))
    return reply
