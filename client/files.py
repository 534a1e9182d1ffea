"""Open files: what this client knows of a file that the metadata service does not know yet.

Layer: shell. One `OpenFile` per inode with open handles. It holds the write buffer, the furthest
end written here and the truncate version under which that was, the chains that a later fsync must
flush, and how many bytes of blocks its updates took or freed. Close-to-open: `flush` (on every
close) and `fsync` report the length; an open asks for the inode anew.

Appends (O_APPEND) are collected without a place. When they leave, the metadata service gives them
one behind all others, so that appends of several clients never meet; the file's length grows only
when they are reported.

Concurrency: the lock of an `OpenFile` orders writes, truncation and flushes of one inode; reads
take it only to let buffered writes leave first. It is never held over another such lock. What is
known of the inode (`inode`, `_reported`, `_written_end`, `_mtime_ns`) changes under a second lock
that is never held over a wait, since answers to any request may bring news of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from luciole.client.core.layout import check_size, file_bytes_max
from luciole.client.growth import Growth
from luciole.client.handles import Fresh, Handle
from luciole.client.remote.chunk_map import ChunkMap
from luciole.client.remote.chunks import Changed, ChunkClient
from luciole.client.remote.meta import REPORT, MetaClient
from luciole.client.remote.packed import PackedReader
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
# Shorter reads are answered from pieces that services keep verified; longer ones carry the
# checksums of their blocks as they are stored.
PACKED_BYTES_MAX = 64 * 1024
COPY_MAX = 64 * 1024 * 1024  # bytes that one call copies
COPY_STEP = 1024 * 1024
ReportT = TypeVar("ReportT", meta_pb2.FsyncRequest, meta_pb2.CloseRequest, meta_pb2.SetAttrRequest)


class OpenFile:
    """An inode with open handles on this client."""

    def __init__(
        self,
        runtime: Runtime,
        meta: MetaClient,
        chunks: ChunkClient,
        packed: PackedReader,
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
        self._packed = packed
        self._map = ChunkMap(runtime, chunks)
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
        self._growth = Growth()
        self._appended = bytearray()  # has no place yet
        self._appender: Handle | None = None  # who wrote that
        self._buffer = WriteBuffer(
            runtime, self._send, chunk_size=inode.layout.chunk_size, limit=write_limit,
            spawn=spawn)

    def _check(self) -> None:
        """Raises FsError LOCKS_LOST: also what is tried again must come under the locks."""
        self._check_io(self.inode.inode_id)

    @property
    def _lock_key(self) -> tuple[str, int]:
        return "open file", id(self)

    @property
    def length(self) -> int:
        """The length as this client sees it."""
        return max(self.inode.length, self._written_end) + len(self._appended)

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
                self._growth.forget()
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
            if merged.HasField("allocated"):
                merged.allocated = max(0, merged.allocated + self._growth.shown)
            merged.mtime_ns = max(merged.mtime_ns, self.inode.mtime_ns, self._mtime_ns)
            return merged

    async def find_end(self) -> None:
        """Finds the end of what was written here, if another client's cut came in between."""
        if self._overtaken_end:
            async with self._runtime.lock(self._lock_key):
                await self._drain()
                await self._place_overtaken()

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
        try:
            changed = await self._chunks.write(self.inode, offset, data, check=self._check)
        except FsError:
            self._lose_count()
            raise
        self._note_changed(changed)

    def _note_changed(self, changed: Changed) -> None:
        self._note_unflushed(changed.losses)
        with self._known:
            self._growth.add(changed.allocated_change)

    def _lose_count(self) -> None:
        """An update failed and may have been done in part: the chunks are counted next time."""
        with self._known:
            self._growth.doubt()

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
        self._check()
        async with self._runtime.lock(self._lock_key):
            # Asked now, since the write itself may leave only after this call has returned.
            check_size(offset + len(data), self.inode.layout)
            await self._place_appends()
            await self._need_session(handle)
            await self._check_quota(handle, offset + len(data))
            await self._buffer.write(offset, data)
            self._note_written(offset + len(data))

    def _note_written(self, end: int) -> None:
        with self._known:
            self._written_end = max(self._written_end, end)
            self._mtime_ns = self._runtime.clock.wall_ns()
            self._reported = False

    async def append(self, handle: Handle, data: memoryview) -> None:
        """Writes behind all that is there, on whatever client; the place is found later."""
        async with self._runtime.lock(self._lock_key):
            check_size(self.length + len(data), self.inode.layout)
            await self._check_quota(handle, self.length + len(data))
            if len(self._appended) + len(data) > self.inode.layout.chunk_size:
                await self._place_appends()
            if len(data) >= self.inode.layout.chunk_size:
                await self._place(handle, data)
                return
            self._appended += data
            self._appender = handle
            self._note_written(0)

    async def _place_appends(self) -> None:
        """What was appended gets its place and leaves; under the lock."""
        if not self._appended:
            return
        assert self._appender is not None
        try:
            await self._place(self._appender, memoryview(self._appended).toreadonly())
        finally:
            # Not before it is in the other buffer: readers look at both without the lock.
            self._appended = bytearray()

    async def _place(self, handle: Handle, data: memoryview) -> None:
        offset = await self._reserve(handle, len(data))
        await self._buffer.write(offset, data)
        self._note_written(offset + len(data))

    async def _reserve(self, handle: Handle, count: int) -> int:
        failure = FsError(Kind.NO_SESSION, "the session ends again and again",
                          f"inode {self.inode.inode_id}")
        for _ in range(REPORT_ATTEMPTS):
            await self._need_session(handle)
            try:
                reply = await self._meta.change(services.META_APPEND, meta_pb2.AppendRequest(
                    inode_id=self.inode.inode_id, session_id=handle.session_id,
                    hint=await self._hint(), length=count))
            except FsError as error:
                self._lose_count()
                if error.kind != Kind.NO_SESSION:
                    raise
                handle.session_open, failure = False, error
                continue
            self._is_reported(reply.inode)
            return reply.offset
        raise failure

    async def _drain(self) -> None:
        """All that was written here is on the chains; under the lock."""
        await self._place_appends()
        await self._buffer.drain()

    async def settle(self) -> None:
        """All that was written here is on the chains. Raises what its writes could not do."""
        if not self._buffer.idle or self._appended:
            async with self._runtime.lock(self._lock_key):
                await self._drain()

    async def allocate(self, handle: Handle, end: int, free_bytes: int) -> None:
        """fallocate(2) without zeroing: the file reaches `end` at least, and takes no more room.

        Raises FsError NO_SPACE if what is to come could not fit into `free_bytes`.
        """
        self.check_room(end, free_bytes)
        await self._lengthen(handle, end)

    def check_room(self, end: int, free_bytes: int) -> None:
        """Raises FsError NO_SPACE if a file that reaches `end` could not fit, or FILE_TOO_LARGE."""
        check_size(end, self.inode.layout)
        if end - self.length > free_bytes:
            raise FsError(Kind.NO_SPACE, f"{free_bytes} bytes are free",
                          f"inode {self.inode.inode_id}")

    async def _lengthen(self, handle: Handle, end: int) -> None:
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            if end:  # no chunk tells whether this came behind another client's cut
                await self._ask()
            await self._check_quota(handle, end)
            self._note_written(end)
            await self._report(handle, services.META_FSYNC, REPORT)

    async def zero(self, handle: Handle, begin: int, end: int, *, keep_size: bool) -> None:
        """[begin, end) reads as zeros and chunks that lie in it go; the length may grow."""
        if keep_size:
            end = min(end, file_bytes_max(self.inode.layout))
        check_size(end, self.inode.layout)
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            await self._need_session(handle)
            try:
                self._note_changed(await self._map.punch(self.inode, begin, end, check=self._check))
            except FsError:
                self._lose_count()
                raise
            self._note_written(0)
        await self._lengthen(handle, 0 if keep_size else end)

    async def seek(self, offset: int, *, data: bool) -> int | None:
        """Where data (or a hole) begins at or behind `offset`; None: the file ends before."""
        await self.settle()
        await self._ask()
        if offset >= self.length:
            return None
        if not data:
            return await self._map.next_hole(self.inode, offset, self.length)
        found = await self._map.next_data(self.inode, offset)
        return found if found is not None and found < self.length else None

    async def copy_from(
        self, handle: Handle, source: OpenFile, source_offset: int, offset: int, count: int
    ) -> int:
        """Copies from another open file, or from this; returns how many bytes, 0 at its end."""
        await source.settle()
        if source_offset + count > source.length:
            await source._ask()
        count = max(0, min(count, source.length - source_offset, COPY_MAX))
        if source is self and abs(offset - source_offset) < count:
            raise FsError(Kind.INVALID_ARGUMENT, "the ranges overlap",
                          f"inode {self.inode.inode_id}")
        if not count:
            return 0
        check_size(offset + count, self.inode.layout)
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            await self._need_session(handle)
            await self._check_quota(handle, offset + count)
            if self._map.copyable(source.inode, source_offset, self.inode, offset):
                try:
                    self._note_changed(await self._map.copy(
                        source.inode, source_offset, self.inode, offset, count, check=self._check))
                except FsError:
                    self._lose_count()
                    raise
            else:
                for position in range(0, count, COPY_STEP):
                    piece = memoryview(bytearray(min(COPY_STEP, count - position)))
                    await self._chunks.read(source.inode, source_offset + position, piece)
                    await self._send(offset + position, piece)
            self._note_written(offset + count)
        return count

    async def _ask(self) -> None:
        """Asks the metadata service for the inode as it is now."""
        reply = await self._meta.ask(
            services.META_STAT, meta_pb2.StatRequest(inode_id=self.inode.inode_id))
        self.refresh(reply.inode)

    async def _check_quota(self, handle: Handle, end: int) -> None:
        """Raises FsError QUOTA_EXCEEDED when the file may not grow to `end`.

        What is reported counts, though it pass the quota: so this is where a writer is stopped.
        """
        root = self.inode.quota_root
        if not root or end <= max(self.length, self._allowed_end):
            return
        if not self._reported:
            await self._buffer.drain()
            await self._report(handle, services.META_FSYNC, REPORT)
        quota = (await self._meta.ask(
            services.META_GET_QUOTA,
            meta_pb2.StatRequest(inode_id=self.inode.inode_id))).quota
        step = QUOTA_STEP_MAX
        if quota.bytes_limit:
            room = quota.bytes_limit - quota.bytes_used
            growth = end - (self.length - len(self._appended))
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
        size = await self.readable(offset, size)
        buffer = memoryview(bytearray(size)) if room is None else room[:size]
        if size >= PACKED_BYTES_MAX:
            await self._chunks.read(self.inode, offset, buffer)
        elif size:
            await self._packed.read_one(self.inode, offset, buffer)
        return buffer

    async def readable(self, offset: int, size: int) -> int:
        """How many of `size` bytes at `offset` there are, once they are all on the chains."""
        self._check()
        if not self._buffer.idle or self._appended:
            await self.settle()
        if offset + size > self.length:
            await self._ask()
            await self.find_end()
        return max(0, min(size, self.length - offset))

    async def flush(self, handle: Handle | None) -> None:
        """Everything has reached the chains, and the length the metadata service.

        On close(2) the report also ends the session: most files are not written again through
        the same handle, and those that are (dup(2)) begin it anew.
        """
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            if not self._reported and handle is not None:
                await self._end_session(handle)

    async def set_attributes(
        self, handle: Handle | None, request: meta_pb2.SetAttrRequest
    ) -> meta_pb2.Inode:
        """Changes mode, owner or times; ends the session with the last report as `flush` does.

        Both are one transaction: times set by hand are not overtaken by the report of an earlier
        write, and what writes and then sets them (tar, rsync, cp -p) pays once.
        """
        def message(
            inode_id: int, session_id: bytes, hint: meta_pb2.LengthHint
        ) -> meta_pb2.SetAttrRequest:
            report = meta_pb2.SetAttrRequest(session_id=session_id, hint=hint)
            report.MergeFrom(request)
            return report

        async with self._runtime.lock(self._lock_key):
            await self._drain()
            if self._reported or handle is None:
                return (await self._meta.change(services.META_SET_ATTR, request)).inode
            return await self._report(handle, services.META_SET_ATTR, message)

    @property
    def published(self) -> bool:
        """Whether others may know of everything that was written here."""
        return self._buffer.idle and self._reported and not self._appended

    async def publish(self, handle: Handle | None, *, own: bool = True) -> None:
        """Others see all that was written here so far; the session goes on. Before an unlock.

        Not its `own`: what fails is raised by the next call for the file, not by this one.
        """
        if self.published:
            return
        async with self._runtime.lock(self._lock_key):
            try:
                await self._drain()
                if not self._reported and handle is not None:
                    await self._report(handle, services.META_FSYNC, REPORT)
            except FsError as failure:
                if own:
                    raise
                self._buffer.keep(failure)

    async def fsync(self, handle: Handle | None) -> None:
        """As flush, and durable against power loss on every replica, as is the file itself.

        All of it counts, also what was written through handles that are closed by now, or on
        other clients: so every chain that holds a part of it is asked, whoever wrote there.
        """
        self._check()
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            await self._flush_chains()
            # What was reported is told again: the service may have lost it with the power.
            if handle is not None and (self._written_end or not self._reported):
                await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)
            else:
                await self._meta.fsync(self.inode.inode_id)

    async def _report(
        self, handle: Handle, method: Method[ReportT, meta_pb2.InodeReply],
        message: Callable[..., ReportT],
    ) -> meta_pb2.Inode:
        """Tells the service how far was written here, until the report counts; returns the inode.

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
                    hint=await self._hint()))
            except FsError as error:
                self._lose_count()  # it may have counted
                if error.kind != Kind.NO_SESSION:
                    raise
                handle.session_open, failure = False, error
                continue
            handle.session_open = method is services.META_FSYNC
            if self._is_reported(reply.inode):
                return reply.inode
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
            reported_under = self.inode.truncate_version
            self.refresh(inode)
            self._reported = False
            counted = self.inode.truncate_version == reported_under
            self._growth.end_report(counted=counted)
            if counted:
                self._reported = not self._overtaken_end
            return self._reported

    async def _hint(self) -> meta_pb2.LengthHint:
        hint = meta_pb2.LengthHint(
            length=self._written_end, truncate_version=self.inode.truncate_version,
            mtime_ns=0 if self._reported else self._mtime_ns)
        with self._known:
            gain = self._growth.begin_report()
        if gain.change is not None:
            hint.allocated_change = gain.change
        elif not gain.uncertain:
            hint.allocated = await self._chunks.allocated(self.inode)
        hint.uncertain = gain.uncertain  # then the collector counts, when nothing can come
        return hint

    async def _end_session(self, handle: Handle) -> None:
        """Closes the session with the last report."""
        await self._report(handle, services.META_CLOSE, meta_pb2.CloseRequest)

    async def close(self, handle: Handle) -> bool:
        """The handle is gone. Raises what its last writes could not do.

        Returns whether its session is still open, with nothing to report: ending it may wait.
        """
        async with self._runtime.lock(self._lock_key):
            try:
                await self._drain()
            finally:
                if not self._reported or (handle.session_open and not self._growth.settled):
                    await self._end_session(handle)
            return handle.session_open

    async def truncate(
        self, request: meta_pb2.TruncateRequest, handle: Handle | None
    ) -> meta_pb2.Inode:
        """Changes the length after all buffered writes; returns the inode.

        With a write handle the right was checked at open, otherwise the credential decides.
        """
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            if handle is not None:
                await self._need_session(handle)
                request.session_id = handle.session_id
            request.hint.CopyFrom(await self._hint())
            reply = await self._meta.change(services.META_TRUNCATE, request)
            with self._known:
                self._written_end = self._overtaken_end = self._allowed_end = 0
                self._growth.restart()
                self._reported = True
                self.inode = reply.inode
            return reply.inode


def _age(inode: meta_pb2.Inode) -> tuple[int, int]:
    """Orders states of one file: only with a new truncate version does it become shorter."""
    return inode.truncate_version, inode.length
