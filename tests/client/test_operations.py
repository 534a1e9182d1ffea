"""Mounts end to end in one process: files against a bytearray, close-to-open, open and unlinked."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luciole.client.endings import ENDED_MAX
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import common_pb2, meta_pb2, services
from luciole.tests.sim.cluster import CHUNK
from luciole.tests.sim.filesystem import (
    BOTH,
    CREDENTIAL,
    GRACE,
    READ,
    ROOT,
    FileSystem,
    run_filesystem,
)
from luciole.tests.sim.network import SOUND, Fault, Loss

SMALL = INLINE_BYTES_MAX
OFFSETS = st.sampled_from([
    0, 1, 100, 5000, SMALL - 1, SMALL, CHUNK - 1, CHUNK, CHUNK + 7, 2 * CHUNK, 3 * CHUNK - 5])
LENGTHS = st.sampled_from([1, 7, 3000, 4096, SMALL, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
STEP = st.one_of(
    st.tuples(st.just("write"), OFFSETS, LENGTHS),
    st.tuples(st.just("append"), st.just(0), LENGTHS),
    st.tuples(st.just("read"), OFFSETS, LENGTHS),
    st.tuples(st.just("zero"), OFFSETS, LENGTHS),
    st.tuples(st.just("punch"), OFFSETS, LENGTHS),
    st.tuples(st.just("copy"), OFFSETS, LENGTHS),
    st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
    st.tuples(st.just("fsync"), st.just(0), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
    st.tuples(st.just("reopen"), st.integers(0, 1), st.booleans()),
)


class File:
    """One file on two mounts, used by one at a time, beside what it must hold."""

    def __init__(self, mounts: list[Operations], inode_id: int) -> None:
        self.mounts = mounts
        self.inode_id = inode_id
        self.content = bytearray()
        self.mount = mounts[0]
        self.handle = 0
        self._stamp = 0

    async def step(self, kind: str, first: int, second: int) -> None:
        if kind in {"write", "append"}:
            offset = len(self.content) if kind == "append" else first
            self._stamp = self._stamp % 250 + 1
            data = bytes([self._stamp]) * second
            await self.mount.write(
                self.handle, offset, memoryview(data), append=kind == "append")
            self.content.extend(bytes(max(0, offset + second - len(self.content))))
            self.content[offset : offset + second] = data
        elif kind in {"zero", "punch", "copy"}:
            await self.range_step(kind, first, second)
        elif kind == "read":
            found = await self.mount.read(self.handle, first, second)
            assert bytes(found) == bytes(self.content[first : first + second])
        elif kind == "truncate":
            await self.mount.truncate(CREDENTIAL, self.inode_id, first, self.handle)
            del self.content[first:]
            self.content.extend(bytes(first - len(self.content)))
        elif kind == "fsync":
            await self.mount.fsync(self.handle)
        elif kind == "flush":
            await self.mount.flush(self.handle)
        else:
            await self.mount.flush(self.handle)
            await self.mount.release(self.handle)
            self.mount = self.mounts[first]
            cut = OpenFlags(read=True, write=True, truncate=bool(second), append=True)
            self.handle, inode = await self.mount.open(CREDENTIAL, self.inode_id, cut)
            if second:
                self.content.clear()
            assert inode.length == len(self.content)
        assert (await self.mount.getattr(self.inode_id)).length == len(self.content)

    async def range_step(self, kind: str, first: int, second: int) -> None:
        if kind != "copy":
            await self.mount.fallocate(
                self.handle, first, second, zero=True, keep_size=kind == "punch")
            if kind == "zero":
                self.content.extend(bytes(max(0, first + second - len(self.content))))
            end = min(first + second, len(self.content))
            self.content[first:end] = bytes(max(0, end - first))
        else:
            # To behind the end, at the same place of a chunk or at another.
            offset = max(first, len(self.content)) + second % 2 * (CHUNK - 1)
            offset += (first - offset) % CHUNK if second % 3 else 0
            done = await self.mount.copy_range(self.handle, first, self.handle, offset, second)
            data = bytes(self.content[first : first + second])
            assert done == len(data)
            if data:
                self.content.extend(bytes(max(0, offset + done - len(self.content))))
                self.content[offset : offset + done] = data


async def play(filesystem: FileSystem, steps: list[tuple[str, int, int]]) -> None:
    mounts = [filesystem.mount(1), filesystem.mount(2)]
    handle, inode = await mounts[0].create(
        CREDENTIAL, ROOT, b"f", 0o644, flags=OpenFlags(read=True, write=True, append=True))
    file = File(mounts, inode.inode_id)
    file.handle = handle
    for step in steps:
        await file.step(*step)
    await file.step("reopen", 1, 0)
    await file.step("read", 0, 10 * CHUNK)
    await file.mount.flush(file.handle)
    inode = await mounts[0].getattr(file.inode_id)
    assert inode.allocated == await filesystem.chunks.allocated(inode)


@given(st.lists(STEP, max_size=14), st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_file_holds_what_was_written(
    steps: list[tuple[str, int, int]], background: bool
) -> None:
    run_filesystem(lambda filesystem: play(filesystem, steps), background=background)


@given(st.lists(STEP, min_size=3, max_size=10), st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_file_holds_what_was_written_over_a_lossy_network(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    async def body(filesystem: FileSystem) -> None:
        chance = filesystem.cluster.random

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if chance.random() < 0.15:
                return Fault(loss=chance.choice(list(Loss)), delay=chance.random() * 0.01)
            return SOUND

        filesystem.cluster.network.rule = rule
        await play(filesystem, steps)

    run_filesystem(body, seed=seed)


def test_a_file_that_is_cut_short_shows_zeros_when_it_grows() -> None:
    async def body(filesystem: FileSystem) -> None:
        await play(filesystem, [
            ("write", 0, 2 * CHUNK + 3), ("fsync", 0, 0), ("truncate", 100, 0),
            ("truncate", 2 * CHUNK, 0), ("read", 0, 3 * CHUNK), ("append", 0, 7)])

    run_filesystem(body)


def test_an_unlinked_file_is_readable_while_any_mount_has_it_open() -> None:
    """Two mounts whose handles have the same number; the chunks go with the last of them."""

    async def body(filesystem: FileSystem) -> None:
        writer = filesystem.mount(9)
        handle, inode = await writer.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await writer.write(handle, 0, memoryview(b"still here"))
        await writer.flush(handle)
        await writer.release(handle)
        mounts = [filesystem.mount(1), filesystem.mount(2)]
        handles = [(await mount.open(CREDENTIAL, inode.inode_id, READ))[0] for mount in mounts]
        assert handles[0] == handles[1]
        await filesystem.sleep(11)
        for mount in mounts:
            await mount.hold_once()
        await writer.unlink(CREDENTIAL, ROOT, b"f")
        await mounts[0].release(handles[0])
        await filesystem.sleep(2 * GRACE)
        await filesystem.collector.run_once()
        assert bytes(await mounts[1].read(handles[1], 0, 100)) == b"still here"
        await mounts[1].release(handles[1])
        await filesystem.collector.run_once()
        with pytest.raises(FsError) as caught:
            await mounts[1].getattr(inode.inode_id)
        assert caught.value.kind == Kind.STALE_HANDLE
        assert await filesystem.cluster.same_everywhere() == {}

    run_filesystem(body)


def test_sessions_with_nothing_to_report_end_together() -> None:
    """Sixty-four unused sessions cost one request; fewer wait for the next round."""

    async def sessions(mount: Operations) -> int:
        reply = await mount._meta.ask(
            services.META_SCAN_SESSIONS, meta_pb2.ScanRequest(limit=1000))
        return len(reply.sessions)

    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        for number in range(ENDED_MAX):
            assert await sessions(mount) == number
            handle, _ = await mount.create(
                CREDENTIAL, ROOT, b"%d" % number, 0o644, flags=BOTH)
            await mount.flush(handle)
            await mount.release(handle)
        assert await sessions(mount) == 0
        handle, inode = await mount.create(CREDENTIAL, ROOT, b"last", 0o644, flags=BOTH)
        await mount.release(handle)
        written, _ = await mount.create(CREDENTIAL, ROOT, b"written", 0o644, flags=BOTH)
        await mount.write(written, 0, memoryview(b"data"))
        await mount.flush(written)  # the report ends it
        await mount.release(written)
        assert await sessions(mount) == 1
        await mount.unlink(CREDENTIAL, ROOT, b"last")
        await mount.hold_once()
        assert await sessions(mount) == 0
        await filesystem.sleep(2 * GRACE)
        await filesystem.collector.run_once()
        with pytest.raises(FsError) as caught:
            await mount.getattr(inode.inode_id)
        assert caught.value.kind == Kind.STALE_HANDLE

    run_filesystem(body)


def test_an_own_unlink_keeps_an_open_file() -> None:
    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        handle, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        reader, _ = await mount.open(CREDENTIAL, inode.inode_id, READ)
        await mount.write(handle, 0, memoryview(b"data"))
        await mount.flush(handle)
        await mount.release(handle)
        await mount.rename(meta_pb2.RenameRequest(
            credential=CREDENTIAL, parent=ROOT, name=b"f", new_parent=ROOT, new_name=b"g"))
        await mount.unlink(CREDENTIAL, ROOT, b"g")
        await filesystem.sleep(2 * GRACE)
        await filesystem.collector.run_once()
        assert bytes(await mount.read(reader, 0, 10)) == b"data"
        await mount.close_all()
        await filesystem.collector.run_once()
        assert await filesystem.cluster.same_everywhere() == {}

    run_filesystem(body)


def test_a_cut_that_is_under_way_is_not_written_over() -> None:
    """Another client's cut has a new length but old chunks: its trim would take new bytes."""

    async def body(filesystem: FileSystem) -> None:
        cutter, writer = filesystem.mount(1), filesystem.mount(2)
        handle, inode = await writer.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await writer.write(handle, 0, memoryview(b"x" * CHUNK))
        await writer.fsync(handle)
        cluster = filesystem.cluster
        removals = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            if method == "remove_listed":
                removals.append(1)
                return Fault(delay=0.8)
            return SOUND

        cluster.network.rule = rule
        cluster.network.nursery.start_soon(cutter.truncate, CREDENTIAL, inode.inode_id, 0)
        await filesystem.sleep(0.2)
        assert removals
        await writer.getattr(inode.inode_id)
        await writer.write(handle, 0, memoryview(b"new"))
        await writer.flush(handle)
        await writer.release(handle)
        await filesystem.sleep(2.0)
        handle, inode = await cutter.open(CREDENTIAL, inode.inode_id, READ)
        found = bytes(await cutter.read(handle, 0, 10))
        assert (inode.length, found) in {(0, b""), (3, b"new")}, "zeros were never written"

    run_filesystem(body)


