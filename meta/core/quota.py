"""Quota roots: making and ending them, and what moves between them.

Layer: pure. Accounting is turned on for a directory that may be full by a *walk*: it marks the
directory, so that what is made there from now on inherits the mark, and then works off a list of
directories (`QWLK`), page by page: files are marked and counted, directories marked, counted and
listed. Turning it off is the same walk back to the mark of the directory above. The counters are
true of marked inodes at every moment (usage.py), so a walk may be interrupted anywhere; when the
list is empty, all that belongs to the root is marked. One walk at a time is under way in a cluster.

An inode counts for the nearest root at or above it, and for no other. As with project quotas of
XFS, directories are not renamed and files not linked from one root to another (EXDEV; mv copies),
except to where the walk under way would bring them anyway.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction, prefix_end
from luciole.meta.core import inodes, schema, usage
from luciole.proto import common_pb2, meta_pb2

ROOTS_MAX = 10_000
BATCH = 200


async def _walk(txn: Transaction) -> meta_pb2.QuotaWalk | None:
    value = await txn.get(schema.QUOTA_WALK)
    return None if value is None else schema.decode(value, meta_pb2.QuotaWalk, "quota walk")


async def set_quota(
    txn: Transaction, request: meta_pb2.SetQuotaRequest
) -> meta_pb2.QuotaReply:
    """Sets the limits of a directory, and begins to account for it if nobody did."""
    directory = await _need_right(txn, request.inode_id, request.credential)
    quota = await usage.load(txn, directory.inode_id, snapshot=False)
    quota = quota or meta_pb2.Quota(inode_id=directory.inode_id)
    if request.HasField("bytes_limit"):
        quota.bytes_limit = request.bytes_limit
    if request.HasField("inodes_limit"):
        quota.inodes_limit = request.inodes_limit
    if directory.quota_root != directory.inode_id:
        await _begin(txn, directory, directory.inode_id)
        quota.removed = False
    txn.set(schema.listed_key(schema.QUOTA, directory.inode_id), schema.encode(quota))
    return meta_pb2.QuotaReply(quota=quota)


async def remove_quota(
    txn: Transaction, request: meta_pb2.RemoveQuotaRequest
) -> meta_pb2.QuotaReply:
    """Ends the accounting of a directory; what is below counts for the root above, if any."""
    directory = await _need_right(txn, request.inode_id, request.credential)
    quota = await usage.load(txn, directory.inode_id, snapshot=False)
    if quota is None or directory.quota_root != directory.inode_id:
        raise FsError(Kind.NOT_FOUND, "the directory has no quota", f"inode {request.inode_id}")
    above = 0
    if directory.inode_id != schema.ROOT_ID:
        above = (await inodes.load_directory(txn, directory.parent)).quota_root
    await _begin(txn, directory, above)
    quota.removed, quota.bytes_limit, quota.inodes_limit = True, 0, 0
    txn.set(schema.listed_key(schema.QUOTA, directory.inode_id), schema.encode(quota))
    return meta_pb2.QuotaReply(quota=quota)


async def _need_right(
    txn: Transaction, inode_id: int, credential: common_pb2.Credential
) -> meta_pb2.Inode:
    require(credential.uid == 0, Kind.NOT_PERMITTED, "only root sets quotas", f"inode {inode_id}")
    return await inodes.load_directory(txn, inode_id)


async def _begin(txn: Transaction, directory: meta_pb2.Inode, target: int) -> None:
    """Begins the walk that brings a tree to the root `target`."""
    walk = await _walk(txn)
    require(walk is None, Kind.BUSY, "another directory is still being counted: wait until "
            "`luciole quota list` shows no pending one", f"directory {directory.inode_id}")
    walk = meta_pb2.QuotaWalk(source=directory.quota_root, target=target)
    _mark(txn, directory, target)
    if not await inodes.is_empty(txn, directory.inode_id):
        txn.set(schema.QUOTA_WALK, schema.encode(walk))
        _list(txn, directory.inode_id)


def _list(txn: Transaction, directory: int, after: bytes = b"") -> None:
    txn.set(schema.listed_key(schema.QUOTA_WALK_LIST, directory), schema.encode_bytes(after))


def _mark(txn: Transaction, inode: meta_pb2.Inode, root: int) -> None:
    """From now on the inode counts for `root`, and for no other."""
    usage.count(txn, inode.quota_root, -inode.length, -1)
    usage.count(txn, root, inode.length, 1)
    inode.quota_root = root
    inodes.store(txn, inode)


async def walk_on(txn: Transaction) -> bool:
    """One page of the walk under way; returns whether there may be more to do."""
    walk = await _walk(txn)
    if walk is None:
        return False
    listed = await txn.get_range(
        schema.QUOTA_WALK_LIST, prefix_end(schema.QUOTA_WALK_LIST), limit=1)
    if not listed:
        txn.clear(schema.QUOTA_WALK)
        return False
    directory = schema.inode_id_of(listed[0].key)
    after = schema.decode_bytes(listed[0].value, "quota walk")
    begin, end = schema.dentry_range(directory, after)
    rows = await txn.get_range(begin, end, limit=BATCH, snapshot=True)
    entries = [schema.decode_dentry(directory, row.key[12:], row.value) for row in rows]
    # A file may have several names on this page.
    children = list(dict.fromkeys(entry.inode_id for entry in entries))
    values = await txn.get_many([schema.inode_key(child) for child in children])
    for child, value in zip(children, values, strict=True):
        if value is None:
            continue  # removed since the page was read
        inode = schema.decode(value, meta_pb2.Inode, f"inode {child}")
        if inode.quota_root == walk.source and inode.inode_id != inode.quota_root:
            _mark(txn, inode, walk.target)
            if inode.type == meta_pb2.DIRECTORY:
                _list(txn, inode.inode_id)
    if len(rows) == BATCH:
        _list(txn, directory, entries[-1].name)
    else:
        txn.clear(listed[0].key)
    return True


async def adopt(
    txn: Transaction, inode: meta_pb2.Inode, directory: meta_pb2.Inode, *, strict: bool
) -> None:
    """An inode gets a name in `directory`, for whose root it counts from now on.

    Raises FsError CROSS_QUOTA for what is `strict`ly bound to its root, and QUOTA_EXCEEDED.
    """
    source, target = inode.quota_root, directory.quota_root
    if source in {target, inode.inode_id}:
        return
    walk = await _walk(txn)
    walking = walk is not None and (walk.source, walk.target) == (source, target)
    require(walking or not strict, Kind.CROSS_QUOTA, "it counts for another quota root than "
            f"directory {directory.inode_id}: copy it", f"inode {inode.inode_id}")
    if not walking:
        await usage.check(txn, target, inode.length, 1)
    _mark(txn, inode, target)
    if inode.type == meta_pb2.DIRECTORY:
        _list(txn, inode.inode_id)


async def move(
    txn: Transaction, inode: meta_pb2.Inode, source: meta_pb2.Inode, target: meta_pb2.Inode
) -> None:
    """An entry moves from the directory `source` to `target`. Raises as `adopt`."""
    if inode.quota_root == target.quota_root:
        return
    bound = inode.type == meta_pb2.DIRECTORY or inode.nlink > 1
    if source.quota_root != target.quota_root or not bound:
        await adopt(txn, inode, target, strict=bound)
        return
    walk = await _walk(txn)
    if walk is not None and (walk.source, walk.target) == (inode.quota_root, target.quota_root):
        await adopt(txn, inode, target, strict=True)


async def get_quota(txn: Transaction, request: meta_pb2.StatRequest) -> meta_pb2.QuotaReply:
    """Limits and usage of the root that an inode counts for: three reads, whatever its size."""
    inode = await inodes.load_record(txn, request.inode_id)
    quota = await usage.load(txn, inode.quota_root) if inode.quota_root else None
    if quota is None:
        return meta_pb2.QuotaReply()
    return meta_pb2.QuotaReply(quota=(await usage.with_usage(txn, [quota]))[0])


def narrowed(
    whole: meta_pb2.StatFsReply, quota: meta_pb2.Quota
) -> meta_pb2.StatFsReply:
    """statfs(2) below a quota root: its limits instead of the cluster's, where it has any."""
    if quota.bytes_limit:
        whole.free_bytes = min(whole.free_bytes, max(0, quota.bytes_limit - quota.bytes_used))
        whole.capacity_bytes = min(whole.capacity_bytes, quota.bytes_limit)
        whole.used_bytes = quota.bytes_used
    if quota.inodes_limit:
        whole.inodes, whole.inodes_limit = quota.inodes_used, quota.inodes_limit
    return whole


async def reap(txn: Transaction) -> int:
    """Forgets roots that were ended, or removed, and for which nothing counts any more."""
    rows = await txn.get_range(
        schema.QUOTA, prefix_end(schema.QUOTA), limit=ROOTS_MAX, snapshot=True)
    gone = 0
    for row in rows:
        root = schema.inode_id_of(row.key)
        quota = schema.decode(row.value, meta_pb2.Quota, f"quota {root}")
        if not quota.removed and await txn.get(schema.inode_key(root), snapshot=True):
            continue
        keys = [schema.listed_key(prefix, root) for prefix in (
            schema.INODES_USED, schema.BYTES_USED, schema.QUOTA)]
        current = await txn.get(keys[2])
        if schema.decode_counter(await txn.get(keys[0])) or current != row.value:
            continue
        for key in keys:
            txn.clear(key)
        gone += 1
    return gone
