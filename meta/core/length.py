"""The length of a file: reported by writers, changed by truncate.

Layer: pure. A writer reports the furthest end it reached, with the truncate version under which
it wrote: a report from before a later cut is void.

A cut sets the length, raises the truncate version and marks the inode `trim_pending` in one
transaction; the service then removes the chunks beyond the length and clears the mark in a second
one. Until then the file may not grow over the old bytes, so whatever would lengthen it finishes
the trim first. The `TRIM` list lets any server resume after a crash. Several may finish one cut:
each lists what is there, asks whether the mark still stands, and removes what it has listed,
so that none takes what was written after another had cleared the mark.

An append is given its place by moving `append_end`, not the length: a reader does not see it before
its writer reports it. Whoever is given the next place comes behind it, so that no two appends meet.
`allocated` is the sum of what writers report, and counted anew where that is not enough.
"""

from __future__ import annotations

from luciole import waiting
from luciole.errors import Kind, require
from luciole.inline import chunks_end, is_inline
from luciole.kv.interface import Transaction
from luciole.limits import CHUNKS_PER_FILE_MAX, INLINE_BYTES_MAX
from luciole.meta.core import access, inline, inodes, posix_acl, schema, sessions, usage
from luciole.proto import meta_pb2


def check(inode: meta_pb2.Inode, length: int) -> None:
    """Raises FsError FILE_TOO_LARGE when the layout has no chunk ids for so long a file."""
    most = inode.layout.chunk_size * CHUNKS_PER_FILE_MAX
    require(length <= most, Kind.FILE_TOO_LARGE, f"a file of this layout has at most {most} bytes",
            f"inode {inode.inode_id}")


def set_length(
    inode: meta_pb2.Inode, length: int, now_ns: int, *, foreign_writer: bool
) -> None:
    """Changes the length in place; a cut leaves a trim to do if chunks may lie behind it.

    So does any change while another client may have written beyond the length unreported.
    """
    before = chunks_end(inode)
    if length < inode.length or foreign_writer:
        inode.truncate_version += 1
    inode.length = inode.append_end = length
    if before > chunks_end(inode) or foreign_writer:
        inode.trim_pending = True
    inode.data_version += 1
    if not length and inode.HasField("allocated"):
        inode.allocated = 0
    inode.mtime_ns = inode.ctime_ns = now_ns


async def change(
    txn: Transaction, inode: meta_pb2.Inode, length: int, now_ns: int, client_id: bytes
) -> None:
    """Sets the length for a client, in place, with what is inline."""
    others = await sessions.others_may_write(txn, inode.inode_id, client_id)
    was_cut = length < inode.length
    set_length(inode, length, now_ns, foreign_writer=others)
    if was_cut:
        await inline.cut(txn, inode, others_may_write=others)


def store(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """Stores the inode, and lists it while a trim is pending."""
    inodes.store(txn, inode)
    if inode.trim_pending:
        txn.set(schema.listed_key(schema.TRIM, inode.inode_id), b"")


def apply_hint(inode: meta_pb2.Inode, hint: meta_pb2.LengthHint) -> bool:
    """Takes a writer's report; returns whether the inode changed."""
    changed = False
    check(inode, hint.length)
    if hint.truncate_version == inode.truncate_version and hint.length > inode.length:
        inode.length = hint.length
        changed = True
    if hint.truncate_version != inode.truncate_version:
        pass  # what it took may be gone: the trim counts, and its writer will
    elif hint.HasField("allocated"):
        inode.allocated = hint.allocated
        changed = True
    elif hint.allocated_change and inode.HasField("allocated"):
        inode.allocated = max(0, inode.allocated + hint.allocated_change)
        changed = True
    if hint.mtime_ns:
        inode.data_version += 1
        inode.mtime_ns = max(inode.mtime_ns, hint.mtime_ns)
        inode.ctime_ns = max(inode.ctime_ns, hint.mtime_ns)
        changed = True
    # Unless it was given away meanwhile: then the new owner's word came last.
    if hint.HasField("waiting") and access.owns(inode, hint.waiting.credential):
        waiting.apply(inode, hint.waiting)
        inode.acl_access = posix_acl.after_chmod(inode.acl_access, inode.mode)
        changed = True
    return changed


async def apply_report(
    txn: Transaction, inode: meta_pb2.Inode, hint: meta_pb2.LengthHint, client_id: bytes = b""
) -> bool:
    """Takes a writer's report and counts its bytes, which are there whatever a quota says.

    Raises FsError NOT_INLINE when it has patches that have to go to chunks.
    """
    before = inode.length
    patched = bool(hint.patches) and hint.truncate_version == inode.truncate_version
    if patched:
        await inline.begin(txn, inode, hint, client_id)
    changed = apply_hint(inode, hint)
    if patched:
        await inline.write(txn, inode, hint)
    usage.count(txn, inode.quota_root, inode.length - before)
    return changed


def give_place(inode: meta_pb2.Inode, count: int) -> int:
    """Reserves `count` bytes behind all that is known; returns where they begin."""
    offset = max(inode.length, inode.append_end)
    check(inode, offset + count)
    inode.append_end = offset + count
    return offset


def note_uncertain(
    txn: Transaction, inode: meta_pb2.Inode, hint: meta_pb2.LengthHint, now_ns: int
) -> None:
    """Lists a file of which a write failed: where it ends is looked up once nothing can come."""
    if hint.uncertain:
        txn.set(schema.listed_key(schema.UNREPORTED, inode.inode_id), now_ns.to_bytes(8, "little"))


async def recover(
    txn: Transaction, seen: meta_pb2.Inode, data_end: int, allocated: int, now_ns: int
) -> None:
    """Takes in what a dead writer wrote and never reported, unless the file was cut since.

    The bytes of blocks were counted after `seen` was read: they say nothing while somebody writes,
    whose next report tells a change that was counted already. Then they are counted again later.
    """
    key = schema.listed_key(schema.UNREPORTED, seen.inode_id)
    txn.clear(key)
    value = await txn.get(schema.inode_key(seen.inode_id))
    if value is None:
        return
    inode = schema.decode(value, meta_pb2.Inode, f"inode {seen.inode_id}")
    if is_inline(inode) and data_end <= INLINE_BYTES_MAX:
        data_end = 0  # came late, from before the file was inline: nobody sees it
    hint = meta_pb2.LengthHint(length=data_end, truncate_version=seen.truncate_version)
    if inode.data_version != seen.data_version or await sessions.are_writing(txn, seen.inode_id):
        txn.set(key, now_ns.to_bytes(8, "little") + sessions.LOOKED_FOR)
    else:
        hint.allocated = allocated
    if not inode.trim_pending and await apply_report(txn, inode, hint):
        inodes.store(txn, inode)
