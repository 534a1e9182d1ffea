"""Open files: what this client knows of a file that the metadata service does not know yet.

Layer: shell. One `OpenFile` per inode with open handles. It holds the write buffer, the furthest
end written here and the truncate version under which that was, and the chains that a later fsync
must flush. Close-to-open: `flush` (on every close) and `fsync` report the length; an open asks
for the inode anew.

Concurrency: the lock of an `OpenFile` orders writes, truncation and flushes of one inode; reads
take it only to let buffered writes leave first. It is never held over another such lock. What is
known of the inode (`inode`, `_reported`, `_written_end`, `_mtime_ns`) changes under a second lock
that is never held over a wait, since answers to any request may bring news of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from luciole.client.core.layout import check_size
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.meta import MetaClient
from luciole.client.write_buffer import Spawn, WriteBuffer
from luciole.errors import FsError, Kind, require
from luciole.proto import meta_pb2, services
from luciole.proto.method import Method
from luciole.runtime import Runtime

REPORT_ATTEMPTS = 8
# Below a quota a writer asks for the room that is left whenever it has grown its file by an eighth
# of it, within these bounds: so far may each file that grows at once pass the quota.
QUOTA_STEP_MIN = 1 << 20
QUOTA_STEP_MAX = 64 << 20
ReportT = TypeVar("ReportT", meta_pb2.FsyncRequest, meta_pb2.CloseRequest)


@dataclass
class Handle:
    """One open(2)."""

    number: int
    inode_id: int
    readable: bool
    writable: bool
    session_id: bytes
    opened_at: float
    session_open: bool = False  # meta has the session; a flush ends it, a write begins it again
    registered: bool = False  # meta was told of a handle without a session


class Fresh(NamedTuple):
    """What a lock found newer than this client's kernel may know it."""

    pages: bool = False  # those of the kernel have to go
    end: int = 0  # the file ends there; 0: where the kernel was last told


