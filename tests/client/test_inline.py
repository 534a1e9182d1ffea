"""Small files: where their bytes lie, what they cost, and what several mounts see of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.inline import is_inline
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2
from luciole.tests.sim.cluster import CHUNK
from luciole.tests.sim.filesystem import (
    BOTH,
    CREDENTIAL,
    READ,
    ROOT,
    FileSystem,
    run_filesystem,
)
from luciole.tests.sim.network import SOUND, Fault

APPEND = OpenFlags(read=True, write=True, append=True)
CUT = OpenFlags(read=True, write=True, truncate=True)
OFFSETS = st.sampled_from([0, 1, 50, 4000, INLINE_BYTES_MAX - 10, INLINE_BYTES_MAX, 9000, CHUNK])
LENGTHS = st.sampled_from([1, 60, 3000, INLINE_BYTES_MAX, CHUNK])
MOUNTS = st.integers(0, 1)
CALL = st.one_of(
    st.tuples(st.just("write"), MOUNTS, OFFSETS, LENGTHS),
    st.tuples(st.just("append"), MOUNTS, st.just(0), LENGTHS),
    st.tuples(st.just("punch"), MOUNTS, OFFSETS, LENGTHS),
    st.tuples(st.just("write_and_copy"), MOUNTS, OFFSETS, LENGTHS),
    st.tuples(st.just("cut"), MOUNTS, st.one_of(st.just(0), OFFSETS), st.just(0)),
    st.tuples(st.just("cut_by_name"), MOUNTS, st.one_of(st.just(0), OFFSETS), st.just(0)),
    st.tuples(st.just("cut_by_open"), MOUNTS, st.just(0), st.just(0)),
    st.tuples(st.just("open"), MOUNTS, st.just(0), st.just(0)),
    st.tuples(st.just("close"), MOUNTS, st.just(0), st.just(0)),
    st.tuples(st.just("fsync"), MOUNTS, st.just(0), st.just(0)),
    st.tuples(st.just("collect"), MOUNTS, st.just(0), st.just(0)),
)
Call = tuple[str, int, int, int]


class Calls:
    """Counts what goes over the network of a simulated cluster."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.made: list[str] = []
        filesystem.cluster.network.rule = self._note

    def _note(self, source: int, destination: int, method: str, request: Message) -> Fault:
        self.made.append(method.rpartition(".")[2])
        return SOUND

    def since(self) -> list[str]:
        """The names of the calls since it was asked last."""
        made, self.made = self.made, []
        return made


async def put(
    mount: Operations, name: bytes, content: bytes, flags: OpenFlags = BOTH
) -> meta_pb2.Inode:
    """What a program does that makes or rewrites a file."""
    handle, _ = await mount.create(CREDENTIAL, ROOT, name, 0o644, flags=flags)
    await mount.write(handle, 0, memoryview(content))
    await mount.flush(handle)
    await mount.release(handle)
    return await mount.lookup(CREDENTIAL, ROOT, name)


async def content_of(mount: Operations, inode_id: int) -> bytes:
    """What a program reads that opens the file now."""
    handle, inode = await mount.open(CREDENTIAL, inode_id, READ)
    data = bytes(await mount.read(handle, 0, inode.length + 100))
    await mount.release(handle)
    return data


