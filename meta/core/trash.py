"""The trash: what is removed below a directory that has one is kept for a while.

Layer: pure. A policy (`TRSH`) stands on a directory and holds for everything below it that no
nearer policy covers; it is found by walking up from where something is removed. To applications
nothing differs: the name is gone, and the link count is zero. A file that loses its last name keeps
its inode, as an orphan would, and a directory that is removed with all that is below it loses its
inode only, as when it were detached; in both cases the record in the trash (`GART`) stands in the
place of the entry in the list of orphans or of detached trees. When it expires, the inode goes
over to that list. Empty directories (rmdir) are not kept.

What is in the trash counts for quotas as before, except for the top of a tree itself.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import KeyValue, Transaction, key_after, prefix_end
from luciole.meta.core import access, inodes, quota, schema, usage
from luciole.meta.core.create import check_absent, check_new_name
from luciole.meta.core.environment import Environment
from luciole.proto import common_pb2, meta_pb2

DEPTH_MAX = 4096
PAGE = 200
POLICIES_MAX = 10_000


def item_key(directory: int, time_ns: int, inode_id: int) -> bytes:
    """`GART` + directory + big-endian time + inode id: in order of removal."""
    return (schema.listed_key(schema.TRASHED, directory) + time_ns.to_bytes(8, "big")
            + inode_id.to_bytes(8, "little"))


async def _find(txn: Transaction, directory: int) -> int:
    """The directory whose trash takes what is removed from `directory`; 0: none does."""
    if not await txn.get_range(
            schema.TRASH, prefix_end(schema.TRASH), limit=1, snapshot=True):
        return 0
    for _ in range(DEPTH_MAX):
        policy, value = await txn.get_many(
            [schema.listed_key(schema.TRASH, directory), schema.inode_key(directory)],
            snapshot=True)
        if policy and not schema.decode(policy, meta_pb2.Trash, f"trash {directory}").disabled:
            return directory
        if value is None or directory == schema.ROOT_ID:
            return 0
        directory = schema.decode(value, meta_pb2.Inode, f"inode {directory}").parent
    return 0


async def _put(
    txn: Transaction, inode: meta_pb2.Inode, parent: int, name: bytes,
    *, uid: int, now_ns: int,
) -> bool:
    """Puts a record of the inode into the trash, if there is one for it."""
    directory = await _find(txn, parent)
    if not directory:
        return False
    item = meta_pb2.Inode()
    item.CopyFrom(inode)
    item.trashed.CopyFrom(meta_pb2.Trashed(
        directory=directory, parent=parent, name=name, uid=uid, time_ns=now_ns))
    txn.set(item_key(directory, now_ns, inode.inode_id), schema.encode(item))
    return True


async def drop_link(
    txn: Transaction, inode: meta_pb2.Inode, parent: int, name: bytes,
    *, uid: int, now_ns: int,
) -> None:
    """As `inodes.drop_link`; but a file that loses its last name may go to the trash."""
    if inode.nlink == 1 and await _put(txn, inode, parent, name, uid=uid, now_ns=now_ns):
        inode.nlink = 0
        inode.ctime_ns = inode.unlinked_ns = now_ns
        inodes.store(txn, inode)
    else:
        inodes.drop_link(txn, inode, now_ns)


async def keep_tree(
    txn: Transaction, top: meta_pb2.Inode, parent: int, name: bytes,
    *, uid: int, now_ns: int,
) -> bool:
    """Takes the inode of a tree's top into the trash, if there is one for it."""
    if not await _put(txn, top, parent, name, uid=uid, now_ns=now_ns):
        return False
    txn.clear(schema.inode_key(top.inode_id))
    txn.add(schema.INODE_COUNT, -1)
    usage.count(txn, top.quota_root, -top.length, -1)
    return True


async def set_trash(txn: Transaction, request: meta_pb2.SetTrashRequest) -> meta_pb2.TrashReply:
    """Makes, changes or disables the trash of a directory; its owner and root may."""
    directory = await inodes.load_directory(txn, request.inode_id)
    access.check_owner(directory, request.credential)
    key = schema.listed_key(schema.TRASH, directory.inode_id)
    value = await txn.get(key)
    if value is None and not request.keep_seconds:
        raise FsError(Kind.NOT_FOUND, "the directory has no trash", f"inode {request.inode_id}")
    policy = meta_pb2.Trash(inode_id=directory.inode_id) if value is None else schema.decode(
        value, meta_pb2.Trash, f"trash {directory.inode_id}")
    policy.disabled = not request.keep_seconds
    policy.keep_seconds = request.keep_seconds or policy.keep_seconds
    txn.set(key, schema.encode(policy))
    return meta_pb2.TrashReply(trash=policy)


async def get_trash(txn: Transaction, request: meta_pb2.StatRequest) -> meta_pb2.TrashReply:
    """The policy that holds for what is removed from a directory."""
    found = await _find(txn, request.inode_id)
    value = await txn.get(schema.listed_key(schema.TRASH, found or request.inode_id))
    if value is None:
        return meta_pb2.TrashReply()
    return meta_pb2.TrashReply(trash=schema.decode(value, meta_pb2.Trash, f"trash {found}"))