class OpenFile:
    """An inode with open handles on this client."""

    def __init__(
        self,
        runtime: Runtime,
        meta: MetaClient,
        chunks: ChunkClient,
        inode: meta_pb2.Inode,
        *,
        write_limit: int,
        spawn: Spawn | None,
        check_io: Callable[[int], None] = lambda inode_id: None,
    ) -> None:
        """`check_io` raises the FsError for which an inode may not be read or written."""
        self._runtime = runtime
        self._meta = meta
        self._chunks = chunks
        self.inode = inode
        self.handles: dict[int, Handle] = {}
        self._known = threading.RLock()
        self._reported = True
        self._written_end = 0
        self._allowed_end = 0  # so far the quota was seen to let the file grow
        self._check_io = check_io
        self._pages_version = -1  # the data version that the kernel's pages are of, if known
        self._shown_end = 0  # the length that the kernel was shown at a lock
        self._overtaken_end = 0  # written here under an earlier truncate version
        self._unflushed: dict[int, int] = {}  # chain -> its losses when first written since fsync
        self._mtime_ns = 0
        self._buffer = WriteBuffer(
            runtime, self._send, chunk_size=inode.layout.chunk_size, limit=write_limit,
            spawn=spawn)

    @property
    def _lock_key(self) -> tuple[str, int]:
        return "open file", id(self)

    @property
    def length(self) -> int:
        """The length as this client sees it."""
        return max(self.inode.length, self._written_end)

    def refresh(self, inode: meta_pb2.Inode) -> None:
        """Takes over what the metadata service says, but no cut that is still under way.

        What is written with its truncate version would count as written after it, and yet be
        trimmed by it. Until it is done, writes here come before it, and it voids them.
        """
        with self._known:
            # Answers overtake each other: of one truncate version the longest is the newest.
            if inode.trim_pending or _age(inode) < _age(self.inode):
                return
            if inode.truncate_version > self.inode.truncate_version:
                if not self._reported:
                    # Another client cut the file, before or after what was written here.
                    self._overtaken_end = max(self._overtaken_end, self._written_end)
                self._written_end = 0
            self.inode = inode

    def overlay(self, inode: meta_pb2.Inode) -> meta_pb2.Inode:
        """An inode from the service, with what was written here and not reported yet."""
        with self._known:
            overtaken = _age(inode) < _age(self.inode)
            self.refresh(inode)
            if self._reported and not overtaken:
                return inode
            merged = meta_pb2.Inode()
            merged.CopyFrom(inode)
            merged.length = self.length
            merged.mtime_ns = max(merged.mtime_ns, self.inode.mtime_ns, self._mtime_ns)
            return merged

    def take_over(self, inode: meta_pb2.Inode) -> Fresh:
        """The inode as a lock found it; returns what the kernel may know less well."""
        with self._known:
            self.refresh(inode)
            older = inode.data_version != self._pages_version
            self._pages_version = inode.data_version
            grown = older and self.length > self._shown_end
            if older:
                self._shown_end = self.length
            return Fresh(older, self.length if grown else 0)

    async def _send(self, offset: int, data: memoryview) -> None:
        self._check_io(self.inode.inode_id)
        self._note_unflushed(await self._chunks.write(self.inode, offset, data))

    def _note_unflushed(self, marks: dict[int, int]) -> None:
        with self._known:
            for chain_id, losses in marks.items():
                self._unflushed[chain_id] = min(losses, self._unflushed.get(chain_id, losses))

    async def _flush_chains(self) -> None:
        """Everything acknowledged is durable. Raises FsError DATA_LOST, once, if some is lost.

        After a cut all chains count: a removal that is not durable would be undone.
        """
        layout = self.inode.layout
        with self._known:
            marks, self._unflushed = self._unflushed, {}
        chains = self._chunks.chains(layout) if self.inode.truncate_version \
            else self._chunks.chains_below(layout, self.length)
        try:
            losses = await self._chunks.sync({*marks, *chains})
        except FsError:
            self._note_unflushed(marks)
            raise
        lost = sorted(chain_id for chain_id, mark in marks.items() if losses[chain_id] > mark)
        if lost:
            raise FsError(Kind.DATA_LOST, f"all replicas of chains {lost} lost power before what "
                          "was written here was flushed: write it again",
                          f"inode {self.inode.inode_id}")

    async def write(self, handle: Handle, offset: int, data: memoryview) -> None:
        """Writes at an offset; the bytes may still be on their way on return."""
        self._check_io(self.inode.inode_id)
        async with self._runtime.lock(self._lock_key):
            # Asked now, since the write itself may leave only after this call has returned.
            check_size(offset + len(data), self.inode.layout)
            await self._need_session(handle)
            await self._check_quota(handle, offset + len(data))
            await self._buffer.write(offset, data)
            with self._known:
                self._written_end = max(self._written_end, offset + len(data))
                self._mtime_ns = self._runtime.clock.wall_ns()
                self._reported = False

    async def _check_quota(self, handle: Handle, end: int) -> None:
        """Raises FsError QUOTA_EXCEEDED when the file may not grow to `end`.

        What is reported counts, though it pass the quota: so this is where a writer is stopped.
        """
        root = self.inode.quota_root
        if not root or end <= max(self.length, self._allowed_end):
            return
        if not self._reported:
            await self._buffer.drain()
            await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)
        quota = (await self._meta.ask(
            services.META_GET_QUOTA,
            meta_pb2.StatRequest(inode_id=self.inode.inode_id))).quota
        step = QUOTA_STEP_MAX
        if quota.bytes_limit:
            room = quota.bytes_limit - quota.bytes_used
            growth = end - self.length
            require(growth <= room, Kind.QUOTA_EXCEEDED, f"the quota of {quota.bytes_limit} bytes "
                    f"has {max(0, room)} left: remove something, or raise it", f"directory {root}")
            step = min(room - growth, max(QUOTA_STEP_MIN, min(QUOTA_STEP_MAX, room // 8)))
        self._allowed_end = end + step

    async def _need_session(self, handle: Handle) -> None:
        """Begins the session again that an earlier flush ended. The right was checked at open."""
        if not handle.session_open:
            reply = await self._meta.change(services.META_OPEN, meta_pb2.OpenRequest(
                inode_id=handle.inode_id, write=True, session_id=handle.session_id))
            self.refresh(reply.inode)
            handle.session_open = True

    async def read(
        self, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        """Up to `size` bytes from `offset`, short at the end of the file.

        They are put at the start of `room` (writable, at least `size` bytes) if it is given, else
        into new memory.
        """
        self._check_io(self.inode.inode_id)
        if not self._buffer.idle:
            async with self._runtime.lock(self._lock_key):
                await self._buffer.drain()
        if offset + size > self.length:
            reply = await self._meta.ask(
                services.META_STAT, meta_pb2.StatRequest(inode_id=self.inode.inode_id))
            self.refresh(reply.inode)
        size = max(0, min(size, self.length - offset))
        buffer = memoryview(bytearray(size)) if room is None else room[:size]
        if size:
            await self._chunks.read(self.inode, offset, buffer)
        return buffer

    async def flush(self, handle: Handle | None) -> None:
        """Everything has reached the chains, and the length the metadata service.

        On close(2) the report also ends the session: most files are not written again through
        the same handle, and those that are (dup(2)) begin it anew.
        """
        async with self._runtime.lock(self._lock_key):
            await self._buffer.drain()
            if not self._reported and handle is not None:
                await self._end_session(handle)

    async def publish(self, handle: Handle | None) -> None:
        """Others see all that was written here so far; the session goes on. Before an unlock."""
        if self._buffer.idle and self._reported:
            return
        async with self._runtime.lock(self._lock_key):
            await self._buffer.drain()
            if not self._reported and handle is not None:
                await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)

    async def fsync(self, handle: Handle | None) -> None:
        """As flush, and durable against power loss on every replica.

        All of the file counts, also what was written through handles that are closed by now, or on
        other clients: so every chain that holds a part of it is asked, whoever wrote there.
        """
        self._check_io(self.inode.inode_id)
        async with self._runtime.lock(self._lock_key):
            await self._buffer.drain()
            await self._flush_chains()
            if not self._reported and handle is not None:
                await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)

    async def _report(
        self, handle: Handle, method: Method[ReportT, meta_pb2.InodeReply],
        message: Callable[..., ReportT],
    ) -> None:
        """Tells the service how far was written here, until the report counts.

        It does not if another client cut the file meanwhile, or if the service lost the session.
        """
        failure = FsError(Kind.BUSY, "the file is cut by others all the time",
                          f"inode {self.inode.inode_id}")
        for _ in range(REPORT_ATTEMPTS):
            try:
                await self._need_session(handle)
                await self._place_overtaken()
                reply = await self._meta.change(method, message(
                    inode_id=self.inode.inode_id, session_id=handle.session_id,
                    hint=self._hint()))
            except FsError as error:
                if error.kind != Kind.NO_SESSION:
                    raise
                handle.session_open, failure = False, error
                continue
            handle.session_open = method is not services.META_CLOSE
            if self._is_reported(reply.inode):
                return
        raise failure

    async def _place_overtaken(self) -> None:
        """Finds out which of the bytes written here another client's cut has left.

        A cut that is finished took everything off the chains that was there before: what they hold
        beyond the new length was written after it.
        """
        if self._overtaken_end > self.inode.length:
            end = min(self._overtaken_end, await self._chunks.data_end(self.inode))
            self._written_end = max(self._written_end, end)
        self._overtaken_end = 0

    def _is_reported(self, inode: meta_pb2.Inode) -> bool:
        """Takes over the answer to a report; returns whether the report counted."""
        with self._known:
            if inode.data_version == self._pages_version + 1:
                self._pages_version += 1  # nobody but this client, whose kernel has it all
            self.refresh(inode)
            self._reported = not self._overtaken_end
            return self._reported

    def _hint(self) -> meta_pb2.LengthHint:
        return meta_pb2.LengthHint(
            length=self._written_end, truncate_version=self.inode.truncate_version,
            mtime_ns=0 if self._reported else self._mtime_ns)

    async def _end_session(self, handle: Handle) -> None:
        """Closes the session with the last report."""
        await self._report(handle, services.META_CLOSE, meta_pb2.CloseRequest)

    async def close(self, handle: Handle) -> None:
        """The handle is gone. Raises what its last writes could not do."""
        async with self._runtime.lock(self._lock_key):
            try:
                await self._buffer.drain()
            finally:
                if handle.session_open or not self._reported:
                    await self._end_session(handle)

    async def truncate(
        self, request: meta_pb2.TruncateRequest, handle: Handle | None
    ) -> meta_pb2.Inode:
        """Changes the length after all buffered writes; returns the inode.

        With a write handle the right was checked at open, otherwise the credential decides.
        """
        async with self._runtime.lock(self._lock_key):
            await self._buffer.drain()
            if handle is not None:
                await self._need_session(handle)
                request.session_id = handle.session_id
            request.hint.CopyFrom(self._hint())
            reply = await self._meta.change(services.META_TRUNCATE, request)
            with self._known:
                self._written_end = self._overtaken_end = self._allowed_end = 0
                self._reported = True
                self.inode = reply.inode
            return reply.inode


def _age(inode: meta_pb2.Inode) -> tuple[int, int]:
    """Orders states of one file: only with a new truncate version does it become shorter."""
    return inode.truncate_version, inode.length