def test_what_is_written_after_a_cut_elsewhere_is_seen_at_once() -> None:
    """The writer has not heard of the cut, and its kernel asks for the length before it closes."""

    async def body(filesystem: FileSystem) -> None:
        cutter, writer = filesystem.mount(1), filesystem.mount(2)
        handle, inode = await writer.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await writer.write(handle, 0, memoryview(b"x" * CHUNK))
        await writer.fsync(handle)
        await cutter.truncate(CREDENTIAL, inode.inode_id, 0)
        await writer.write(handle, 5, memoryview(b"new"))
        assert (await writer.getattr(inode.inode_id)).length == 8
        assert bytes(await writer.read(handle, 0, 100)) == bytes(5) + b"new"
        await writer.write(handle, 8, memoryview(b"er"))
        assert (await writer.lookup(CREDENTIAL, ROOT, b"f")).length == 10
        await writer.release(handle)
        assert (await cutter.getattr(inode.inode_id)).length == 10

    run_filesystem(body)


def test_room_made_after_a_cut_elsewhere_is_there() -> None:
    """No chunk shows it, so the writer has to know of the cut."""

    async def body(filesystem: FileSystem) -> None:
        cutter, writer = filesystem.mount(1), filesystem.mount(2)
        handle, inode = await writer.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await cutter.truncate(CREDENTIAL, inode.inode_id, 0)
        await writer.fallocate(handle, 0, 5000, zero=True, keep_size=False)
        assert (await cutter.getattr(inode.inode_id)).length == 5000

    run_filesystem(body)