async def _page(txn: Transaction, directory: int, after: bytes = b"") -> list[KeyValue]:
    prefix = schema.listed_key(schema.TRASHED, directory)
    begin = key_after(after) if after else prefix
    return await txn.get_range(begin, prefix_end(prefix), limit=PAGE, snapshot=True)


def _decode(value: bytes) -> meta_pb2.Inode:
    return schema.decode(value, meta_pb2.Inode, "item of the trash")


def _may_take(item: meta_pb2.Inode, credential: common_pb2.Credential) -> bool:
    return credential.uid in {0, item.uid, item.trashed.uid}


async def list_trash(
    txn: Transaction, request: meta_pb2.ListTrashRequest
) -> meta_pb2.ListTrashReply:
    """One page: everything for the directory's owner, for others what they owned or removed."""
    directory = await inodes.load_directory(txn, request.inode_id)
    rows = await _page(txn, request.inode_id, request.after)
    reply = meta_pb2.ListTrashReply(more=len(rows) == PAGE, last=rows[-1].key if rows else b"")
    everything = access.owns(directory, request.credential)
    reply.inodes.extend(item for item in (_decode(row.value) for row in rows)
                        if everything or _may_take(item, request.credential))
    return reply


async def restore(
    txn: Transaction, request: meta_pb2.RestoreRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Gives an item a name again. Whoever owned or removed it, and root, may."""
    key = item_key(request.directory, request.time_ns, request.inode_id)
    value = await txn.get(key)
    about = f"inode {request.inode_id}"
    if value is None:
        raise FsError(Kind.NOT_FOUND, "it is not in the trash any more", about)
    item = _decode(value)
    require(_may_take(item, request.credential), Kind.NOT_PERMITTED,
            "only who owned or removed it, or root, may restore it", about)
    parent_id = request.parent or item.trashed.parent
    name = request.name or item.trashed.name
    parent = await check_new_name(txn, parent_id, name, request.credential)
    await check_absent(txn, parent_id, name)
    txn.clear(key)
    if item.type == meta_pb2.DIRECTORY:
        inode = item
        inode.ClearField("trashed")
        inode.parent = parent_id
        if inode.quota_root == inode.inode_id and await usage.load(txn, inode.inode_id) is None:
            inode.quota_root = parent.quota_root  # nothing was below it, and the quota went
        await usage.charge(txn, inode.quota_root, inode.length, 1)
        txn.add(schema.INODE_COUNT, 1)
    else:
        inode = await inodes.load_record(txn, request.inode_id)
        inode.nlink, inode.unlinked_ns = 1, 0
    inode.ctime_ns = env.now_ns
    await quota.adopt(txn, inode, parent, strict=inode.type == meta_pb2.DIRECTORY)
    inodes.store(txn, inode)
    inodes.add_dentry(txn, parent_id, name, inode)
    inodes.touch_directory(
        txn, parent_id, env.now_ns, subdirectories=int(inode.type == meta_pb2.DIRECTORY))
    return meta_pb2.InodeReply(inode=inode)


async def empty(
    txn: Transaction, request: meta_pb2.EmptyTrashRequest, env: Environment
) -> meta_pb2.EmptyTrashReply:
    """Expires one page of a directory's trash; its owner and root may."""
    directory = await inodes.load_directory(txn, request.inode_id)
    access.check_owner(directory, request.credential)
    removed = await expire(txn, request.inode_id, env.now_ns, env.now_ns)
    return meta_pb2.EmptyTrashReply(removed=removed, more=removed == PAGE)


async def expire(txn: Transaction, directory: int, before_ns: int, now_ns: int) -> int:
    """Lets one page of what was removed up to `before_ns` go; returns how many."""
    gone = 0
    for row in await _page(txn, directory):
        value = await txn.get(row.key)  # not restored meanwhile?
        if value is None:
            continue
        item = _decode(value)
        if item.trashed.time_ns > before_ns:
            break
        txn.clear(row.key)
        gone += 1
        if item.type == meta_pb2.DIRECTORY:
            item.ClearField("trashed")
            inodes.drop_beside(txn, item)
            txn.set(schema.listed_key(schema.DETACHED, item.inode_id), schema.encode(item))
            continue
        inode = await inodes.load_record(txn, item.inode_id)
        if inode.type == meta_pb2.SYMLINK:
            inodes.drop(txn, inode)
        else:
            inodes.store_orphan(txn, inode, now_ns)
    return gone


async def policies(txn: Transaction) -> list[meta_pb2.Trash]:
    """All of them."""
    rows = await txn.get_range(
        schema.TRASH, prefix_end(schema.TRASH), limit=POLICIES_MAX, snapshot=True)
    return [schema.decode(row.value, meta_pb2.Trash, repr(row.key)) for row in rows]


async def forget(txn: Transaction, directory: int) -> None:
    """Forgets a policy that is disabled, and whose trash is empty."""
    key = schema.listed_key(schema.TRASH, directory)
    value = await txn.get(key)
    if value is None or await _page(txn, directory):
        return
    gone = await txn.get(schema.inode_key(directory)) is None
    if gone or schema.decode(value, meta_pb2.Trash, f"trash {directory}").disabled:
        txn.clear(key)