class Shared:
    """One file that two mounts have open, or not, and what it must hold: every call is flushed."""

    def __init__(self, filesystem: FileSystem, inode_id: int) -> None:
        self.filesystem = filesystem
        self.inode_id = inode_id
        self.mounts = [filesystem.mount(1), filesystem.mount(2)]
        self.handles = [0, 0]
        self.content = bytearray()
        self._stamp = 0

    async def handle(self, number: int) -> int:
        """The handle of a mount, which opens the file if it has to."""
        if not self.handles[number]:
            self.handles[number], inode = await self.mounts[number].open(
                CREDENTIAL, self.inode_id, APPEND)
            assert inode.length == len(self.content)
        return self.handles[number]

    def _take(self, offset: int, data: bytes) -> None:
        self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
        self.content[offset : offset + len(data)] = data

    def _cut(self, length: int) -> None:
        del self.content[length:]
        self.content.extend(bytes(length - len(self.content)))

    async def step(self, kind: str, number: int, first: int, count: int) -> None:
        """One call by one mount."""
        mount = self.mounts[number]
        self._stamp = self._stamp % 250 + 1
        data = bytes([self._stamp]) * count
        if kind == "cut_by_name":
            await mount.truncate(CREDENTIAL, self.inode_id, first)
            self._cut(first)
        elif kind == "cut_by_open":
            other, _ = await mount.open(CREDENTIAL, self.inode_id, CUT)
            self._cut(0)
            await mount.release(other)
        elif kind == "close":
            if self.handles[number]:
                await mount.release(self.handles[number])
            self.handles[number] = 0
        elif kind == "collect":
            await self.filesystem.collector.run_once()
        else:
            await self._use(kind, mount, await self.handle(number), first, data)

    async def _use(
        self, kind: str, mount: Operations, handle: int, first: int, data: bytes
    ) -> None:
        if kind == "write":
            await mount.write(handle, first, memoryview(data))
            self._take(first, data)
        elif kind == "append":
            await mount.write(handle, 0, memoryview(data), append=True)
            self._take(len(self.content), data)
        elif kind == "write_and_copy":
            await mount.write(handle, 0, memoryview(data[:99]))
            self._take(0, data[:99])
            done = await mount.copy_range(handle, first, handle, 2 * CHUNK, CHUNK // 2)
            if done:
                self._take(2 * CHUNK, bytes(self.content[first : first + done]))
        elif kind == "punch":
            await mount.fallocate(handle, first, len(data), zero=True, keep_size=True)
            end = min(first + len(data), len(self.content))
            self.content[first:end] = bytes(max(0, end - first))
        elif kind == "cut":
            await mount.truncate(CREDENTIAL, self.inode_id, first, handle)
            self._cut(first)
        elif kind == "fsync":
            await mount.fsync(handle)
        await mount.flush(handle)

    async def check(self) -> None:
        """Every mount sees it all, whether it has the file open or opens it now."""
        for mount, handle in zip(self.mounts, self.handles, strict=True):
            inode = await mount.getattr(self.inode_id)
            assert inode.length == len(self.content)
            if handle:
                assert bytes(await mount.read(handle, 0, len(self.content) + 9)) == self.content
            assert await content_of(mount, self.inode_id) == self.content
        assert inode.allocated == await self.filesystem.chunks.allocated(inode)
        if is_inline(inode):
            assert inode.inline_bytes <= min(INLINE_BYTES_MAX, inode.length)
            assert inode.allocated == 0 or inode.length > INLINE_BYTES_MAX


@given(st.lists(CALL, max_size=12), st.booleans())
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_two_mounts_that_write_one_file_lose_nothing(calls: list[Call], background: bool) -> None:
    async def body(filesystem: FileSystem) -> None:
        inode = await put(filesystem.mount(3), b"f", b"")
        file = Shared(filesystem, inode.inode_id)
        for call in calls:
            await file.step(*call)
            await file.check()

    run_filesystem(body, background=background)


@given(st.lists(CALL, max_size=8), st.lists(CALL, max_size=8))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_file_that_was_small_loses_nothing_either(first: list[Call], then: list[Call]) -> None:
    async def body(filesystem: FileSystem) -> None:
        inode = await put(filesystem.mount(3), b"f", b"small")
        file = Shared(filesystem, inode.inode_id)
        file.content += b"small"
        for call in [*first, ("cut_by_open", 0, 0, 0), ("write", 1, 1, 60), *then]:
            await file.step(*call)
            await file.check()

    run_filesystem(body)


def run(body: Callable[[FileSystem, Calls], Awaitable[None]]) -> None:
    async def counted(filesystem: FileSystem) -> None:
        await body(filesystem, Calls(filesystem))

    run_filesystem(counted)


def test_a_small_file_costs_two_calls_and_no_chunk() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        mount = filesystem.mount(1)
        handle, inode = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await mount.write(handle, 0, memoryview(b"x" * 4096))
        await mount.flush(handle)
        await mount.release(handle)
        assert calls.since() == ["create", "close"]
        inode = await mount.getattr(inode.inode_id)
        assert (inode.length, inode.allocated, inode.inline_bytes) == (4096, 0, 4096)
        assert await content_of(filesystem.mount(2), inode.inode_id) == b"x" * 4096
        assert "read" not in calls.since()

    run(body)


def test_fsync_of_a_small_file_asks_no_chain() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        mount = filesystem.mount(1)
        handle, _ = await mount.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await mount.write(handle, 0, memoryview(b"x" * 4096))
        calls.since()
        await mount.fsync(handle)
        assert calls.since() == ["fsync"]

    run(body)


@pytest.mark.parametrize("before", [10, CHUNK])
def test_a_rewritten_file_is_inline_again(before: int) -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        mount = filesystem.mount(1)
        assert is_inline(await put(mount, b"f", b"a" * before)) == (before == 10)
        calls.since()
        cut = OpenFlags(write=True, truncate=True)
        inode = await put(filesystem.mount(2), b"f", b"short", cut)
        if before == 10:
            assert calls.since() == ["create", "close", "lookup"]
        assert (inode.inline_bytes, inode.allocated) == (5, 0)
        assert await content_of(mount, inode.inode_id) == b"short"

    run(body)


def test_a_file_that_others_may_be_writing_goes_to_chunks() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        one, two = filesystem.mount(1), filesystem.mount(2)
        first, inode = await one.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        second, _ = await two.open(CREDENTIAL, inode.inode_id, BOTH)
        await one.write(first, 0, memoryview(b"ab"))
        await two.write(second, 2, memoryview(b"cd"))
        await one.flush(first)
        await two.flush(second)
        assert not is_inline(await one.getattr(inode.inode_id))
        assert await content_of(one, inode.inode_id) == b"abcd"

    run(body)


def test_two_writers_of_an_inline_file_keep_each_others_bytes() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        one, two = filesystem.mount(1), filesystem.mount(2)
        inode = await put(one, b"f", b"......")
        first, _ = await one.open(CREDENTIAL, inode.inode_id, BOTH)
        second, _ = await two.open(CREDENTIAL, inode.inode_id, BOTH)
        calls.since()
        await one.write(first, 0, memoryview(b"ab"))
        await two.write(second, 4, memoryview(b"cdef"))
        await one.flush(first)
        await two.flush(second)
        assert calls.since() == ["close", "close"]
        assert await content_of(one, inode.inode_id) == b"ab..cdef"

    run(body)


def test_a_reader_from_before_finds_what_was_written_anew() -> None:
    """Its file was in chunks; these are gone, and the new bytes are elsewhere."""
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        one, two = filesystem.mount(1), filesystem.mount(2)
        inode = await put(one, b"f", b"a" * CHUNK)
        handle, _ = await one.open(CREDENTIAL, inode.inode_id, READ)
        await put(two, b"f", b"b" * 100, OpenFlags(write=True, truncate=True))
        assert bytes(await one.read(handle, 0, 100)) == b"b" * 100

    run(body)


def test_a_cut_voids_what_was_reported_under_the_version_before() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        one, two = filesystem.mount(1), filesystem.mount(2)
        inode = await put(one, b"f", b"a" * 1000)
        handle, _ = await one.open(CREDENTIAL, inode.inode_id, BOTH)
        await one.write(handle, 500, memoryview(b"b" * 10))
        await two.truncate(CREDENTIAL, inode.inode_id, 100)
        await one.flush(handle)  # it leaves now, behind the cut
        assert await content_of(two, inode.inode_id) == b"a" * 100 + bytes(400) + b"b" * 10

    run(body)


def test_who_was_taken_for_dead_hears_that_its_chunks_were_overtaken() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        one, two = filesystem.mount(1), filesystem.mount(2)
        handle, inode = await one.create(CREDENTIAL, ROOT, b"f", 0o644, flags=BOTH)
        await one.write(handle, 0, memoryview(b"a" * CHUNK))
        await one.settle(handle)
        filesystem.view.alive = {bytes([2]) * 16}
        for _ in range(3):
            await filesystem.collector.run_once()
        assert is_inline(await put(two, b"f", b"anew", OpenFlags(write=True, truncate=True)))
        await one.flush(handle)
        with pytest.raises(FsError) as caught:
            await one.release(handle)
        assert caught.value.kind == Kind.DATA_LOST
        assert await content_of(two, inode.inode_id) == b"anew"

    run(body)


def test_a_small_file_survives_without_its_storage_services() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        inode = await put(filesystem.mount(1), b"f", b"here")
        for node in filesystem.cluster.nodes.values():
            node.engine.fill_disk()
        assert await content_of(filesystem.mount(2), inode.inode_id) == b"here"
        await put(filesystem.mount(2), b"g", b"there")
        with pytest.raises(FsError):
            await put(filesystem.mount(2), b"h", bytes(CHUNK))

    run(body)


def test_holes_and_copies_of_small_files() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        mount = filesystem.mount(1)
        inode = await put(mount, b"f", b"a" * 100)
        handle, _ = await mount.open(CREDENTIAL, inode.inode_id, BOTH)
        calls.since()
        assert await mount.seek(handle, 0, data=True) == 0
        assert await mount.seek(handle, 0, data=False) == 100
        other, copied = await mount.create(CREDENTIAL, ROOT, b"g", 0o644, flags=BOTH)
        assert await mount.copy_range(handle, 0, other, 0, 1 << 20) == 100
        await mount.release(other)
        assert not {"read", "write", "list_chunks"} & set(calls.since())
        assert await content_of(mount, copied.inode_id) == b"a" * 100
        await mount.truncate(CREDENTIAL, inode.inode_id, 2 * CHUNK, handle)
        await mount.write(handle, CHUNK, memoryview(b"b"))
        await mount.flush(handle)
        assert await mount.seek(handle, 50, data=False) == 100
        assert await mount.seek(handle, 100, data=True) == CHUNK
        assert await mount.seek(handle, CHUNK, data=False) == CHUNK + 1

    run(body)


def test_a_copy_behind_the_first_bytes_leaves_those_that_were_just_written() -> None:
    async def body(filesystem: FileSystem, calls: Calls) -> None:
        mount = filesystem.mount(1)
        inode = await put(mount, b"f", b"a" * 100)
        handle, _ = await mount.open(CREDENTIAL, inode.inode_id, BOTH)
        await mount.truncate(CREDENTIAL, inode.inode_id, 2 * CHUNK, handle)
        await mount.write(handle, 50, memoryview(b"b" * 10))
        assert await mount.copy_range(handle, CHUNK, handle, 2 * CHUNK, 77) == 77
        assert bytes(await mount.read(handle, 0, 100)) == b"a" * 50 + b"b" * 10 + b"a" * 40

    run(body)