def test_an_answer_that_a_close_overtook_shows_no_old_length() -> None:
    """The kernel would believe it, and an appender would write over the start of the file."""

    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        handle, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        seen = []

        def rule(source: int, destination: int, method: str, request: Message) -> Fault:
            return Fault(reply_delay=0.5) if method == "stat" else SOUND

        async def look() -> None:
            seen.append((await mount.getattr(inode.inode_id)).length)

        await mount.write(handle, 0, memoryview(b"abc"))
        filesystem.cluster.network.rule = rule
        filesystem.cluster.network.nursery.start_soon(look)
        await filesystem.sleep(0.1)
        await mount.flush(handle)
        await mount.release(handle)
        await filesystem.sleep(1.0)
        assert seen == [3]

    run_filesystem(body)


def test_a_failed_write_is_told_at_flush_and_only_once() -> None:
    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        handle, _ = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        for node in filesystem.cluster.nodes.values():
            node.engine.fill_disk()
        await mount.write(handle, CHUNK, memoryview(b"x"))
        with pytest.raises(FsError) as caught:
            await mount.flush(handle)
        assert caught.value.kind == Kind.NO_SPACE
        for node in filesystem.cluster.nodes.values():
            node.engine.fill_disk(full=False)
        await mount.write(handle, CHUNK, memoryview(b"y"))
        await mount.flush(handle)
        assert bytes(await mount.read(handle, CHUNK, 9)) == b"y"

    run_filesystem(body)


