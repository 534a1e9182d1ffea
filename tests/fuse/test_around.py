"""Regions fetched whole: what the kernel is given, and what it must not be given."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from luciole.client.fuse.direct import around as around_module
from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.around import Around
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.dispatch import Dispatcher
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.messages import Request, Validity
from luciole.client.fuse.direct.protocol import Opcode
from luciole.client.fuse.direct.twins import Twins
from luciole.client.handles import OpenFlags
from luciole.proto import common_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

WHO = common_pb2.Credential(uid=0, gid=0)
READ = OpenFlags(read=True)
PAGE = 4096
REGION = 256 * PAGE
CONTENT = os.urandom(2 * REGION + 1000)
SMALL_REGION = 16 * PAGE
DENSE_CONTENT = os.urandom(16 * SMALL_REGION)
WAIT_S = 10.0
LONG = Validity.of(3600.0, 3600.0)


class Kernel:
    """What a kernel has of one file; a test may say what it does before it takes a piece."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.before: Callable[[], None] = lambda: None

    def store(self, inode_id: int, offset: int, data: bytes | memoryview) -> bool:
        self.before()
        for start in range(0, len(data), PAGE):
            self.pages[offset + start] = bytes(data[start : start + PAGE])
        return True

    def invalidate_inode(self, inode_id: int, offset: int = 0, length: int = 0) -> bool:
        end = offset + length if length else 1 << 60
        if offset >= 0:
            for start in [start for start in self.pages if offset <= start < end]:
                del self.pages[start]
        return True


class Mount:
    """A file of two regions and a bit, or what is given, and the requests of a kernel for it."""

    def __init__(
        self, available: int = 1 << 40, *, region: int = REGION, content: bytes = CONTENT
    ) -> None:
        cluster = MemoryCluster(ThreadRuntime())
        drive(cluster.start())
        self.operations = cluster.client(b"reads around it.", None)
        self.other = cluster.client(b"and another one.", None)
        self.kernel = Kernel()
        twins = Twins()
        self.around = Around(
            self.operations, self.kernel, twins, region, available=lambda: available)
        self.drops = Drops(
            self.operations, self.kernel.invalidate_inode, self.around.disturbed)
        self.context = Context(
            self.operations, LONG, LONG, self.drops, twins=twins, around=self.around)
        self._dispatcher = Dispatcher(self.context)
        self.node = self.write_elsewhere(content)
        self.handle = self.open(os.O_RDONLY)

    def write_elsewhere(self, content: bytes) -> int:
        """Another client writes the file anew, and closes it."""
        handle, inode = drive(self.other.create(
            WHO, 1, b"f", 0o644, flags=OpenFlags(write=True, truncate=True)))
        drive(self.other.write(handle, 0, memoryview(content)))
        drive(self.other.flush(handle))
        drive(self.other.release(handle))
        return inode.inode_id

    def _request(self, opcode: int, body: bytes) -> Request:
        head = protocol.IN_HEADER.pack(
            protocol.IN_HEADER.size + len(body), opcode, 7, self.node, 0, 0, 0, 0, 0)
        return Request(memoryview(head + body), memoryview(bytearray(REGION)))

    def ask(self, opcode: int, body: bytes) -> bytes:
        """A request that has to succeed."""
        answer = self._dispatcher.answer(self._request(opcode, body))
        assert answer is not None
        assert not isinstance(answer, int), os.strerror(answer)
        return bytes(answer)

    def open(self, flags: int) -> int:
        """open(2)."""
        answer = self.ask(Opcode.OPEN, protocol.OPEN_IN.pack(flags, 0))
        return int(protocol.OPEN_OUT.unpack(answer)[0])

    def read(self, page: int, *, flags: int = os.O_RDONLY) -> bytes:
        """One page, which the kernel did not have."""
        return self.ask(Opcode.READ, protocol.READ_IN.pack(
            self.handle, page * PAGE, PAGE, 0, 0, flags, 0))

    def read_together(self, pages: list[int]) -> list[bytes]:
        """As `read`, of many that are asked for in one message."""
        answers = self._dispatcher.answer_reads([
            self._request(Opcode.READ, protocol.READ_IN.pack(
                self.handle, page * PAGE, PAGE, 0, 0, os.O_RDONLY, 0)) for page in pages])
        return [bytes(answer) for answer in answers if isinstance(answer, memoryview)]

    def settle(self) -> None:
        """Waits until nothing is being fetched, and every thread is free to."""
        end = time.monotonic() + WAIT_S
        while self.around._under_way or self.around._threads:
            assert time.monotonic() < end
            time.sleep(0.001)

    @contextmanager
    def held_at_a_store(self) -> Iterator[threading.Event]:
        """The kernel takes a first piece only after the event is set, which the end does."""
        there, go = threading.Event(), threading.Event()

        def wait() -> None:
            there.set()
            assert go.wait(WAIT_S)

        self.kernel.before = wait
        self.read(3)
        self.read(90)
        assert there.wait(WAIT_S)
        yield go
        go.set()
        self.settle()


