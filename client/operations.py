"""`Operations`: the filesystem as a kernel binding needs it, knowing nothing of any binding.

Layer: shell. Inodes are named by their ids, open files by handle numbers; errors are FsError.
A binding translates its protocol to these calls and `FsError.facts.errno` back; nothing else.

Concurrency: any number of tasks of one loop, or of threads (ThreadRuntime). The lock guards the
tables of handles and of open files, the ended sessions, and each `OpenFile.handles`; it is never
held over a wait.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from luciole.client.core.runs import Run, updates
from luciole.client.endings import Endings
from luciole.client.files import OpenFile
from luciole.client.handles import Fresh, Handle, OpenFlags
from luciole.client.holding import register
from luciole.client.known_names import KnownNames
from luciole.client.listing import DirectoryHandle
from luciole.client.listings import Listings
from luciole.client.locks import Locks, Waiting
from luciole.client.parents import Parents
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.meta import MetaClient
from luciole.client.remote.packed import PackedReader
from luciole.client.write_buffer import Spawn
from luciole.client.xattrs import ExtendedAttributes
from luciole.errors import FsError, Kind
from luciole.inline import is_inline
from luciole.proto import common_pb2, meta_pb2, services
from luciole.runtime import Runtime
from luciole.waiting import names_anything

CLOSED_MAX = 1024
PUBLISHED_AT_ONCE = 8


class Operations(Listings):
    """All file operations of one client."""

    def __init__(
        self,
        runtime: Runtime,
        meta: MetaClient,
        chunks: ChunkClient,
        packed: PackedReader,
        *,
        write_limit: int,
        hold_seconds: float,
        believe_seconds: float = 0.0,
        spawn: Spawn | None = None,
    ) -> None:
        self.names = KnownNames()
        self.parents = Parents(runtime, meta, self.names, believe_seconds=believe_seconds)
        self.xattrs = ExtendedAttributes(
            runtime, meta, believe_seconds=believe_seconds, changing=self._changing,
            prepare=self._tell_attributes)
        self._runtime = runtime
        self._meta = meta
        self._chunks = chunks
        self.packed = packed
        self._write_limit = write_limit
        self._hold_seconds = hold_seconds
        self._believe_seconds = believe_seconds
        self.heard = 0  # changes by others that were told
        self._spawn = spawn
        self.locks = Locks(runtime, meta)
        self._guard = threading.Lock()
        self._files: dict[int, OpenFile] = {}
        self._closed: OrderedDict[int, OpenFile] = OrderedDict()  # those closed last
        self._handles: dict[int, Handle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self._next_handle = 1
        self._endings = Endings(meta)

    def _overlay(self, inode: meta_pb2.Inode) -> meta_pb2.Inode:
        """An inode with what a file that is open here, or was lately, knows better.

        An answer may be older than a close that overtook it: without the closed file's knowledge
        the kernel would be told the length of before.
        """
        self.xattrs.seen(inode)
        with self._guard:
            file = self._files.get(inode.inode_id) or self._closed.get(inode.inode_id)
        return file.overlay(inode) if file else inode

    def forget(self, inode_ids: Sequence[int]) -> None:
        """Others changed these."""
        self.names.forget(inode_ids)
        self.parents.forget(inode_ids)
        self.xattrs.forget(inode_ids)
        with self._guard:
            self.heard += 1
            files = [self._files[inode_id] for inode_id in inode_ids if inode_id in self._files]
        for file in files:
            file.forget_content()

    def forget_all(self) -> None:
        """Others may have changed anything."""
        self.names.forget_all()
        self.parents.forget_all()
        self.forget(self.open_files())

    def _changing(self, inode_ids: Sequence[int]) -> None:
        """This client changes the attributes of these: called before, and after."""
        self.names.changed(inode_ids)
        self.parents.forget(inode_ids)

    async def shown(self, inode: meta_pb2.Inode) -> meta_pb2.Inode:
        """An inode as this client sees it: what it wrote counts at once, also behind a cut."""
        shown = self._overlay(inode)
        file = self._files.get(inode.inode_id)
        if file is None:
            return shown
        await file.find_end()
        return self._overlay(inode)

    # Names.

    async def lookup(
        self, credential: common_pb2.Credential, parent: int, name: bytes, *,
        believe: bool = False,
    ) -> meta_pb2.Inode:
        """The inode behind a name.

        Args: believe: what is known counts, as others' changes are told.
        """
        known = self.names.find(credential, parent, name) if believe else None
        if known is None:
            try:
                reply = await self._meta.ask(services.META_LOOKUP, meta_pb2.LookupRequest(
                    credential=credential, parent=parent, name=name))
            except FsError as failure:
                if believe and failure.kind == Kind.NOT_FOUND:
                    await self._look_ahead(credential, parent, name)
                raise
            if believe:
                await self._look_ahead(credential, parent, name)
            return await self.shown(reply.inode)
        if known.inode is None:
            raise FsError(Kind.NOT_FOUND, "no such entry", repr(name))
        return await self.shown(known.inode)

    async def getattr(self, inode_id: int) -> meta_pb2.Inode:
        """The attributes of an inode."""
        reply = await self._meta.ask(
            services.META_STAT, meta_pb2.StatRequest(inode_id=inode_id))
        return await self.shown(reply.inode)

    def taken(self, inode_id: int) -> meta_pb2.Inode | None:
        """A directory that this client has just changed, if the answer to that is true still."""
        inode = self.parents.take(inode_id)
        return None if inode is None else self._overlay(inode)

    async def setattr(
        self, request: meta_pb2.SetAttrRequest, length: int | None = None, handle: int = 0
    ) -> meta_pb2.Inode:
        """Changes the length if given, then whatever else `request` names."""
        inode = None
        self._changing([request.inode_id])
        try:
            if length is not None:
                inode = await self.truncate(request.credential, request.inode_id, length, handle)
            if names_anything(request):
                file = self._files.get(request.inode_id)
                if file is not None:
                    inode = await file.set_attributes(self._writer(request.inode_id), request)
                else:
                    inode = (await self._meta.change(services.META_SET_ATTR, request)).inode
        finally:
            self._changing([request.inode_id])
        if inode is None:
            return await self.getattr(request.inode_id)
        return self._overlay(inode)

    async def truncate(
        self, credential: common_pb2.Credential, inode_id: int, length: int, handle: int = 0
    ) -> meta_pb2.Inode:
        """Changes the length, by an open handle or by permission."""
        request = meta_pb2.TruncateRequest(
            credential=credential, inode_id=inode_id, length=length)
        file = self._files.get(inode_id)
        try:
            if file is None:
                return (await self._meta.change(services.META_TRUNCATE, request)).inode
            known = self._handles.get(handle)
            if known is not None and known.writable:
                return await file.truncate(request, known)
            await self._tell_attributes(inode_id)
            return await file.truncate(request, None)
        finally:
            self.names.changed([inode_id])

    async def _tell_attributes(self, inode_id: int) -> None:
        """Before the service judges by the attributes of a file that is open here."""
        file = self._files.get(inode_id)
        if file is not None and file.attributes_wait:
            await file.publish(self._writer(inode_id), own=False)

    def _writer(self, inode_id: int) -> Handle | None:
        """A handle of this client that may write the file."""
        with self._guard:
            file = self._files.get(inode_id)
            handles = list(file.handles.values()) if file else []
        return next((handle for handle in handles if handle.writable), None)

    async def mkdir(
        self, credential: common_pb2.Credential, parent: int, name: bytes, mode: int,
        *, umask: int = 0,
    ) -> meta_pb2.Inode:
        """Makes a directory. `umask` is left to a default access control list, if there is one."""
        with self.names.inquiry() as inquiry:
            inode = (await self.parents.change(services.META_MAKE_DIR, meta_pb2.MakeDirRequest(
                credential=credential, parent=parent, name=name, mode=mode, umask=umask))).inode
            self.names.made(credential, inode.inode_id, inquiry)
        return inode

    async def make_node(self, request: meta_pb2.MakeNodeRequest) -> meta_pb2.Inode:
        """Makes a fifo, a socket or a device."""
        return (await self.parents.change(services.META_MAKE_NODE, request)).inode

    async def rmdir(self, credential: common_pb2.Credential, parent: int, name: bytes) -> None:
        """Removes an empty directory."""
        await self.parents.change(services.META_REMOVE_DIR, meta_pb2.RemoveRequest(
            credential=credential, parent=parent, name=name))

    async def unlink(self, credential: common_pb2.Credential, parent: int, name: bytes) -> None:
        """Takes a name away. A file that is open here lives on until its last close."""
        reply = await self.parents.change(services.META_UNLINK, meta_pb2.RemoveRequest(
            credential=credential, parent=parent, name=name))
        await self._keep_if_open(reply.inode)

    async def symlink(
        self, credential: common_pb2.Credential, parent: int, name: bytes, target: bytes
    ) -> meta_pb2.Inode:
        """Makes a symbolic link."""
        return (await self.parents.change(services.META_SYMLINK, meta_pb2.SymlinkRequest(
            credential=credential, parent=parent, name=name, target=target))).inode

    async def readlink(self, inode_id: int) -> bytes:
        """Where a symbolic link points."""
        reply = await self._meta.ask(
            services.META_READ_LINK, meta_pb2.StatRequest(inode_id=inode_id))
        return reply.inode.symlink

    async def link(
        self, credential: common_pb2.Credential, inode_id: int, parent: int, name: bytes
    ) -> meta_pb2.Inode:
        """Gives a file one more name."""
        reply = await self.parents.change(services.META_LINK, meta_pb2.LinkRequest(
            credential=credential, inode_id=inode_id, parent=parent, name=name))
        return self._overlay(reply.inode)

    async def rename(self, request: meta_pb2.RenameRequest) -> None:
        """Moves an entry."""
        reply = await self.parents.change(services.META_RENAME, request)
        if reply.HasField("replaced") and not request.exchange:
            await self._keep_if_open(reply.replaced)

    async def statfs(self, inode_id: int = 0) -> meta_pb2.StatFsReply:
        """Space and number of inodes: of the cluster, or of the quota that an inode is below."""
        return await self._meta.ask(
            services.META_STAT_FS, meta_pb2.StatRequest(inode_id=inode_id))

    # Files.

    async def create(
        self, credential: common_pb2.Credential, parent: int, name: bytes, mode: int,
        *, flags: OpenFlags, umask: int = 0,
    ) -> tuple[int, meta_pb2.Inode]:
        """Makes a file, or opens the one that is there; returns (handle, inode).

        Without a `name` it makes one that lives while it is open, unless it is linked (O_TMPFILE).
        """
        session = self._runtime.entropy.token(16) if flags.write else b""
        method = services.META_CREATE if name else services.META_CREATE_UNNAMED
        reply = await self.parents.change(method, meta_pb2.CreateRequest(
            credential=credential, parent=parent, name=name, mode=mode, umask=umask,
            exclusive=flags.exclusive, truncate=flags.truncate, read=flags.read,
            write=flags.write, session_id=session))
        number = self._new_handle(reply.inode, flags, session)
        if reply.created:
            self._files[reply.inode.inode_id].made_here()
        return number, self._overlay(reply.inode)

    async def open(
        self, credential: common_pb2.Credential, inode_id: int, flags: OpenFlags
    ) -> tuple[int, meta_pb2.Inode]:
        """Opens a file; returns (handle, inode). Only a write-open makes state at the server."""
        if not (flags.write or flags.truncate):
            heard = self.heard
            reply = await self._meta.ask(
                services.META_STAT, meta_pb2.StatRequest(inode_id=inode_id, with_content=True))
            if not reply.inode.trim_pending:
                number = self.open_found(reply.inode, reply.content, heard, flags)
                return number, self._overlay(reply.inode)
            inode = await self._open_remote(credential, inode_id, flags, b"")
            return self._new_handle(inode, flags, b""), self._overlay(inode)
        file = self._files.get(inode_id)
        if file is not None and flags.truncate:
            await file.flush(self._writer(inode_id))
        session = self._runtime.entropy.token(16) if flags.write else b""
        inode = await self._open_remote(credential, inode_id, flags, session)
        return self._new_handle(inode, flags, session), self._overlay(inode)

    def open_found(
        self, inode: meta_pb2.Inode, content: bytes, heard: int, flags: OpenFlags
    ) -> int:
        """A handle for reading a file that was asked for, with what is inline, at `heard`."""
        number = self._new_handle(inode, flags, b"")
        if is_inline(inode) and heard == self.heard:
            self._open_file(number)[1].learn(inode, content)
        return number

    async def _open_remote(
        self, credential: common_pb2.Credential, inode_id: int, flags: OpenFlags, session: bytes
    ) -> meta_pb2.Inode:
        await self._tell_attributes(inode_id)
        try:
            return (await self._meta.change(services.META_OPEN, meta_pb2.OpenRequest(
                credential=credential, inode_id=inode_id, read=flags.read, write=flags.write,
                truncate=flags.truncate, session_id=session))).inode
        finally:
            self.names.changed([inode_id])

    def _new_handle(
        self, inode: meta_pb2.Inode, flags: OpenFlags, session_id: bytes
    ) -> int:
        with self._guard:
            file = self._files.get(inode.inode_id)
            if file is None:
                before = self._closed.pop(inode.inode_id, None)
                file = self._files[inode.inode_id] = OpenFile(
                    self._runtime, self._meta, self._chunks, self.packed, inode,
                    write_limit=self._write_limit, spawn=self._spawn,
                    believe_seconds=self._believe_seconds,
                    check_io=self.locks.check_io)
                if before is not None:
                    file.refresh(before.inode)
            else:
                file.refresh(inode)
            number = self._take_number()
            handle = Handle(number, inode.inode_id, flags.read, flags.write, session_id,
                            self._runtime.clock.now(), flags.append, session_open=bool(session_id))
            self._handles[number] = file.handles[number] = handle
        return number

    def _take_number(self) -> int:
        """A handle number; under the guard."""
        number = self._next_handle
        self._next_handle += 1
        return number

    def _open_file(self, handle: int) -> tuple[Handle, OpenFile]:
        with self._guard:
            known = self._handles.get(handle)
            if known is None:
                raise FsError(Kind.NO_SESSION, "not an open handle", str(handle))
            return known, self._files[known.inode_id]

    def file_to_read(self, handle: int) -> OpenFile:
        """The open file of a handle that may read it. Raises FsError NO_SESSION."""
        known, file = self._open_file(handle)
        if not known.readable:
            raise FsError(Kind.NO_SESSION, "the handle is not open for reading", str(handle))
        return file

    async def settle(self, handle: int) -> None:
        """What was written would survive this client. Raises what those writes could not do."""
        known, file = self._open_file(handle)
        await file.store(known if known.writable else self._writer(known.inode_id))

    async def read(
        self, handle: int, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        """Up to `size` bytes from `offset`, short at the end of the file.

        With `room` (writable, at least `size` bytes) they are put there and nothing is allocated.
        """
        return await self._open_file(handle)[1].read(offset, size, room)

    async def write(
        self, handle: int, offset: int, data: memoryview, *, append: bool = False
    ) -> int:
        """Writes at `offset`; returns the number of bytes taken, which is all of them.

        With `append`, and if the file was opened to append, the end of the file counts instead.

        A read-only `data` may be looked at after the return, until the last view of it is gone.
        """
        known, file = self._writable(handle)
        if append and known.append:
            await file.append(known, data)
        else:
            await file.write(known, offset, data)
        return len(data)

    async def write_stored(self, inode_id: int, handle: int, runs: Sequence[Run]) -> None:
        """Writes what came from a mapping, in that order; the handle may be gone by now."""
        writer = self._handles.get(handle) or self._writer(inode_id)
        known, file = self._writable(writer.number if writer else handle)
        for update in updates(runs, file.inode.layout.chunk_size):
            if len(update) == 1:
                await file.write(known, update[0].offset, memoryview(update[0].data))
            else:
                await file.merge(known, update)

    async def fallocate(
        self, handle: int, offset: int, length: int, *, zero: bool, keep_size: bool
    ) -> None:
        """Makes [offset, offset + length) part of the file (unless `keep_size`), or zeros."""
        known, file = self._writable(handle)
        if zero:
            await file.zero(known, offset, offset + length, keep_size=keep_size)
            return
        free = (await self.statfs()).free_bytes
        if keep_size:
            file.check_room(offset + length, free)
        else:
            await file.allocate(known, offset + length, free)

    async def seek(self, handle: int, offset: int, *, data: bool) -> int | None:
        """lseek(2) with SEEK_DATA or SEEK_HOLE; None where that is ENXIO."""
        return await self._open_file(handle)[1].seek(offset, data=data)

    async def copy_range(
        self, source: int, source_offset: int, handle: int, offset: int, count: int
    ) -> int:
        """copy_file_range(2) between two handles; returns the number of bytes copied."""
        origin, source_file = self._open_file(source)
        if not origin.readable:
            raise FsError(Kind.NO_SESSION, "the handle is not open for reading", str(source))
        known, file = self._writable(handle)
        return await file.copy_from(known, source_file, source_offset, offset, count)

    def _writable(self, handle: int) -> tuple[Handle, OpenFile]:
        known, file = self._open_file(handle)
        if not known.writable:
            raise FsError(Kind.NO_SESSION, "the handle is not open for writing", str(handle))
        return known, file

    async def flush(self, handle: int, owner: int = 0) -> None:
        """close(2) of one descriptor: what was written is there for whoever opens next.

        The fcntl locks go that `owner` (the kernel's number for a process; 0: none) has on it.
        """
        known, file = self._open_file(handle)
        locked = self.locks.holds(known.inode_id, owner)
        try:
            if known.writable or locked:
                await file.flush(known if known.writable else self._writer(known.inode_id))
            if locked:
                await self.publish(file)
        finally:
            if locked:
                await self.locks.release_owner(known.inode_id, owner)

    async def fsync(self, handle: int) -> None:
        """Durable on every replica."""
        known, file = self._open_file(handle)
        await file.fsync(known if known.writable else self._writer(known.inode_id))

    async def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        known, file = self._open_file(handle)
        with self._guard:
            self._handles.pop(handle, None)
        told = False
        try:
            if known.writable and await file.close(known):
                await self._endings.end_later(meta_pb2.Session(
                    client_id=self._meta.client_id, session_id=known.session_id,
                    inode_id=known.inode_id, write=True))
            if known.registered:
                await self._meta.ask(services.META_RELEASE, meta_pb2.ReleaseRequest(
                    sessions=[known.reading_session(self._meta.client_id)]))
            told = True
            if self.locks.handle_holds(handle):
                await self.publish(file)
        finally:
            await self._release_locks(handle)
            with self._guard:
                self._drop(known, file, told=told)
            if known.writable:
                self.names.changed([known.inode_id])

    async def _release_locks(self, handle: int) -> None:
        """Nobody hears of a failure here; it is tried again later."""
        try:
            await self.locks.release_handle(handle)
        except FsError:
            return

    def _drop(self, handle: Handle, file: OpenFile, *, told: bool) -> None:
        """Takes a handle off its file, under the guard; `told`: meta knows what was written."""
        file.handles.pop(handle.number, None)
        if file.handles or self._files.get(handle.inode_id) is not file:
            return
        del self._files[handle.inode_id]
        self.locks.forget(handle.inode_id)
        if told:
            self._closed[handle.inode_id] = file
            self._closed.move_to_end(handle.inode_id)
            if len(self._closed) > CLOSED_MAX:
                self._closed.popitem(last=False)

    # Locks.

    async def lock(
        self, handle: int, lock: meta_pb2.FileLock, waiting: Waiting | None = None
    ) -> Fresh:
        """Takes a lock (owner, kind, type, range), waiting for it if `waiting` is given.

        Returns what the kernel must be told before the lock is announced, so that its holder sees
        what the last one wrote. Raises as `Locks.acquire`.
        """
        known, file = self._open_file(handle)
        if self.lock_weakens(handle, lock):
            await self.publish(file)
        return file.take_over(await self.locks.acquire(known.inode_id, handle, lock, waiting))

    def lock_weakens(self, handle: int, lock: meta_pb2.FileLock) -> bool:
        """Whether a request for a lock also gives up what its owner has, as an unlock does."""
        return self.locks.weakens(self._open_file(handle)[0].inode_id, lock)

    async def unlock(self, handle: int, lock: meta_pb2.FileLock) -> None:
        """Gives up a range, after what was written here is there for whoever locks next."""
        known, file = self._open_file(handle)
        try:
            await self.publish(file)
        finally:
            await self.locks.release(known.inode_id, lock)

    async def publish(self, locked: OpenFile | None = None, *, but: int = 0) -> None:
        """What was written here, to whatever file `but` one, is there for others: a lock may guard
        anything (release consistency, Gharachorloo et al. 1990). Raises what `locked`'s writes do.
        """
        with self._guard:
            files = [file for inode_id, file in self._files.items()
                     if inode_id != but and not file.published]
        for begin in range(0, len(files), PUBLISHED_AT_ONCE):
            await self._runtime.gather([
                partial(file.publish, self._writer(file.inode.inode_id), own=file is locked)
                for file in files[begin : begin + PUBLISHED_AT_ONCE]])

    def open_files(self, *, mappable: bool = False) -> list[int]:
        """Inodes that are open here; `mappable`: to read and write."""
        with self._guard:
            return [inode_id for inode_id, file in self._files.items() if not mappable or any(
                handle.readable and handle.writable for handle in file.handles.values())]

    async def test_lock(
        self, handle: int, lock: meta_pb2.FileLock
    ) -> meta_pb2.FileLock | None:
        """What is in the way of a lock, or None."""
        return await self.locks.test(self._open_file(handle)[0].inode_id, lock)

    # Keeping files that are open.

    async def hold_once(self) -> None:
        """Registers handles without a session that have been open for a while."""
        old = self._runtime.clock.now() - self._hold_seconds
        with self._guard:
            handles = list(self._handles.values())
        await register(self._meta, [
            handle for handle in handles
            if not handle.session_open and not handle.registered and handle.opened_at < old])
        await self._endings.tell()
        await self.locks.settle()
        for inode_id in self.open_files():
            await self._tell_attributes(inode_id)

    async def _keep_if_open(self, inode: meta_pb2.Inode) -> None:
        with self._guard:
            file = self._files.get(inode.inode_id)
            handles = list(file.handles.values()) if file is not None else []
        if inode.nlink == 0 and inode.type == meta_pb2.REGULAR:
            await register(self._meta, [
                handle for handle in handles
                if not handle.session_open and not handle.registered])

    async def close_all(self) -> None:
        """Ends every handle, for an unmount. Failures of single files are not raised."""
        for number in list(self._handles):
            try:
                await self.release(number)
            except FsError:
                continue
        await self._endings.tell()