def test_handles_know_their_rights() -> None:
    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        handle, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await mount.release(handle)
        reader, _ = await mount.open(CREDENTIAL, inode.inode_id, READ)
        for call in (mount.write(reader, 0, memoryview(b"x")), mount.read(12345, 0, 1)):
            with pytest.raises(FsError) as caught:
                await call
            assert caught.value.kind == Kind.NO_SESSION

    run_filesystem(body)


def test_attributes_and_the_report_of_writes_go_together() -> None:
    """Also when another client has cut the file, and when the change is refused."""

    async def body(filesystem: FileSystem) -> None:
        mount, other = filesystem.mount(1), filesystem.mount(2)
        file, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)

        def change(uid: int = 0) -> meta_pb2.SetAttrRequest:
            return meta_pb2.SetAttrRequest(
                credential=common_pb2.Credential(uid=uid, gid=uid), inode_id=inode.inode_id,
                mode=0o600, mtime_ns=5)

        await mount.write(file, 0, memoryview(b"abc"))
        await mount.setattr(change())
        seen = await other.getattr(inode.inode_id)
        assert (seen.length, seen.mtime_ns, seen.mode) == (3, 5, 0o600)
        sessions = await mount._meta.ask(
            services.META_SCAN_SESSIONS, meta_pb2.ScanRequest(limit=10))
        assert not sessions.sessions
        await mount.write(file, 3, memoryview(b"def"))
        with pytest.raises(FsError) as caught:
            await mount.setattr(change(uid=77))
        assert caught.value.kind == Kind.NOT_PERMITTED
        await mount.flush(file)
        assert (await other.getattr(inode.inode_id)).length == 6
        await mount.write(file, 6, memoryview(b"ghi"))
        await other.truncate(CREDENTIAL, inode.inode_id, 1)
        changed = await mount.setattr(change())
        seen = await other.getattr(inode.inode_id)
        assert (seen.length, seen.mtime_ns) == (changed.length, 5)
        handle, _ = await other.open(CREDENTIAL, inode.inode_id, READ)
        content = bytes(await other.read(handle, 0, 100))
        assert content in {b"a", b"a" + bytes(5) + b"ghi"}
        await mount.release(file)

    run_filesystem(body)


def test_listing_and_attributes() -> None:
    async def body(filesystem: FileSystem) -> None:
        mount = filesystem.mount(1)
        made = await mount.mkdir(CREDENTIAL, ROOT, b"d", 0o755)
        for number in range(300):
            await mount.symlink(CREDENTIAL, made.inode_id, b"%03d" % number, b"t")
        handle = await mount.opendir(CREDENTIAL, made.inode_id)
        for number in range(300):
            entry = await mount.readdir(handle, number)
            assert entry is not None
            assert entry.dentry.name == b"%03d" % number
        assert await mount.readdir(handle, 300) is None
        await mount.unlink(CREDENTIAL, made.inode_id, b"000")
        await mount.refresh_listing(handle, 0)
        first = await mount.readdir(handle, 0)
        assert first is not None
        assert first.dentry.name == b"001"
        mount.releasedir(handle)
        file, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await mount.write(file, 0, memoryview(b"abc"))
        changed = await mount.setattr(
            meta_pb2.SetAttrRequest(credential=CREDENTIAL, inode_id=inode.inode_id, mtime_ns=5))
        assert (changed.mtime_ns, changed.length) == (5, 3)
        await mount.flush(file)
        await mount.release(file)
        assert (await mount.getattr(inode.inode_id)).mtime_ns == 5

    run_filesystem(body)
