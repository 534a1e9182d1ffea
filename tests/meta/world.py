"""A metadata service on a store in memory, with chunks and a cluster that a test can look into.

Layer: tests. Everything blocks on no one, so a coroutine is driven by `drive`; sleeping moves the
clock and takes no time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import FsError, Kind
from luciole.inline import chunks_end
from luciole.kv.interface import KeyValue, KeyValueStore, Transaction, prefix_end
from luciole.kv.memory import NO_FAULTS, Faults, MemoryStore
from luciole.meta.core import schema
from luciole.meta.gc import Collected, Collector
from luciole.meta.service import MetaService
from luciole.proto import common_pb2, meta_pb2
from luciole.rpc.interface import ServerCall
from luciole.runtime import ThreadRuntime, drive

ROOT = schema.ROOT_ID
GRACE = 30.0
CALL = ServerCall(1e18)
CHUNK = 64 * 1024


class SteppedRuntime(ThreadRuntime):
    """Sleeping moves the clock."""

    def __init__(self, seed: int = 1) -> None:
        self.manual = ManualClock()
        super().__init__(self.manual, SeededEntropy(seed))

    async def sleep(self, seconds: float) -> None:
        self.manual.advance(seconds)


class FakeChunks:
    """Remembers how far each file's chunks reach. Fails while `broken`."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.trims: list[tuple[int, int]] = []
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise FsError(Kind.UNAVAILABLE, "the chains are out of reach")

    async def trim(
        self, inode: meta_pb2.Inode, pending: Callable[[], Awaitable[bool]]
    ) -> None:
        self._check()
        if not await pending():
            return
        self.trims.append((inode.inode_id, chunks_end(inode)))
        end = self.ends.get(inode.inode_id, 0)
        self.ends[inode.inode_id] = min(end, chunks_end(inode))

    async def data_end(self, inode: meta_pb2.Inode) -> int:
        self._check()
        return self.ends.get(inode.inode_id, 0)

    async def allocated(self, inode: meta_pb2.Inode) -> int:
        return self.ends.get(inode.inode_id, 0)

    async def remove_all(
        self, inodes: Sequence[meta_pb2.Inode], *, everywhere: bool = False
    ) -> None:
        self._check()
        for inode in inodes:
            # As the real one: the recorded length tells which chains have chunks.
            if chunks_end(inode) or everywhere:
                self.ends.pop(inode.inode_id, None)


class FakeCluster:
    """Layouts without chains behind them; clients live as told."""

    def __init__(self) -> None:
        self.alive: set[bytes] | None = None

    async def new_layout(self) -> meta_pb2.Layout:
        return meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=1)

    async def space(self) -> tuple[int, int, int]:
        return (1000, 600, 400)

    async def live_clients(self) -> set[bytes] | None:
        return self.alive


def user(uid: int = 0, gid: int | None = None, *groups: int) -> common_pb2.Credential:
    """A caller; the group is the user's own unless told."""
    return common_pb2.Credential(uid=uid, gid=uid if gid is None else gid, groups=groups)


