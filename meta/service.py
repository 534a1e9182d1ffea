"""The metadata service: each method one transaction, the same on every server.

Layer: shell. Holds no state but a block of unused inode ids; any server may serve any request.
Concurrency: handlers run on as many threads (or tasks) as there are callers; they meet only in
the key-value store, whose transactions order them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from luciole.errors import FsError, Kind
from luciole.inline import chunks_end
from luciole.kv.interface import KeyValueStore, Transaction
from luciole.meta.core import (
    changes,
    create,
    directory,
    idempotency,
    link,
    locks,
    lookup,
    open_file,
    quota,
    remove_tree,
    rename,
    scan,
    schema,
    sessions,
    set_attr,
    trash,
    truncate,
    xattrs,
)
from luciole.meta.core.environment import Environment
from luciole.meta.durable import ChunksBehindStore
from luciole.meta.inode_ids import InodeIds
from luciole.meta.ports import Chunks, Cluster
from luciole.proto import common_pb2, meta_pb2
from luciole.proto.services import Call
from luciole.runtime import Runtime

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)
TRIM_ATTEMPTS = 5
ANSWER_S = 0.5  # left of a deadline for the way back
OWN_CHANGES_S = 0.02
LOCK_WAIT_S_MAX = 20.0
LOCK_PAGES_MAX = 16  # of changes that the answer to a lock tells


class MetaService:
    """Handler of the service Meta."""

    def __init__(
        self, kv: KeyValueStore, runtime: Runtime, chunks: Chunks, cluster: Cluster
    ) -> None:
        self._kv = changes.NotingStore(kv, runtime.clock.wall_ns)
        self._runtime = runtime
        self._chunks: Chunks = ChunksBehindStore(kv, chunks)
        self._cluster = cluster
        self._inode_ids = InodeIds(kv, runtime)

    async def start(self) -> None:
        """Makes the root directory of a new namespace."""
        now_ns = self._runtime.clock.wall_ns()
        await self._kv.run(lambda txn: create.make_root(txn, now_ns))

    async def _read(
        self, request: RequestT, operation: Callable[[Transaction, RequestT], Awaitable[ReplyT]]
    ) -> ReplyT:
        return await self._kv.run(lambda txn: operation(txn, request))

    async def _change(
        self,
        request_id: common_pb2.RequestId,
        reply_type: type[ReplyT],
        operation: Callable[[Transaction], Awaitable[ReplyT]],
    ) -> ReplyT:
        return await self._kv.run(
            lambda txn: idempotency.once(
                txn, request_id, reply_type, lambda: operation(txn)))

    async def _environment(self, *, inode: bool = False, layout: bool = False) -> Environment:
        return Environment(
            now_ns=self._runtime.clock.wall_ns(),
            new_inode_id=await self._inode_ids.take() if inode else 0,
            new_layout=await self._cluster.new_layout() if layout else None,
        )

    # Reading.

    async def lookup(self, request: meta_pb2.LookupRequest, call: Call) -> meta_pb2.InodeReply:
        """Finds a name."""
        return await self._read(request, lookup.lookup)

    async def lookup_many(
        self, request: meta_pb2.LookupManyRequest, call: Call
    ) -> meta_pb2.LookupManyReply:
        """Finds many names at once."""
        return await self._read(request, lookup.lookup_many)

    async def stat(self, request: meta_pb2.StatRequest, call: Call) -> meta_pb2.InodeReply:
        """Tells an inode's attributes."""
        return await self._read(request, lookup.stat)

    async def batch_stat(
        self, request: meta_pb2.BatchStatRequest, call: Call
    ) -> meta_pb2.BatchStatReply:
        """Tells the attributes of many inodes."""
        return await self._read(request, lookup.batch_stat)

    async def read_link(self, request: meta_pb2.StatRequest, call: Call) -> meta_pb2.InodeReply:
        """Tells where a symbolic link points."""
        return await self._read(request, lookup.read_link)

    async def read_dir(
        self, request: meta_pb2.ReadDirRequest, call: Call
    ) -> meta_pb2.ReadDirReply:
        """Lists one page of a directory."""
        return await self._read(request, directory.read_dir)

    async def stat_fs(self, request: meta_pb2.StatRequest, call: Call) -> meta_pb2.StatFsReply:
        """Tells space and number of inodes: of the cluster, or of the quota that is there."""
        async def count(txn: Transaction) -> int:
            return schema.decode_counter(await txn.get(schema.INODE_COUNT, snapshot=True))

        capacity, free, used = await self._cluster.space()
        whole = meta_pb2.StatFsReply(
            capacity_bytes=capacity, free_bytes=free, used_bytes=used,
            inodes=await self._kv.run(count))
        if not request.inode_id:
            return whole
        return quota.narrowed(whole, (await self._read(request, quota.get_quota)).quota)

    # Changing the namespace.

    async def create(self, request: meta_pb2.CreateRequest, call: Call) -> meta_pb2.CreateReply:
        """Makes a file or opens the one that is there."""
        env = await self._environment(inode=True, layout=True)
        reply = await self._change(
            request.request_id, meta_pb2.CreateReply,
            lambda txn: create.create(txn, request, env))
        await self._finish_trim(reply.inode)
        return reply

    async def make_dir(self, request: meta_pb2.MakeDirRequest, call: Call) -> meta_pb2.InodeReply:
        """Makes a directory."""
        env = await self._environment(inode=True)
        return await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: directory.make_dir(txn, request, env))

    async def remove_dir(self, request: meta_pb2.RemoveRequest, call: Call) -> meta_pb2.RemoveReply:
        """Removes an empty directory."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.RemoveReply,
            lambda txn: directory.remove_dir(txn, request, env))

    async def unlink(self, request: meta_pb2.RemoveRequest, call: Call) -> meta_pb2.RemoveReply:
        """Takes a name away from a file."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.RemoveReply,
            lambda txn: link.unlink(txn, request, env))

    async def remove_tree(
        self, request: meta_pb2.RemoveTreeRequest, call: Call
    ) -> meta_pb2.RemoveReply:
        """Removes a directory with everything below it."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.RemoveReply,
            lambda txn: remove_tree.remove_tree(txn, request, env))

    async def symlink(self, request: meta_pb2.SymlinkRequest, call: Call) -> meta_pb2.InodeReply:
        """Makes a symbolic link."""
        env = await self._environment(inode=True)
        return await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: link.symlink(txn, request, env))

    async def link(self, request: meta_pb2.LinkRequest, call: Call) -> meta_pb2.InodeReply:
        """Gives a file one more name."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.InodeReply, lambda txn: link.link(txn, request, env))

    async def rename(self, request: meta_pb2.RenameRequest, call: Call) -> meta_pb2.RenameReply:
        """Moves an entry."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.RenameReply,
            lambda txn: rename.rename(txn, request, env))

    async def set_attr(self, request: meta_pb2.SetAttrRequest, call: Call) -> meta_pb2.InodeReply:
        """Changes mode, owner or times, after a writer's last report if there is one."""
        env = await self._environment()
        reply = await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: set_attr.set_attr(txn, request, env))
        await self._finish_trim(reply.inode)
        return reply

    async def make_node(self, request: meta_pb2.MakeNodeRequest, call: Call) -> meta_pb2.InodeReply:
        """Makes a fifo, a socket or a device."""
        env = await self._environment(inode=True)
        return await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: create.make_node(txn, request, env))

    async def create_unnamed(
        self, request: meta_pb2.CreateRequest, call: Call
    ) -> meta_pb2.CreateReply:
        """Makes a file that no name leads to."""
        env = await self._environment(inode=True, layout=True)
        return await self._change(
            request.request_id, meta_pb2.CreateReply,
            lambda txn: create.create_unnamed(txn, request, env))

    # Quotas.

    async def set_quota(
        self, request: meta_pb2.SetQuotaRequest, call: Call
    ) -> meta_pb2.QuotaReply:
        """Sets limits, and begins to account."""
        return await self._change(
            request.request_id, meta_pb2.QuotaReply, lambda txn: quota.set_quota(txn, request))

    async def remove_quota(
        self, request: meta_pb2.RemoveQuotaRequest, call: Call
    ) -> meta_pb2.QuotaReply:
        """Ends accounting."""
        return await self._change(
            request.request_id, meta_pb2.QuotaReply, lambda txn: quota.remove_quota(txn, request))

    async def get_quota(self, request: meta_pb2.StatRequest, call: Call) -> meta_pb2.QuotaReply:
        """Tells limits and usage of the root that an inode counts for."""
        return await self._read(request, quota.get_quota)

    async def scan_quotas(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of all quota roots."""
        return await self._read(request, scan.scan_quotas)

    # Trash.

    async def set_trash(
        self, request: meta_pb2.SetTrashRequest, call: Call
    ) -> meta_pb2.TrashReply:
        """Makes, changes or disables the trash of a directory."""
        return await self._change(
            request.request_id, meta_pb2.TrashReply, lambda txn: trash.set_trash(txn, request))

    async def get_trash(self, request: meta_pb2.StatRequest, call: Call) -> meta_pb2.TrashReply:
        """Tells what becomes of what is removed from a directory."""
        return await self._read(request, trash.get_trash)

    async def list_trash(
        self, request: meta_pb2.ListTrashRequest, call: Call
    ) -> meta_pb2.ListTrashReply:
        """One page of what is in a trash."""
        return await self._read(request, trash.list_trash)

    async def restore(self, request: meta_pb2.RestoreRequest, call: Call) -> meta_pb2.InodeReply:
        """Gives what is in a trash a name again."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.InodeReply, lambda txn: trash.restore(txn, request, env))

    async def empty_trash(
        self, request: meta_pb2.EmptyTrashRequest, call: Call
    ) -> meta_pb2.EmptyTrashReply:
        """Removes one page of what is in a trash for good."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.EmptyTrashReply,
            lambda txn: trash.empty(txn, request, env))

    # Extended attributes.

    async def set_xattr(self, request: meta_pb2.SetXattrRequest, call: Call) -> meta_pb2.InodeReply:
        """Makes or replaces an attribute."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: xattrs.set_xattr(txn, request, env))

    async def remove_xattr(
        self, request: meta_pb2.RemoveXattrRequest, call: Call
    ) -> meta_pb2.InodeReply:
        """Removes an attribute."""
        env = await self._environment()
        return await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: xattrs.remove_xattr(txn, request, env))

    async def get_xattr(
        self, request: meta_pb2.GetXattrRequest, call: Call
    ) -> meta_pb2.GetXattrReply:
        """Tells the value of an attribute."""
        return await self._read(request, xattrs.get_xattr)

    async def list_xattr(
        self, request: meta_pb2.ListXattrRequest, call: Call
    ) -> meta_pb2.ListXattrReply:
        """Tells the names of all attributes."""
        return await self._read(request, xattrs.list_xattr)

    # Open files.

    async def open(self, request: meta_pb2.OpenRequest, call: Call) -> meta_pb2.InodeReply:
        """Opens a file, with a session when it is for writing."""
        env = await self._environment()
        reply = await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: open_file.open_file(txn, request, env))
        await self._finish_trim(reply.inode)
        return reply

    async def close(self, request: meta_pb2.CloseRequest, call: Call) -> meta_pb2.InodeReply:
        """Ends a session with the writer's last report."""
        now_ns = self._runtime.clock.wall_ns()
        reply = await self._change(
            request.request_id, meta_pb2.InodeReply,
            lambda txn: open_file.close(txn, request, now_ns))
        await self._finish_trim(reply.inode)
        return reply

    async def fsync(self, request: meta_pb2.FsyncRequest, call: Call) -> meta_pb2.InodeReply:
        """Makes the length known, and all that was answered before survive a power loss."""
        reply = meta_pb2.InodeReply()
        if request.session_id:
            now_ns = self._runtime.clock.wall_ns()
            reply = await self._change(
                request.request_id, meta_pb2.InodeReply,
                lambda txn: open_file.fsync(txn, request, now_ns))
            await self._finish_trim(reply.inode)
        if not request.report_only:
            await self._kv.flush()
        return reply

    async def append(self, request: meta_pb2.AppendRequest, call: Call) -> meta_pb2.AppendReply:
        """Gives an append its place. Nothing is made longer over what a cut has yet to remove."""
        reply = await self._change(
            request.request_id, meta_pb2.AppendReply, lambda txn: open_file.append(txn, request))
        await self._finish_trim(reply.inode)
        return reply

    async def truncate(self, request: meta_pb2.TruncateRequest, call: Call) -> meta_pb2.InodeReply:
        """Sets the length; on return nothing beyond it is left on any chain."""
        env = await self._environment()
        for _ in range(TRIM_ATTEMPTS):
            try:
                reply = await self._change(
                    request.request_id, meta_pb2.InodeReply,
                    lambda txn: truncate.truncate(txn, request, env))
            except FsError as failure:
                if failure.kind != Kind.BUSY:
                    raise
                stat = await self._read(
                    meta_pb2.StatRequest(inode_id=request.inode_id), lookup.stat)
                await self._finish_trim(stat.inode)
                continue
            await self._finish_trim(reply.inode)
            return reply
        raise FsError(Kind.BUSY, "the file is being cut by others all the time",
                      f"inode {request.inode_id}")

    async def _finish_trim(self, inode: meta_pb2.Inode) -> None:
        """Removes what lies beyond the length of a file that was cut."""
        if inode.trim_pending:
            await self._chunks.trim(inode, lambda: self._kv.run(
                lambda txn: truncate.is_pending(txn, inode.inode_id, inode.truncate_version)))
            allocated = await self._chunks.allocated(inode) if chunks_end(inode) else 0
            await self._kv.run(lambda txn: truncate.trim_done(
                txn, inode.inode_id, inode.truncate_version, allocated))
            inode.trim_pending = False
            inode.allocated = allocated

    async def hold(self, request: meta_pb2.HoldRequest, call: Call) -> meta_pb2.HoldReply:
        """Registers handles that are open still."""
        now_ns = self._runtime.clock.wall_ns()
        return await self._kv.run(lambda txn: sessions.hold(txn, request, now_ns))

    async def release(self, request: meta_pb2.ReleaseRequest, call: Call) -> common_pb2.Empty:
        """Forgets handles that were registered."""
        async def body(txn: Transaction) -> None:
            sessions.release(txn, request)

        await self._kv.run(body)
        return common_pb2.Empty()

    # For caches.

    async def watch(self, request: meta_pb2.WatchRequest, call: Call) -> meta_pb2.WatchReply:
        """Tells what others changed, as soon as they do."""
        now = self._runtime.clock.now
        deadline = min(now() + request.wait_ms / 1000, call.deadline - ANSWER_S)
        after = request.after
        if not after:
            return meta_pb2.WatchReply(next=await self._kv.run(changes.newest) or changes.NOTHING)
        while True:
            position = after
            found, after, counter = await self._kv.run(
                lambda txn: changes.page_behind(txn, position))  # noqa: B023
            if not found and after != position:
                return meta_pb2.WatchReply(next=after, lost=True)
            foreign = [change for change in found if change.client_id != request.client_id]
            if foreign or now() >= deadline:
                return meta_pb2.WatchReply(changes=foreign, next=after)
            if found:
                # A busy client would wake its own watch with every change that it makes.
                await self._runtime.sleep(min(OWN_CHANGES_S, max(0.0, deadline - now())))
            else:
                await self._kv.watch(changes.COUNTER, counter, deadline - now())

    # Locks. Who was told that it has one, or gave one up, may outlive the store's machine.

    async def lock(self, request: meta_pb2.LockRequest, call: Call) -> meta_pb2.LockReply:
        """Takes a lock, or joins the queue for it."""
        reply = await self._change(
            request.request_id, meta_pb2.LockReply, lambda txn: locks.acquire(txn, request))
        await self._kv.flush()
        await self._finish_trim(reply.inode)
        if reply.granted and request.after:
            reply.behind.CopyFrom(
                await self._behind(request.request_id.client_id, request.after))
        return reply

    async def _behind(self, client_id: bytes, after: bytes) -> meta_pb2.WatchReply:
        """What others changed behind `after`, up to now; where that is too much, it is lost."""
        foreign: list[meta_pb2.Change] = []
        for _ in range(LOCK_PAGES_MAX):
            position = after
            found, after, _ = await self._kv.run(
                lambda txn: changes.page_behind(txn, position))  # noqa: B023
            if not found and after != position:
                break
            foreign += [change for change in found if change.client_id != client_id]
            if len(found) < changes.PAGE:
                return meta_pb2.WatchReply(changes=foreign, next=after)
        return meta_pb2.WatchReply(next=after, lost=True)

    async def unlock(self, request: meta_pb2.UnlockRequest, call: Call) -> common_pb2.Empty:
        """Gives up a range, and grants it to those who wait."""
        reply = await self._change(
            request.request_id, common_pb2.Empty, lambda txn: locks.release(txn, request))
        await self._kv.flush()
        return reply

    async def test_lock(self, request: meta_pb2.TestLockRequest, call: Call) -> meta_pb2.LockReply:
        """Tells what is in the way of a lock."""
        return await self._read(request, locks.test)

    async def await_lock(
        self, request: meta_pb2.AwaitLockRequest, call: Call
    ) -> meta_pb2.AwaitLockReply:
        """Answers when a wait is over, or has lasted for the time that the client gave."""
        now = self._runtime.clock.now
        deadline = now() + min(request.wait_ms / 1000, LOCK_WAIT_S_MAX)
        key = schema.locks_key(request.inode_id)
        record = await self._kv.watch(key, None, 0.0)
        while waiting := locks.still_waits(record, request):
            remaining = deadline - now()
            if remaining <= 0:
                break
            record = await self._kv.watch(key, record, remaining)
        if waiting:
            return meta_pb2.AwaitLockReply(waiting=True)
        await self._kv.flush()
        # Read after the grant: whoever held the lock before has reported what it wrote.
        stat = await self._read(meta_pb2.StatRequest(inode_id=request.inode_id), lookup.stat)
        await self._finish_trim(stat.inode)
        reply = meta_pb2.AwaitLockReply(inode=stat.inode)
        if request.after:
            reply.behind.CopyFrom(await self._behind(request.client_id, request.after))
        return reply

    async def cancel_lock(
        self, request: meta_pb2.CancelLockRequest, call: Call
    ) -> meta_pb2.CancelLockReply:
        """Ends a wait."""
        reply = await self._change(
            request.request_id, meta_pb2.CancelLockReply,
            lambda txn: locks.withdraw(txn, request))
        await self._kv.flush()
        return reply

    # For fsck.

    async def scan_inodes(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of all inodes."""
        return await self._read(request, scan.scan_inodes)

    async def scan_dentries(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of all entries."""
        return await self._read(request, scan.scan_dentries)

    async def scan_sessions(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of all sessions."""
        return await self._read(request, scan.scan_sessions)

    async def scan_contents(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of the lengths of all inline parts."""
        return await self._read(request, scan.scan_contents)

    async def scan_garbage(self, request: meta_pb2.ScanRequest, call: Call) -> meta_pb2.ScanReply:
        """One page of all files whose chunks are being removed."""
        return await self._read(request, scan.scan_garbage)
