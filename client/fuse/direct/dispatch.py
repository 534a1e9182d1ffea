"""One request in, one answer out: the table of opcodes and what an error becomes.

Layer: shell. `Dispatcher.answer` never raises for what a request holds: it gives data, or an
errno, or nothing where the protocol wants no reply. The guard is over the count of errors.

A new operation is one line of the table: its handler in place of `None`. ENOSYS, until then, tells
the kernel never to ask again, and it does what is right without the filesystem: ENOTTY for ioctl.

FUSE_INTERRUPT ends waits for locks (interrupts.py), and those of the killed (killed.py). Requests
that may give or take a lock, or the kernel a page, are `detached`: whoever serves the device hands
them to a thread of their own.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from luciole.client.fuse.direct import (
    directories,
    extended,
    files,
    locks,
    messages,
    names,
    protocol,
    ranges,
)
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import MALFORMED, RefusedError, Request
from luciole.client.fuse.direct.negotiation import Agreed, negotiate
from luciole.client.fuse.direct.protocol import Opcode
from luciole.client.fuse.direct.stale import Walks
from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.runtime import drive

log = get_logger("fuse")
Data = bytes | memoryview
Handler = Callable[[Context, Request], Coroutine[Any, Any, Data]]


class Row(NamedTuple):
    """What to do about an opcode."""

    handler: Handler | None
    body_bytes_min: int = 0


TABLE: dict[int, Row] = {
    Opcode.LOOKUP: Row(names.lookup),
    Opcode.GETATTR: Row(names.getattr_, protocol.GETATTR_IN.size),
    Opcode.SETATTR: Row(names.setattr_, protocol.SETATTR_IN.size),
    Opcode.READLINK: Row(names.readlink),
    Opcode.SYMLINK: Row(names.symlink),
    Opcode.MKNOD: Row(names.mknod, protocol.MKNOD_IN.size),
    Opcode.MKDIR: Row(names.mkdir, protocol.MKDIR_IN.size),
    Opcode.UNLINK: Row(names.unlink),
    Opcode.RMDIR: Row(names.rmdir),
    Opcode.RENAME: Row(names.rename, protocol.RENAME_IN.size),
    Opcode.RENAME2: Row(names.rename2, protocol.RENAME2_IN.size),
    Opcode.LINK: Row(names.link, protocol.LINK_IN.size),
    Opcode.STATFS: Row(names.statfs),
    Opcode.CREATE: Row(files.create, protocol.CREATE_IN.size),
    Opcode.OPEN: Row(files.open_, protocol.OPEN_IN.size),
    Opcode.READ: Row(files.read, protocol.READ_IN.size),
    Opcode.WRITE: Row(files.write, protocol.WRITE_IN.size),
    Opcode.FLUSH: Row(files.flush, protocol.FLUSH_IN.size),
    Opcode.FSYNC: Row(files.fsync, protocol.FSYNC_IN.size),
    Opcode.RELEASE: Row(files.release, protocol.RELEASE_IN.size),
    Opcode.OPENDIR: Row(directories.opendir, protocol.OPEN_IN.size),
    Opcode.READDIR: Row(directories.readdir, protocol.READ_IN.size),
    Opcode.READDIRPLUS: Row(directories.readdirplus, protocol.READ_IN.size),
    Opcode.RELEASEDIR: Row(directories.releasedir, protocol.RELEASE_IN.size),
    Opcode.FSYNCDIR: Row(directories.fsyncdir, protocol.FSYNC_IN.size),
    Opcode.SETXATTR: Row(extended.setxattr, protocol.SETXATTR_IN.size),
    Opcode.GETXATTR: Row(extended.getxattr, protocol.GETXATTR_IN.size),
    Opcode.LISTXATTR: Row(extended.listxattr, protocol.GETXATTR_IN.size),
    Opcode.REMOVEXATTR: Row(extended.removexattr),
    Opcode.TMPFILE: Row(files.tmpfile, protocol.CREATE_IN.size),
    Opcode.STATX: Row(names.statx, protocol.STATX_IN.size),
    Opcode.GETLK: Row(locks.getlk, protocol.LOCK_IN.size),
    Opcode.SETLK: Row(locks.setlk, protocol.LOCK_IN.size),
    Opcode.SETLKW: Row(locks.setlkw, protocol.LOCK_IN.size),
    Opcode.INTERRUPT: Row(locks.interrupt),
    Opcode.FALLOCATE: Row(ranges.fallocate, protocol.FALLOCATE_IN.size),
    Opcode.LSEEK: Row(ranges.lseek, protocol.LSEEK_IN.size),
    Opcode.COPY_FILE_RANGE: Row(ranges.copy_file_range, protocol.COPY_FILE_RANGE_IN.size),
    Opcode.COPY_FILE_RANGE_64: Row(
        ranges.copy_file_range_64, protocol.COPY_FILE_RANGE_IN.size),
    # `Operations` does not have this yet.
    Opcode.IOCTL: Row(None, protocol.IOCTL_IN.size),
    # These have no meaning here: permissions are the kernel's (default_permissions), files are
    # always ready, and their blocks are not on a device of this machine.
    Opcode.ACCESS: Row(None, protocol.ACCESS_IN.size),
    Opcode.POLL: Row(None, protocol.POLL_IN.size),
    Opcode.BMAP: Row(None, protocol.BMAP_IN.size),
}
# Inode ids are the cluster's own, so there is no table to forget from.
NO_REPLY = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY}
DETACHED = {Opcode.SETLK, Opcode.SETLKW}
MAY_UNLOCK = {Opcode.FLUSH, Opcode.RELEASE}
# What is not always answered by the thread that has read it, one by one.
SEVERAL_WAYS = {Opcode.READ, Opcode.GETATTR, *DETACHED, *MAY_UNLOCK}
OPENING = {Opcode.OPEN, Opcode.CREATE, Opcode.TMPFILE, Opcode.OPENDIR}
_REPORTED = {errno.EIO, errno.ETIMEDOUT}


class Dispatcher:
    """Answers requests, from any number of threads."""

    def __init__(self, context: Context) -> None:
        self.context = self._context = context
        self._walks = Walks()
        self.agreed: Agreed | None = None
        self._guard = threading.Lock()
        self.refused: Counter[int] = Counter()  # answers by errno

    def detached(self, request: Request) -> bool:
        """Whether an answer may have to wait for answers to other requests."""
        if request.opcode == Opcode.GETATTR and len(request.body) >= protocol.GETATTR_IN.size:
            return self._context.drops.lengths.doubt(request) != 0
        return request.opcode in DETACHED or (
            request.opcode in MAY_UNLOCK and self._context.operations.locks.any_held)

    def answer(self, request: Request) -> Data | int | None:
        """Blocks until it is known.

        Returns the data of the reply, or an errno greater than zero, or None for no reply.
        """
        row = TABLE.get(request.opcode)
        if row is None:
            return self._answer_special(request)
        answer = self._answer_row(row, request)
        if isinstance(answer, int):
            with self._guard:
                self.refused[answer] += 1
        return None if request.opcode in NO_REPLY else answer

    def answer_reads(self, requests: Sequence[Request]) -> list[Data | int | None]:
        """As `answer`, of many reads (`files.small_read`) that travel together."""
        self._context.begin()
        try:
            answers = drive(files.read_together(self._context, requests))
        except (FsError, RefusedError):
            answers = [None] * len(requests)
        for request, answer in zip(requests, answers, strict=True):
            if answer is not None:
                self._walks.other(request)
        # One that failed is asked by itself, where it finds its errno.
        return [self.answer(request) if answer is None else answer
                for request, answer in zip(requests, answers, strict=True)]

    def unwanted(self, request: Request, answer: Data) -> None:
        """The kernel did not take an answer any more: what was opened for it is closed."""
        if request.opcode not in OPENING:
            return
        handle = protocol.OPEN_OUT.unpack(bytes(answer[-protocol.OPEN_OUT.size :]))[0]
        if request.opcode == Opcode.OPENDIR:
            self._context.operations.releasedir(handle)
            return
        try:
            drive(self._context.operations.release(handle))
        except FsError as failure:
            log.warning("unwanted_handle", error=str(failure))

    def _answer_row(self, row: Row, request: Request) -> Data | int:
        if len(request.body) < row.body_bytes_min:
            return MALFORMED
        if row.handler is None:
            return errno.ENOSYS
        self._context.begin()
        try:
            answer = drive(row.handler(self._context, request))
            if self._walks.told:
                self._walks.other(request)
            return answer
        except RefusedError as refused:
            return refused.number
        except FsError as failure:
            if failure.kind == Kind.STALE_HANDLE:
                return self._walks.errno_of(request)
            self._walks.other(request)
            number = messages.errno_of(failure)
            if number in _REPORTED:
                log.warning("operation_failed", operation=Opcode(request.opcode).name.lower(),
                            error=str(failure))
            return number
        except Exception:
            # A bug in one handler must not end the mount; the trace is the report of it.
            log.exception("operation_broken", operation=Opcode(request.opcode).name.lower())
            return errno.EIO

    def _answer_special(self, request: Request) -> Data | int | None:
        if request.opcode in NO_REPLY:
            return None
        if request.opcode == Opcode.INIT:
            try:
                self.agreed, data = negotiate(request)
            except RefusedError as refused:
                return refused.number
            return data
        return b"" if request.opcode == Opcode.DESTROY else errno.ENOSYS