def pages(begin: int, end: int) -> dict[int, bytes]:
    return {start: CONTENT[start : min(start + PAGE, end)] for start in range(begin, end, PAGE)}


def test_a_crowded_region_is_given_to_the_kernel() -> None:
    mount = Mount()
    assert mount.read(3) == CONTENT[3 * PAGE : 4 * PAGE]
    mount.settle()
    assert not mount.kernel.pages
    assert mount.read(90) == CONTENT[90 * PAGE : 91 * PAGE]
    mount.settle()
    assert mount.kernel.pages == pages(0, REGION)


def test_the_last_region_ends_where_the_file_does() -> None:
    mount = Mount()
    mount.ask(Opcode.READ, protocol.READ_IN.pack(
        mount.handle, 2 * REGION, 500, 0, 0, os.O_RDONLY, 0))
    mount.ask(Opcode.READ, protocol.READ_IN.pack(
        mount.handle, 2 * REGION + 600, 100, 0, 0, os.O_RDONLY, 0))
    mount.settle()
    assert mount.kernel.pages == pages(2 * REGION, len(CONTENT))


def test_a_read_of_what_is_on_its_way_waits_for_it() -> None:
    mount = Mount()
    with mount.held_at_a_store():
        fetch = mount.around.covering(mount.node, 20 * PAGE, PAGE)
        assert fetch is not None
        assert bytes(fetch.part(20 * PAGE, PAGE) or b"") == CONTENT[20 * PAGE : 21 * PAGE]
        assert mount.read(21) == CONTENT[21 * PAGE : 22 * PAGE]


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_a_file_open_for_writing_is_left_alone(flags: int) -> None:
    mount = Mount()
    mount.open(flags)
    mount.read(3)
    mount.read(90)
    mount.settle()
    assert not mount.kernel.pages


def test_so_is_one_read_past_the_pages_and_one_beyond_the_memory() -> None:
    mount = Mount()
    for page in range(0, 200, 7):
        mount.read(page, flags=os.O_DIRECT)
    mount.settle()
    assert not mount.kernel.pages
    small = Mount(available=len(CONTENT))
    for page in range(0, 200, 7):
        small.read(page)
    small.settle()
    assert not small.kernel.pages


