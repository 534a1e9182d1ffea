"""What this client knows of an open file and the metadata service does not yet, and its reports.

Layer: shell. A `ReportedFile` is the lower half of an `OpenFile` (client/files.py): the inode as
the service told it last, the furthest end written here and the truncate version under which that
was, the bytes of blocks that updates took, what was written inline, and those attributes of a new
file that wait (waiting.py). A report carries all of it; it counts unless another client cut the
file meanwhile, and is repeated until it does.

Concurrency: what is known (`inode` and all that was written here) changes under a lock that is
never held over a wait, since answers to any request may bring news. Reports are sent under the lock
of the open file, so no write comes in between.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from luciole import waiting
from luciole.client.growth import Growth
from luciole.client.handles import Fresh, Handle
from luciole.client.head import Head
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.inline import is_inline
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2, services
from luciole.proto.method import Method
from luciole.runtime import Runtime

REPORT_ATTEMPTS = 8
ReportT = TypeVar(
    "ReportT", meta_pb2.FsyncRequest, meta_pb2.CloseRequest, meta_pb2.SetAttrRequest)
ToldT = TypeVar("ToldT", meta_pb2.FsyncRequest, meta_pb2.CloseRequest, meta_pb2.SetAttrRequest,
                meta_pb2.AppendRequest)
AnswerT = TypeVar("AnswerT", meta_pb2.InodeReply, meta_pb2.AppendReply)


class ReportedFile(ABC):
    """An inode with what was written here since the last report."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, chunks: ChunkClient, inode: meta_pb2.Inode,
        *, believe_seconds: float,
    ) -> None:
        """`believe_seconds`: so long what is inline may be read without asking."""
        self._runtime = runtime
        self._meta = meta
        self._chunks = chunks
        self.inode = inode
        self._known = threading.RLock()
        self._reported = True
        self._written_end = 0
        self._pages_version = -1  # the data version that the kernel's pages are of, if known
        self._shown_end = 0  # the length that the kernel was shown at a lock
        self._overtaken_end = 0  # written here under an earlier truncate version
        self._told_version = 0  # the truncate version of the last report
        self._mtime_ns = 0
        self._growth = Growth()
        self._sent = False  # chunks were updated since the last report
        self._head = Head(believe_seconds)
        self._appended = bytearray()  # has no place yet
        self._is_new = False  # made here, and others see an empty file
        self._waiting: meta_pb2.WaitingAttributes | None = None

    @property
    def _lock_key(self) -> tuple[str, int]:
        return "open file", id(self)

    @property
    def length(self) -> int:
        """The length as this client sees it."""
        return max(self.inode.length, self._written_end) + len(self._appended)

    @abstractmethod
    async def _drain(self) -> None:
        """All that goes to chunks has arrived there; under the lock of the file."""

    @abstractmethod
    async def _leave_inline(self) -> None:
        """What was to be inline goes to chunks, and has arrived; under the lock of the file."""

    @abstractmethod
    def _fail(self, failure: FsError) -> None:
        """Whatever next waits for writes raises this."""

    @property
    def _may_be_inline(self) -> bool:
        """Whether what was written to the first bytes can be reported; the service decides."""
        return is_inline(self.inode) or not self.inode.length

    def refresh(self, inode: meta_pb2.Inode) -> None:
        """Takes over what the metadata service says, but no cut that is still under way.

        What is written with its truncate version would count as written after it, and yet be
        trimmed by it. Until it is done, writes here come before it, and it voids them.
        """
        with self._known:
            self._head.seen(inode.data_version)
            # Answers overtake each other: of one truncate version the longest is the newest.
            if inode.trim_pending or _age(inode) < _age(self.inode):
                return
            if inode.truncate_version > self.inode.truncate_version:
                if not self._reported:
                    # Another client cut the file, before or after what was written here.
                    self._overtaken_end = max(self._overtaken_end, self._written_end)
                # What is inline and not reported comes after the cut.
                self._written_end = self._head.end
                if self._sent and is_inline(inode) and not is_inline(self.inode):
                    # Others were free to make it so: they did not know of what was written here.
                    self._fail(FsError(Kind.DATA_LOST, "this client was taken for dead, and others "
                                       "wrote the file anew: write it again",
                                       f"inode {inode.inode_id}"))
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
            if self._head.pending and self._may_be_inline:
                merged.inline_bytes = max(merged.inline_bytes, self._head.end)
            merged.mtime_ns = max(merged.mtime_ns, self.inode.mtime_ns, self._mtime_ns)
            if self._waiting is not None:
                waiting.apply(merged, self._waiting)
            return merged

    def made_here(self) -> None:
        """This client has made the file just now."""
        self._is_new = True

    @property
    def attributes_wait(self) -> bool:
        """Whether others do not know all that was set of this file's attributes."""
        return self._waiting is not None

    def _let_wait(self, request: meta_pb2.SetAttrRequest) -> bool:
        """Leaves a change of attributes to the next report, if it may wait; under the lock."""
        with self._known:
            if not self._is_new or self._reported or not waiting.may_wait(
                    self.overlay(self.inode), request):
                return False
            if self._waiting is None:
                self._waiting = meta_pb2.WaitingAttributes()
            waiting.add(self._waiting, request, self._runtime.clock.wall_ns())
            return True

    def _told_attributes(self) -> None:
        """The service has been told of everything that waited."""
        self._is_new = False
        self._waiting = None

    def forget_content(self) -> None:
        """Others changed the file: what is known of its inline part may be old."""
        with self._known:
            self._head.forget()

    def learn(self, inode: meta_pb2.Inode, content: bytes) -> None:
        """Takes over the inline part from an answer that no change has overtaken."""
        with self._known:
            self._head.learn(inode, content, self._head.told, self._runtime.clock.now())

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

    def _note_written(self, end: int) -> None:
        with self._known:
            self._written_end = max(self._written_end, end)
            self._mtime_ns = self._runtime.clock.wall_ns()
            self._reported = False
            if self._waiting is not None:
                self._waiting.ClearField("mtime_ns")  # it was set before

    def _lose_count(self) -> None:
        """An update failed and may have been done in part: the chunks are counted next time."""
        with self._known:
            self._growth.doubt()
            self._sent = True

    async def _ask(self) -> None:
        """Asks the metadata service for the inode as it is now."""
        reply = await self._meta.ask(
            services.META_STAT, meta_pb2.StatRequest(inode_id=self.inode.inode_id))
        self.refresh(reply.inode)

    async def _ask_content(self) -> meta_pb2.InodeReply:
        """Asks for the inode and its inline part as they are now."""
        told = self._head.told
        reply = await self._meta.ask(services.META_STAT, meta_pb2.StatRequest(
            inode_id=self.inode.inode_id, with_content=True))
        self.refresh(reply.inode)
        with self._known:
            self._head.learn(reply.inode, reply.content, told, self._runtime.clock.now())
        return reply

    async def _need_session(self, handle: Handle) -> None:
        """Begins the session again that an earlier flush ended. The right was checked at open."""
        if not handle.session_open:
            reply = await self._meta.change(services.META_OPEN, meta_pb2.OpenRequest(
                inode_id=handle.inode_id, write=True, session_id=handle.session_id))
            self.refresh(reply.inode)
            handle.session_open = True

    async def _tell(
        self, handle: Handle, method: Method[ToldT, AnswerT],
        message: Callable[[meta_pb2.LengthHint], ToldT],
    ) -> AnswerT:
        """Sends a report, again if the service lost the session or wants the bytes in chunks."""
        failure: FsError | None = None
        for _ in range(REPORT_ATTEMPTS):
            try:
                await self._need_session(handle)
                if self._head.pending and not self._may_be_inline:
                    await self._leave_inline()
                await self._place_overtaken()
                return await self._meta.change(method, message(await self._hint()))
            except FsError as error:
                if error.kind == Kind.NOT_INLINE:
                    with self._known:
                        self._growth.withdraw()
                    await self._leave_inline()
                elif error.kind == Kind.NO_SESSION:
                    self._lose_count()  # it may have counted
                    handle.session_open = False
                else:
                    self._lose_count()
                    raise
                failure = error
        raise failure or FsError(Kind.BUSY, "the report is refused again and again",
                                 f"inode {self.inode.inode_id}")

    async def _report(
        self, handle: Handle, method: Method[ReportT, meta_pb2.InodeReply],
        message: Callable[..., ReportT],
    ) -> meta_pb2.Inode:
        """Tells the service how far was written here, until the report counts; returns the inode.

        It does not if another client cut the file meanwhile.
        """
        for _ in range(REPORT_ATTEMPTS):
            reply = await self._tell(handle, method, lambda hint: message(
                inode_id=self.inode.inode_id, session_id=handle.session_id, hint=hint))
            handle.session_open = method is services.META_FSYNC
            if self._is_reported(reply.inode):
                return reply.inode
        raise FsError(Kind.BUSY, "the file is cut by others all the time",
                      f"inode {self.inode.inode_id}")

    async def _reserve(self, handle: Handle, count: int) -> int:
        """Reserves `count` bytes behind all that is there, on whatever client; returns where."""
        reply = await self._tell(handle, services.META_APPEND, lambda hint: meta_pb2.AppendRequest(
            inode_id=self.inode.inode_id, session_id=handle.session_id, hint=hint, length=count))
        self._is_reported(reply.inode)
        return reply.offset

    async def _place_overtaken(self) -> None:
        """Finds out which of the bytes written here another client's cut has left.

        A cut that is finished took everything off the chains that was there before: what they hold
        beyond the new length was written after it.
        """
        if self._overtaken_end > self.inode.length:
            end = min(self._overtaken_end, await self._chunks.data_end(self.inode))
            if end > INLINE_BYTES_MAX or not is_inline(self.inode):
                self._written_end = max(self._written_end, end)
        self._overtaken_end = 0

    def _is_reported(self, inode: meta_pb2.Inode) -> bool:
        """Takes over the answer to a report; returns whether the report counted."""
        with self._known:
            self._told_attributes()
            if inode.data_version == self._pages_version + 1:
                self._pages_version += 1  # nobody but this client, whose kernel has it all
            made = not is_inline(self.inode)
            counted = inode.truncate_version == self._told_version
            if counted and self._head.pending:
                self._head.reported(inode.data_version, self._runtime.clock.now(), made=made)
                if self.inode.truncate_version != self._told_version:
                    self._written_end = 0  # it was cut after that
            self.refresh(inode)
            self._reported = False
            self._growth.end_report(counted=counted)
            if counted:
                self._sent = False
                self._reported = not self._overtaken_end
            return self._reported

    async def _hint(self) -> meta_pb2.LengthHint:
        hint = meta_pb2.LengthHint(
            length=self._written_end, truncate_version=self.inode.truncate_version,
            mtime_ns=0 if self._reported else self._mtime_ns)
        with self._known:
            gain = self._growth.begin_report()
            hint.patches.extend(self._head.patches())
            if self._waiting is not None:
                hint.waiting.CopyFrom(self._waiting)
            self._told_version = hint.truncate_version
        if gain.change is not None:
            hint.allocated_change = gain.change
        elif not gain.uncertain:
            hint.allocated = await self._chunks.allocated(self.inode)
        hint.uncertain = gain.uncertain  # then the collector counts, when nothing can come
        return hint


def _age(inode: meta_pb2.Inode) -> tuple[int, int]:
    """Orders states of one file: only with a new truncate version does it become shorter."""
    return inode.truncate_version, inode.length
