"""open, close, fsync: sessions and the length that writers report.

Layer: pure. A writer reports the furthest end it reached, with the truncate version under which
it wrote: a report from before a later cut is void. fsync and close make the length exact for
whoever opens next.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction
from luciole.meta.core import access, inodes, length, sessions, usage, xattrs
from luciole.meta.core.environment import Environment
from luciole.proto import meta_pb2

OpenOrCreate = meta_pb2.OpenRequest | meta_pb2.CreateRequest


def begin_session(
    txn: Transaction, request: OpenOrCreate, inode_id: int, now_ns: int
) -> None:
    """A write-open has a session; a read-open has none."""
    if request.session_id:
        sessions.begin(txn, meta_pb2.Session(
            client_id=request.request_id.client_id, session_id=request.session_id,
            inode_id=inode_id, opened_ns=now_ns, write=request.write))


async def open_existing(
    txn: Transaction, inode: meta_pb2.Inode, request: OpenOrCreate, env: Environment
) -> meta_pb2.Inode:
    """Checks the right to open, cuts if asked, records a write session."""
    if inode.type == meta_pb2.DIRECTORY and (request.write or request.truncate):
        raise FsError(Kind.IS_DIRECTORY, "a directory cannot be written", f"{inode.inode_id}")
    if inode.type not in {meta_pb2.REGULAR, meta_pb2.DIRECTORY}:
        raise FsError(Kind.INVALID_ARGUMENT, "only regular files are opened here; the kernel opens "
                      "fifos, sockets and devices", f"inode {inode.inode_id}")
    want = (access.READ if request.read else 0) | (
        access.WRITE if request.write or request.truncate else 0)
    access.check_access(inode, request.credential, want)
    if request.truncate:
        usage.count(txn, inode.quota_root, -inode.length)
        await length.change(txn, inode, 0, env.now_ns, request.request_id.client_id)
        if request.credential.uid != 0:
            inode.mode = access.mode_after_change(inode)
        await xattrs.drop_capability(txn, inode)
        length.store(txn, inode)
    begin_session(txn, request, inode.inode_id, env.now_ns)
    return inode


async def open_file(
    txn: Transaction, request: meta_pb2.OpenRequest, env: Environment
) -> meta_pb2.InodeReply:
    """Opens by inode id."""
    inode = await inodes.load_record(txn, request.inode_id)
    inode = await open_existing(txn, inode, request, env)
    return meta_pb2.InodeReply(inode=(await inodes.complete(txn, [inode]))[0])


async def fsync(
    txn: Transaction, request: meta_pb2.FsyncRequest, now_ns: int
) -> meta_pb2.InodeReply:
    """Makes the length known to all. The session must be open."""
    inode = await inodes.load_record(txn, request.inode_id)
    await sessions.need(txn, request.inode_id, request.session_id)
    if await length.apply_report(txn, inode, request.hint, request.request_id.client_id):
        if request.hint.mtime_ns:
            await xattrs.drop_capability(txn, inode)
        inodes.store(txn, inode)
    length.note_uncertain(txn, inode, request.hint, now_ns)
    return meta_pb2.InodeReply(inode=inode)


async def append(
    txn: Transaction, request: meta_pb2.AppendRequest
) -> meta_pb2.AppendReply:
    """Gives bytes that are to be appended a place of their own. The session must be open."""
    inode = await inodes.load_record(txn, request.inode_id)
    await sessions.need(txn, request.inode_id, request.session_id)
    await length.apply_report(txn, inode, request.hint, request.request_id.client_id)
    offset = length.give_place(inode, request.length)
    inodes.store(txn, inode)
    return meta_pb2.AppendReply(inode=inode, offset=offset)


async def close(
    txn: Transaction, request: meta_pb2.CloseRequest, now_ns: int
) -> meta_pb2.InodeReply:
    """Ends a session with its last report; without a report an unknown session is no error.

    Raises FsError NO_SESSION when there is a report and its session was dropped.
    """
    inode = await inodes.load_record(txn, request.inode_id)
    if await take_last_report(txn, inode, request, now_ns):
        inodes.store(txn, inode)
    return meta_pb2.InodeReply(inode=inode)


async def take_last_report(
    txn: Transaction, inode: meta_pb2.Inode,
    request: meta_pb2.CloseRequest | meta_pb2.SetAttrRequest, now_ns: int,
) -> bool:
    """Ends the session of the request; returns whether its report changed the inode, in place.

    Raises FsError NO_SESSION as `close`.
    """
    if request.hint.mtime_ns:
        await sessions.need(txn, request.inode_id, request.session_id)
    changed = await length.apply_report(
        txn, inode, request.hint, request.request_id.client_id)
    if changed and request.hint.mtime_ns:
        await xattrs.drop_capability(txn, inode)
    length.note_uncertain(txn, inode, request.hint, now_ns)
    sessions.end(
        txn, request.request_id.client_id, request.inode_id, request.session_id)
    return changed