def test_what_another_wrote_meanwhile_stays_out() -> None:
    """Whoever is told of a change waits for the piece on its way, and no other follows it."""
    mount = Mount()
    with mount.held_at_a_store() as go:
        mount.write_elsewhere(bytes(len(CONTENT)))
        told = threading.Thread(target=mount.drops.drop, args=(mount.node,))
        told.start()
        told.join(0.05)
        assert told.is_alive(), "a piece is being stored: it would come after the change"
        go.set()
        told.join(WAIT_S)
        assert not told.is_alive()
        assert not mount.kernel.pages, "the first piece came before, and no second one after"
    assert not mount.kernel.pages
    assert mount.around.covering(mount.node, 20 * PAGE, PAGE) is None


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.GETATTR])
def test_an_answer_that_tells_of_a_change_ends_a_fetch(opcode: Opcode) -> None:
    mount = Mount()
    with mount.held_at_a_store() as go:
        mount.write_elsewhere(bytes(len(CONTENT)))
        body = protocol.OPEN_IN.pack(os.O_RDONLY, 0) if opcode == Opcode.OPEN \
            else protocol.GETATTR_IN.pack(0, 0, 0)
        asked = threading.Thread(target=mount.ask, args=(opcode, body))
        asked.start()
        asked.join(0.05)
        assert asked.is_alive()
        go.set()
        asked.join(WAIT_S)
        assert not asked.is_alive()
    assert len(mount.kernel.pages) <= around_module.PIECE_BYTES // PAGE
    assert mount.read(21) == bytes(PAGE)


def test_who_cannot_wait_any_longer_has_the_piece_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(around_module, "WAIT_S", 0.01)
    mount = Mount()
    with mount.held_at_a_store():
        mount.around.disturbed(mount.node)
    assert not mount.kernel.pages


class Dense(Mount):
    """A file whose samples have been dense, and which reads of it were asked for alone."""

    def __init__(self) -> None:
        super().__init__(region=SMALL_REGION, content=DENSE_CONTENT)
        self.alone: list[int] = []
        for page in (0, 8, 16, 24, 32, 40, 48, 56, 64):  # two of four regions, and the probe
            self.read(page)
        self.settle()
        self._read_alone = self.operations.read
        self.operations.read = self._note  # type: ignore[method-assign]

    async def _note(
        self, handle: int, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        self.alone.append(offset // PAGE)
        return await self._read_alone(handle, offset, size, room)

    def check(self, page: int) -> None:
        """A read of a page brings what is there."""
        assert self.read(page) == DENSE_CONTENT[page * PAGE : (page + 1) * PAGE]


def test_where_samples_are_dense_the_first_is_answered_from_its_region() -> None:
    mount = Dense()
    assert len(mount.kernel.pages) == 4 * 16, "the probe's region waits"
    mount.check(85)
    mount.settle()
    assert mount.alone == []
    assert len(mount.kernel.pages) == 5 * 16
    assert mount.kernel.pages[95 * PAGE] == DENSE_CONTENT[95 * PAGE : 96 * PAGE]


def test_no_read_waits_behind_what_is_being_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may have been left reads that hold the very pages locked that are stored."""
    monkeypatch.setattr(around_module, "WAIT_S", 10 * WAIT_S)
    mount = Dense()
    storing = threading.Semaphore(0)
    go = threading.Event()

    def wait() -> None:
        storing.release()
        assert go.wait(WAIT_S)

    mount.kernel.before = wait
    try:
        for number in range(around_module.THREADS_MAX):
            mount.check(80 + 16 * number)
            assert storing.acquire(timeout=WAIT_S)
        assert mount.alone == []
        began = time.monotonic()
        mount.check(80 + 16 * around_module.THREADS_MAX)
        assert time.monotonic() - began < WAIT_S
        assert mount.alone == [80 + 16 * around_module.THREADS_MAX]
    finally:
        go.set()
    mount.settle()
    assert 80 + 16 * around_module.THREADS_MAX in {at // PAGE for at in mount.kernel.pages}


def test_a_first_read_is_asked_for_alone_where_its_region_may_not_be_given() -> None:
    mount = Dense()
    mount.open(os.O_RDWR)
    mount.check(85)
    mount.settle()
    assert mount.alone == [85]
    assert len(mount.kernel.pages) == 4 * 16


def test_reads_of_a_region_on_its_way_do_not_count_as_lost_by_the_kernel() -> None:
    mount = Mount()
    with mount.held_at_a_store():
        wanted = list(range(20, 36, 2))
        assert mount.read_together(wanted) == [
            CONTENT[page * PAGE : (page + 1) * PAGE] for page in wanted]
        assert len(mount.around._under_way[mount.node]) == 1
