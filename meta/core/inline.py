"""Inline data: the first bytes of a file that was born small, in a record beside its inode.

Layer: pure. A regular file is in one of two states. Either all of it is in chunks, or it is
*inline*: its first 8 KiB are in the record `INLN`, and chunks hold only what lies behind them.
Small files thus have no chunk at all, and one that grows keeps its beginning here: nothing is ever
moved between record and chunks, so no crash can come in between.

- A file becomes inline by a writer's report that carries patches, and then must have no chunk and
  get none: its length is 0, and nobody else may be writing it (`sessions.others_may_write`). Else
  the report is refused with NOT_INLINE, and the writer uses chunks.
- It stays so until it is cut to 0 while nobody else may be writing it. So whoever has a write
  session knows the state: it does not change under him.
- Patches are laid over the record in the transaction of their report, whoever else writes: what two
  clients write to different bytes is kept, as in a chunk.

`Inode.inline_bytes` is the record's length; there is none when it is 0. It ends at the file's
length at the latest, and what it lacks below the length is zeros.
"""

from __future__ import annotations

from luciole.errors import Kind, require
from luciole.inline import is_inline, overlaid
from luciole.kv.interface import Transaction
from luciole.limits import INLINE_BYTES_MAX
from luciole.meta.core import schema, sessions
from luciole.proto import meta_pb2


def _key(inode: meta_pb2.Inode) -> bytes:
    return schema.listed_key(schema.INLINE, inode.inode_id)


async def load(txn: Transaction, inode: meta_pb2.Inode) -> bytes:
    """The record of an inode; empty when there is none."""
    if not inode.inline_bytes:
        return b""
    value = await txn.get(_key(inode))
    subject = f"content of inode {inode.inode_id}"
    require(value is not None, Kind.INTERNAL, "the record is missing: run fsck", subject)
    return schema.decode_bytes(value or b"", subject)


def _store(txn: Transaction, inode: meta_pb2.Inode, content: bytes) -> None:
    inode.inline_bytes = len(content)
    if content:
        txn.set(_key(inode), schema.encode_bytes(content))
    else:
        txn.clear(_key(inode))


async def begin(
    txn: Transaction, inode: meta_pb2.Inode, hint: meta_pb2.LengthHint, client_id: bytes
) -> None:
    """Before a report with patches counts: the file is inline, or becomes so.

    Raises FsError NOT_INLINE when it has chunks, or may get some.
    """
    subject = f"inode {inode.inode_id}"
    require(bool(hint.mtime_ns), Kind.INVALID_ARGUMENT, "patches without the time of a write",
            subject)
    require(all(patch.offset + len(patch.data) <= INLINE_BYTES_MAX for patch in hint.patches),
            Kind.INVALID_ARGUMENT, f"a patch reaches beyond {INLINE_BYTES_MAX} bytes", subject)
    if is_inline(inode):
        return
    without_chunks = inode.HasField("allocated") and not (
        inode.length or inode.allocated or inode.trim_pending)
    small = 0 < hint.length <= INLINE_BYTES_MAX
    require(without_chunks and small and not await sessions.others_may_write(
        txn, inode.inode_id, client_id), Kind.NOT_INLINE,
        "the file has chunks, or others may be writing some", subject)
    inode.inline_bytes = 0


async def write(
    txn: Transaction, inode: meta_pb2.Inode, hint: meta_pb2.LengthHint
) -> None:
    """Lays the patches of a report that counted over the record; the caller stores the inode.

    What reaches beyond the length was never there: it would come up when the file grows.
    """
    content = overlaid(await load(txn, inode), hint.patches)
    _store(txn, inode, content[: inode.length])


async def cut(txn: Transaction, inode: meta_pb2.Inode, *, others_may_write: bool) -> None:
    """The length has become smaller; the caller stores the inode."""
    if not is_inline(inode):
        return
    if inode.inline_bytes > inode.length:
        _store(txn, inode, (await load(txn, inode))[: inode.length])
    if not inode.length and not others_may_write:
        inode.ClearField("inline_bytes")


def drop(txn: Transaction, inode: meta_pb2.Inode) -> None:
    """The inode goes."""
    if inode.inline_bytes:
        txn.clear(_key(inode))
