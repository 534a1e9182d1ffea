"""Open files: reads and writes of one inode through this client.

Layer: shell. One `OpenFile` per inode with open handles. It holds the write buffer and the chains
that a later fsync must flush; what it has to report is the other half (client/reporting.py).
Close-to-open: `flush` (on every close) and `fsync` report the length; an open asks for the inode
anew.

The first bytes of a file that is inline, or may become so because it is empty yet, are collected
(client/head.py) and leave with the report; all else goes to chunks.

Appends (O_APPEND) are collected without a place. When they leave, the metadata service gives them
one behind all others, so that appends of several clients never meet; the file's length grows only
when they are reported.

Concurrency: the lock of an `OpenFile` orders writes, truncation and flushes of one inode; reads
take it only to let buffered writes leave first, or to ask for what is inline. It is never held over
another such lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from luciole.client.core.layout import check_size, file_bytes_max
from luciole.client.core.runs import Run
from luciole.client.handles import Handle
from luciole.client.remote.chunk_map import ChunkMap
from luciole.client.remote.chunks import Changed, ChunkClient
from luciole.client.remote.meta import REPORT, MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.client.reporting import ReportedFile
from luciole.client.write_buffer import Spawn, WriteBuffer
from luciole.errors import FsError, Kind, require
from luciole.inline import chunks_end, is_inline
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2, services
from luciole.runtime import Runtime

# Below a quota a writer asks for the room that is left whenever it has grown its file by an eighth
# of it, within these bounds: so far may each file that grows at once pass the quota.
QUOTA_STEP_MIN = 1 << 20
QUOTA_STEP_MAX = 64 << 20
COPY_MAX = 64 * 1024 * 1024  # bytes that one call copies
COPY_STEP = 1024 * 1024


def found_hole(offset: int, data: memoryview) -> bool:
    """Whether a read from chunks found nothing where the inline part of a file would be."""
    part = bytes(data[: max(0, INLINE_BYTES_MAX - offset)])
    return bool(part) and not part.strip(b"\0")


class InlinePart(NamedTuple):
    """What a read finds in the inline part of a file."""

    data: bytes  # as far as the part or the read goes
    size: int  # bytes that the whole read finds


class OpenFile(ReportedFile):
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
        believe_seconds: float = 0.0,
        check_io: Callable[[int], None] = lambda inode_id: None,
    ) -> None:
        """`check_io` raises the FsError for which an inode may not be read or written."""
        super().__init__(runtime, meta, chunks, inode, believe_seconds=believe_seconds)
        self._packed = packed
        self._map = ChunkMap(runtime, chunks)
        self.handles: dict[int, Handle] = {}
        self._allowed_end = 0  # so far the quota was seen to let the file grow
        self._check_io = check_io
        self._unflushed: dict[int, int] = {}  # chain -> its losses when first written since fsync
        self._appender: Handle | None = None  # who wrote what was appended
        self._buffer = WriteBuffer(
            runtime, self._send, chunk_size=inode.layout.chunk_size, limit=write_limit,
            spawn=spawn)

    def _check(self) -> None:
        """Raises FsError LOCKS_LOST: also what is tried again must come under the locks."""
        self._check_io(self.inode.inode_id)

    async def _send(self, offset: int, data: memoryview) -> None:
        await self._counted(self._chunks.write(self.inode, offset, data, check=self._check))

    async def _counted(self, update: Awaitable[Changed]) -> None:
        """Carries out an update of chunks and notes what it has done, or that nobody knows."""
        try:
            changed = await update
        except FsError:
            self._lose_count()
            raise
        self._note_changed(changed)

    def _note_changed(self, changed: Changed) -> None:
        self._note_unflushed(changed.losses)
        with self._known:
            self._growth.add(changed.allocated_change)
            self._sent = True

    def _note_unflushed(self, marks: dict[int, int]) -> None:
        with self._known:
            for chain_id, losses in marks.items():
                self._unflushed[chain_id] = min(losses, self._unflushed.get(chain_id, losses))

    @property
    def _chunks_end(self) -> int:
        """So far the file may have chunks."""
        return chunks_end(self.inode, self.length)

    async def _flush_chains(self) -> None:
        """Everything acknowledged is durable. Raises FsError DATA_LOST, once, if some is lost.

        After a cut all chains count: a removal that is not durable would be undone.
        """
        layout = self.inode.layout
        with self._known:
            marks, self._unflushed = self._unflushed, {}
        chains = self._chunks.chains(layout) if self.inode.truncate_version \
            else self._chunks.chains_below(layout, self._chunks_end)
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
            await self._put(offset, data)

    async def _put(self, offset: int, data: memoryview) -> None:
        """Bytes with a place go to the inline part or to the chunks' buffer; under the lock."""
        end = offset + len(data)
        inline = max(0, INLINE_BYTES_MAX - offset)
        if not is_inline(self.inode) and not (end <= INLINE_BYTES_MAX and self._is_born_here):
            inline = 0
            await self._leave_head()
        if inline and data:
            with self._known:
                self._head.write(offset, data[:inline])
        if len(data) > inline:
            await self._buffer.write(offset + inline, data[inline:])
        self._note_written(end)

    @property
    def _is_born_here(self) -> bool:
        """Whether the file is empty, and all that was written to it here may become inline."""
        if self._head.pending:
            return not self.inode.length
        return not (self.inode.length or self.inode.allocated or self._written_end
                    or self._overtaken_end) and self._reported and self._buffer.idle

    async def _leave_head(self) -> None:
        """What was to be inline goes to the chunks' buffer; under the lock."""
        for patch in self._head.patches():
            await self._buffer.write(patch.offset, memoryview(patch.data))
        with self._known:
            self._head.clear()

    async def _leave_inline(self) -> None:
        await self._leave_head()
        await self._buffer.drain()

    def _fail(self, failure: FsError) -> None:
        self._buffer.keep(failure)

    async def merge(self, handle: Handle, runs: Sequence[Run]) -> None:
        """Writes runs of one chunk, in order and apart, at once; between them nothing changes."""
        self._check()
        async with self._runtime.lock(self._lock_key):
            end = runs[-1].end
            check_size(end, self.inode.layout)
            await self._place_appends()
            await self._need_session(handle)
            await self._check_quota(handle, end)
            inside = 0
            if is_inline(self.inode) or self._is_born_here:
                inside = sum(run.offset < INLINE_BYTES_MAX for run in runs)
            for run in runs[:inside]:
                await self._put(run.offset, memoryview(run.data))
            if inside < len(runs):
                if not is_inline(self.inode):
                    await self._leave_head()
                await self._buffer.drain()
                self._note_written(end)  # a part may be there also if it fails
                await self._counted(
                    self._map.merge(self.inode, runs[inside:], check=self._check))

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
        await self._put(await self._reserve(handle, len(data)), data)

    async def _drain(self) -> None:
        """All that was written to chunks is there; under the lock."""
        await self._place_appends()
        if self._head.pending and not self._may_be_inline:
            await self._leave_head()
        await self._buffer.drain()

    async def settle(self) -> None:
        """All that was written to chunks is there. Raises what its writes could not do."""
        if not self._buffer.idle or self._appended:
            async with self._runtime.lock(self._lock_key):
                await self._drain()

    async def store(self, handle: Handle | None) -> None:
        """All that was written here would survive this client. Raises as `settle`."""
        await self.settle()
        if self._head.pending:
            await self.publish(handle)

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
            if not is_inline(self.inode):
                await self._leave_inline()
            elif begin < min(INLINE_BYTES_MAX, self.length):
                with self._known:
                    self._head.write(begin, bytes(min(
                        end, INLINE_BYTES_MAX, self.length) - begin), grows=False)
            if end > INLINE_BYTES_MAX or not is_inline(self.inode):
                await self._counted(self._map.punch(self.inode, begin, end, check=self._check))
            self._note_written(0)
        await self._lengthen(handle, 0 if keep_size else end)

    async def seek(self, offset: int, *, data: bool) -> int | None:
        """Where data (or a hole) begins at or behind `offset`; None: the file ends before."""
        await self.settle()
        await self._ask()
        if offset >= self.length:
            return None
        if self.reads_inline(offset):
            known = max(self.inode.inline_bytes, self._head.end)
            if data and offset < known:
                return offset
            if not data and known < INLINE_BYTES_MAX:
                return min(max(offset, known), self.length)
            offset = INLINE_BYTES_MAX
            if offset >= self.length:
                return None if data else self.length
        if not data:
            return await self._map.next_hole(self.inode, offset, self.length)
        found = await self._map.next_data(self.inode, offset)
        return found if found is not None and found < self.length else None

    def _passes_here(
        self, source: OpenFile, source_offset: int, offset: int, count: int
    ) -> int:
        """How many bytes of a copy begin in an inline part, or end in one: no chunk has them."""
        if source.reads_inline(source_offset):
            return min(count, INLINE_BYTES_MAX - source_offset)
        if is_inline(self.inode):
            return min(count, max(0, INLINE_BYTES_MAX - offset))
        return count if offset + count <= INLINE_BYTES_MAX and self._is_born_here else 0

    async def copy_from(
        self, handle: Handle, source: OpenFile, source_offset: int, offset: int, count: int
    ) -> int:
        """Copies from another open file, or from this; returns how many bytes, 0 at its end."""
        await source.settle()
        if source_offset < INLINE_BYTES_MAX or source_offset + count > source.length:
            await source._ask()
        count = max(0, min(count, source.length - source_offset, COPY_MAX))
        if source is self and abs(offset - source_offset) < count:
            raise FsError(Kind.INVALID_ARGUMENT, "the ranges overlap",
                          f"inode {self.inode.inode_id}")
        if not count:
            return 0
        check_size(offset + count, self.inode.layout)
        held = self._passes_here(source, source_offset, offset, count)
        if held:
            data = await source.read(source_offset, held)
            await self.write(handle, offset, data)
            if len(data) < held or held == count:
                return len(data)
            return held + await self.copy_from(
                handle, source, source_offset + held, offset + held, count - held)
        async with self._runtime.lock(self._lock_key):
            await self._drain()
            await self._need_session(handle)
            if not is_inline(self.inode):
                await self._leave_inline()
            await self._check_quota(handle, offset + count)
            self._note_written(offset + count)  # a part may be there also if it fails
            if self._map.copyable(source.inode, source_offset, self.inode, offset):
                await self._counted(self._map.copy(
                    source.inode, source_offset, self.inode, offset, count, check=self._check))
            else:
                for position in range(0, count, COPY_STEP):
                    piece = memoryview(bytearray(min(COPY_STEP, count - position)))
                    await self._chunks.read(source.inode, source_offset + position, piece)
                    await self._send(offset + position, piece)
        return count

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

    async def read(
        self, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        """Up to `size` bytes from `offset`, short at the end of the file.

        They are put at the start of `room` (writable, at least `size` bytes) if it is given, else
        into new memory.
        """
        if offset >= INLINE_BYTES_MAX:
            return await self._read_chunks(offset, await self.readable(offset, size), room)
        part = await self._inline_part(offset, size)
        if part is None:
            buffer = await self._read_chunks(offset, await self.readable(offset, size), room)
            if not found_hole(offset, buffer):
                return buffer
            # Or it is one that others cut and wrote anew: their bytes are not in chunks.
            await self._ask()
            part = await self._inline_part(offset, size)
            if part is None:
                return buffer
        done = len(part.data)
        buffer = memoryview(bytearray(part.size)) if room is None else room[:part.size]
        buffer[:done] = part.data
        await self._read_chunks(offset + done, part.size - done, buffer[done:])
        return buffer

    async def _read_chunks(
        self, offset: int, size: int, room: memoryview | None
    ) -> memoryview:
        buffer = memoryview(bytearray(size)) if room is None else room[:size]
        if size:
            await self._packed.read_one(self.inode, offset, buffer)
        return buffer

    def reads_inline(self, offset: int) -> bool:
        """Whether a read at `offset` finds the inline part."""
        return offset < INLINE_BYTES_MAX and (is_inline(self.inode) or self._head.pending)

    async def _inline_part(self, offset: int, size: int) -> InlinePart | None:
        """What a read finds in the inline part; None if there is none, or not there."""
        if not self.reads_inline(offset):
            return None
        self._check()
        await self.settle()
        with self._known:
            content = self._head.content(self._runtime.clock.now())
            if content is not None and is_inline(self.inode):
                return self._cut_out(content, self.length, offset, size)
        async with self._runtime.lock(self._lock_key):
            reply = await self._ask_content()
            if self._overtaken_end:
                await self._drain()
                await self._place_overtaken()
            with self._known:
                if is_inline(reply.inode) or (self._head.pending and not reply.inode.length):
                    end = max(reply.inode.length, self._written_end)
                    return self._cut_out(reply.content, end, offset, size)
            await self._leave_inline()
        return None

    def _cut_out(self, content: bytes, end: int, offset: int, size: int) -> InlinePart:
        size = max(0, min(size, end - offset))
        return InlinePart(
            self._head.read(content, offset, min(size, INLINE_BYTES_MAX - offset)), size)

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
        write, and what writes and then sets them (tar, rsync, cp -p) pays once. Of a new file most
        of it even waits for that report (waiting.py).
        """
        def message(
            inode_id: int, session_id: bytes, hint: meta_pb2.LengthHint
        ) -> meta_pb2.SetAttrRequest:
            report = meta_pb2.SetAttrRequest(session_id=session_id, hint=hint)
            report.MergeFrom(request)
            return report

        async with self._runtime.lock(self._lock_key):
            if handle is not None and self._let_wait(request):
                return self.inode
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
            if self._head.pending and handle is not None:
                # If it has to go to chunks, it must be there before they are flushed.
                await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)
                if not (self._chunks_end or self._unflushed or self.inode.truncate_version):
                    return
            await self._flush_chains()
            # What was reported is told again: the service may have lost it with the power.
            if handle is not None and (self._written_end or not self._reported):
                await self._report(handle, services.META_FSYNC, meta_pb2.FsyncRequest)
            else:
                await self._meta.fsync(self.inode.inode_id)

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
            writer = handle or next((h for h in self.handles.values() if h.writable), None)
            if self._head.pending and writer is not None:
                await self._report(writer, services.META_FSYNC, REPORT)
            if handle is not None:
                await self._need_session(handle)
                request.session_id = handle.session_id
            request.hint.CopyFrom(await self._hint())
            reply = await self._meta.change(services.META_TRUNCATE, request)
            with self._known:
                self._written_end = self._overtaken_end = self._allowed_end = 0
                self._growth.restart()
                self._head.clear()
                self._told_attributes()
                self._head.seen(reply.inode.data_version)
                self._sent = False
                self._reported = True
                self.inode = reply.inode
            return reply.inode