class World:
    """Two metadata services on one store, and clients' request ids."""

    def __init__(
        self, faults: Faults = NO_FAULTS, seed: int = 1, kv: KeyValueStore | None = None
    ) -> None:
        self.runtime = SteppedRuntime(seed)
        self.store = MemoryStore(self.runtime)
        self.kv = kv or self.store
        self.chunks = FakeChunks()
        self.cluster = FakeCluster()
        self.meta = self.service()
        self.other = self.service()
        self.collector = Collector(
            self.kv, self.runtime, self.chunks, self.cluster, grace_seconds=GRACE)
        drive(self.meta.start())
        self.store.faults = faults
        self._sequences: dict[bytes, int] = {}

    def service(self) -> MetaService:
        return MetaService(self.kv, self.runtime, self.chunks, self.cluster)

    def pass_time(self, seconds: float) -> None:
        self.runtime.manual.advance(seconds)

    @property
    def now_ns(self) -> int:
        return self.runtime.clock.wall_ns()

    def collect(self) -> Collected:
        return drive(self.collector.run_once())

    def request_id(self, client: bytes = b"c" * 16) -> common_pb2.RequestId:
        self._sequences[client] = self._sequences.get(client, 0) + 1
        sequence = self._sequences[client]
        return common_pb2.RequestId(
            client_id=client, sequence=sequence, first_incomplete=sequence)

    # Operations, as root unless told otherwise. Each moves the clock on, so that times differ.

    def _tick(self) -> common_pb2.RequestId:
        self.pass_time(0.001)
        return self.request_id()

    def mkdir(
        self, name: bytes, parent: int = ROOT, mode: int = 0o755,
        by: common_pb2.Credential | None = None,
    ) -> meta_pb2.Inode:
        return drive(self.meta.make_dir(meta_pb2.MakeDirRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name,
            mode=mode), CALL)).inode

    def create(
        self, name: bytes, parent: int = ROOT, mode: int = 0o644,
        by: common_pb2.Credential | None = None, *, exclusive: bool = False,
        truncate: bool = False, write: bool = False, read: bool = False, session: bytes = b"",
        client: bytes = b"c" * 16,
    ) -> meta_pb2.CreateReply:
        self.pass_time(0.001)
        return drive(self.meta.create(meta_pb2.CreateRequest(
            request_id=self.request_id(client), credential=by or user(), parent=parent,
            name=name, mode=mode, exclusive=exclusive, truncate=truncate, write=write, read=read,
            session_id=session), CALL))

    def file(
        self, name: bytes, parent: int = ROOT, mode: int = 0o644,
        by: common_pb2.Credential | None = None,
    ) -> meta_pb2.Inode:
        return self.create(name, parent, mode, by).inode

    def open(
        self, inode_id: int, session: bytes, *, write: bool = True, truncate: bool = False,
        by: common_pb2.Credential | None = None, client: bytes = b"c" * 16,
    ) -> meta_pb2.Inode:
        self.pass_time(0.001)
        return drive(self.meta.open(meta_pb2.OpenRequest(
            request_id=self.request_id(client), credential=by or user(), inode_id=inode_id,
            read=not write, write=write, truncate=truncate, session_id=session), CALL)).inode

    def close(
        self, inode_id: int, session: bytes, length: int = 0, version: int = 0,
        client: bytes = b"c" * 16,
    ) -> meta_pb2.Inode:
        self.pass_time(0.001)
        hint = meta_pb2.LengthHint(
            length=length, truncate_version=version, mtime_ns=self.now_ns if length else 0)
        return drive(self.meta.close(meta_pb2.CloseRequest(
            request_id=self.request_id(client), inode_id=inode_id, session_id=session,
            hint=hint), CALL)).inode

    def fsync(
        self, inode_id: int, session: bytes, length: int, version: int = 0,
        client: bytes = b"c" * 16,
    ) -> meta_pb2.Inode:
        self.pass_time(0.001)
        hint = meta_pb2.LengthHint(
            length=length, truncate_version=version, mtime_ns=self.now_ns)
        return drive(self.meta.fsync(meta_pb2.FsyncRequest(
            request_id=self.request_id(client), inode_id=inode_id, session_id=session,
            hint=hint), CALL)).inode

    def truncate(
        self, inode_id: int, length: int, by: common_pb2.Credential | None = None,
        session: bytes = b"", client: bytes = b"c" * 16,
    ) -> meta_pb2.Inode:
        self.pass_time(0.001)
        return drive(self.meta.truncate(meta_pb2.TruncateRequest(
            request_id=self.request_id(client), credential=by or user(), inode_id=inode_id,
            length=length, session_id=session), CALL)).inode

    def unlink(
        self, name: bytes, parent: int = ROOT, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.unlink(meta_pb2.RemoveRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name),
            CALL)).inode

    def rmdir(
        self, name: bytes, parent: int = ROOT, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.remove_dir(meta_pb2.RemoveRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name),
            CALL)).inode

    def symlink(
        self, name: bytes, target: bytes, parent: int = ROOT,
        by: common_pb2.Credential | None = None,
    ) -> meta_pb2.Inode:
        return drive(self.meta.symlink(meta_pb2.SymlinkRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name,
            target=target), CALL)).inode

    def link(
        self, inode_id: int, name: bytes, parent: int = ROOT,
        by: common_pb2.Credential | None = None,
    ) -> meta_pb2.Inode:
        return drive(self.meta.link(meta_pb2.LinkRequest(
            request_id=self._tick(), credential=by or user(), inode_id=inode_id, parent=parent,
            name=name), CALL)).inode

    def rename(
        self, name: bytes, new_name: bytes, parent: int = ROOT, new_parent: int = ROOT,
        by: common_pb2.Credential | None = None, *, no_replace: bool = False,
        exchange: bool = False,
    ) -> meta_pb2.RenameReply:
        return drive(self.meta.rename(meta_pb2.RenameRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name,
            new_parent=new_parent, new_name=new_name, no_replace=no_replace,
            exchange=exchange), CALL))

    def node(
        self, name: bytes, kind: meta_pb2.FileType, parent: int = ROOT, mode: int = 0o644,
        by: common_pb2.Credential | None = None, *, rdev: int = 0,
    ) -> meta_pb2.Inode:
        return drive(self.meta.make_node(meta_pb2.MakeNodeRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name, mode=mode,
            type=kind, rdev=rdev), CALL)).inode

    def unnamed(
        self, session: bytes, parent: int = ROOT, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.create_unnamed(meta_pb2.CreateRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, mode=0o600,
            write=True, session_id=session), CALL)).inode

    def set_xattr(
        self, inode_id: int, name: bytes, value: bytes,
        by: common_pb2.Credential | None = None, *, create: bool = False, replace: bool = False,
        clear_setgid: bool = False,
    ) -> meta_pb2.Inode:
        return drive(self.meta.set_xattr(meta_pb2.SetXattrRequest(
            request_id=self._tick(), credential=by or user(), inode_id=inode_id, name=name,
            value=value, create=create, replace=replace, clear_setgid=clear_setgid), CALL)).inode

    def get_xattr(
        self, inode_id: int, name: bytes, by: common_pb2.Credential | None = None
    ) -> bytes:
        return drive(self.meta.get_xattr(meta_pb2.GetXattrRequest(
            credential=by or user(), inode_id=inode_id, name=name), CALL)).value

    def list_xattr(
        self, inode_id: int, by: common_pb2.Credential | None = None
    ) -> list[bytes]:
        return list(drive(self.meta.list_xattr(meta_pb2.ListXattrRequest(
            credential=by or user(), inode_id=inode_id), CALL)).names)

    def remove_xattr(
        self, inode_id: int, name: bytes, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.remove_xattr(meta_pb2.RemoveXattrRequest(
            request_id=self._tick(), credential=by or user(), inode_id=inode_id, name=name),
            CALL)).inode

    def remove_tree(
        self, name: bytes, parent: int = ROOT, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.remove_tree(meta_pb2.RemoveTreeRequest(
            request_id=self._tick(), credential=by or user(), parent=parent, name=name),
            CALL)).inode

    def set_quota(
        self, inode_id: int, size: int | None = None, inodes: int | None = None,
        by: common_pb2.Credential | None = None,
    ) -> meta_pb2.Quota:
        return drive(self.meta.set_quota(meta_pb2.SetQuotaRequest(
            request_id=self._tick(), credential=by or user(), inode_id=inode_id,
            bytes_limit=size, inodes_limit=inodes), CALL)).quota

    def remove_quota(self, inode_id: int) -> None:
        drive(self.meta.remove_quota(meta_pb2.RemoveQuotaRequest(
            request_id=self._tick(), credential=user(), inode_id=inode_id), CALL))

    def quota(self, inode_id: int) -> meta_pb2.Quota:
        return drive(self.meta.get_quota(meta_pb2.StatRequest(inode_id=inode_id), CALL)).quota

    def used(self, inode_id: int) -> tuple[int, int]:
        """(bytes, inodes) of the root that an inode counts for."""
        quota = self.quota(inode_id)
        return quota.bytes_used, quota.inodes_used

    def set_attr(
        self, request: meta_pb2.SetAttrRequest, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        request.request_id.CopyFrom(self._tick())
        request.credential.CopyFrom(by or user())
        return drive(self.meta.set_attr(request, CALL)).inode

    def lookup(
        self, name: bytes, parent: int = ROOT, by: common_pb2.Credential | None = None
    ) -> meta_pb2.Inode:
        return drive(self.meta.lookup(meta_pb2.LookupRequest(
            credential=by or user(), parent=parent, name=name), CALL)).inode

    def stat(self, inode_id: int) -> meta_pb2.Inode:
        return drive(self.meta.stat(meta_pb2.StatRequest(inode_id=inode_id), CALL)).inode

    def names(self, inode_id: int = ROOT, by: common_pb2.Credential | None = None) -> list[bytes]:
        found: list[bytes] = []
        while True:
            page = drive(self.meta.read_dir(meta_pb2.ReadDirRequest(
                credential=by or user(), inode_id=inode_id, after=found[-1] if found else b"",
                limit=3), CALL))
            found += [entry.dentry.name for entry in page.entries]
            if not page.more:
                return found

    def inode_count(self) -> int:
        return drive(self.meta.stat_fs(meta_pb2.StatRequest(), CALL)).inodes

    def keys(self, prefix: bytes) -> list[bytes]:
        """What the store has under a prefix."""
        async def body(txn: Transaction) -> list[bytes]:
            return [row.key for row in await txn.get_range(prefix, prefix_end(prefix))]

        return drive(self.store.run(body))

    def records(self, prefix: bytes) -> list[KeyValue]:
        """The same, with values."""
        async def body(txn: Transaction) -> list[KeyValue]:
            return await txn.get_range(prefix, prefix_end(prefix))

        return drive(self.store.run(body))

    def check(self) -> None:
        """fsck: every entry has its inode, every inode its links, and the counts are right."""
        self._check_usage()
        inodes = {i.inode_id: i for i in self._scan("inodes")}
        detached = {schema.decode(row.value, meta_pb2.Inode, "").inode_id
                    for prefix in (schema.DETACHED, schema.TRASHED)
                    for row in self.records(prefix)}
        names: dict[int, int] = {}
        children: dict[int, int] = {}
        for dentry in self._scan("dentries"):
            inode = inodes[dentry.inode_id]
            assert dentry.type == inode.type
            if dentry.parent not in detached:
                assert inodes[dentry.parent].type == meta_pb2.DIRECTORY
            names[dentry.inode_id] = names.get(dentry.inode_id, 0) + 1
            if inode.type == meta_pb2.DIRECTORY:
                assert inode.parent == dentry.parent
                children[dentry.parent] = children.get(dentry.parent, 0) + 1
        trashed = {item.inode_id: item for item in (
            schema.decode(row.value, meta_pb2.Inode, "") for row in self.records(schema.TRASHED))}
        orphans = {schema.inode_id_of(key) for key in self.keys(schema.ORPHAN)}
        for inode in inodes.values():
            if inode.type == meta_pb2.DIRECTORY:
                assert names.get(inode.inode_id, 0) == (inode.inode_id != ROOT)
                assert inode.nlink == 2 + children.get(inode.inode_id, 0)
            else:
                assert inode.nlink == names.get(inode.inode_id, 0)
                assert (inode.nlink == 0) == (inode.inode_id in orphans | trashed.keys())
        for prefix in (schema.DIRECTORY_TIMES, schema.DIRECTORY_SUBDIRECTORIES):
            for key in self.keys(prefix):
                assert (inodes | trashed)[schema.inode_id_of(key)].type == meta_pb2.DIRECTORY
        assert self.inode_count() == len(inodes)
        attributes = dict.fromkeys(trashed | inodes, 0)
        for key, value in self.records(schema.XATTR):
            attributes[schema.inode_id_of(key)] += len(key) - 12 + len(value)
        records = {schema.inode_id_of(key): len(value) - 1
                   for key, value in self.records(schema.INLINE)}
        assert records == {
            number: inode.inline_bytes for number, inode in inodes.items() if inode.inline_bytes}
        assert attributes == {
            number: inode.xattr_bytes for number, inode in (trashed | inodes).items()}

    def _check_usage(self) -> None:
        truth: dict[int, list[int]] = {}
        for inode in self._scan("inodes"):
            if inode.quota_root:
                sums = truth.setdefault(inode.quota_root, [0, 0])
                sums[0] += inode.length
                sums[1] += 1
        quotas = {quota.inode_id: quota for quota in self._scan("quotas")}
        assert truth.keys() <= quotas.keys()
        for root, quota in quotas.items():
            assert [quota.bytes_used, quota.inodes_used] == truth.get(root, [0, 0])

    def _scan(self, what: str) -> list[Any]:
        found: list[Any] = []
        scan = getattr(self.meta, f"scan_{what}")
        request = meta_pb2.ScanRequest(limit=7)
        while True:
            page: meta_pb2.ScanReply = drive(scan(request, CALL))
            found += getattr(page, what)
            if not page.more:
                return found
            request.after = page.last
