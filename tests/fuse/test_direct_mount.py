"""What only a real mount shows of the direct binding: its threads, its notifications, its end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.channel import Channel
from luciole.client.fuse.direct.context import Context, Freshness
from luciole.client.fuse.direct.dispatch import Dispatcher
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.messages import Validity
from luciole.client.fuse.direct.negotiation import REQUEST_BYTES_MAX
from luciole.client.fuse.direct.server import IDLE_MAX, Server
from luciole.client.fuse.mount_table import device_of_mount, find_mount
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster
from luciole.tests.fuse.mounted import BINDINGS, mounted, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
WHO = common_pb2.Credential(uid=0, gid=0)
ROOT = 1
BOTH = OpenFlags(read=True, write=True)
WAIT_S = 20.0
LONG = Validity.of(3600.0, 3600.0)


class HereMounted:
    """A mount served by this process, which believes for long what it knows, and a second client
    of the same cluster."""

    def __init__(
        self, place: Path, *, by_helper: bool = False, feed: Freshness | None = None
    ) -> None:
        self.place = place
        self.feed = feed
        self.ended = False
        cluster = MemoryCluster(ThreadRuntime())
        drive(cluster.start())
        self.operations = cluster.client(
            b"the mount's own.", None, believe_seconds=WAIT_S if feed else 0.0)
        self.other = cluster.client(b"another client..", None)
        self.channel = Channel(mounting.mount(
            place, allow_other=True, max_read=REQUEST_BYTES_MAX, by_helper=by_helper))
        self.server = self.serve(self.channel)

    def serve(self, channel: Channel) -> Server:
        server = Server(
            channel, Dispatcher(Context(
                self.operations, LONG, LONG,
                Drops(self.operations, channel.invalidate_inode), self.feed,
                store_page=channel.store)))
        server.start()
        return server

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        mounting.detach(self.place)
        assert self.server.wait_unmounted(WAIT_S)
        assert self.server.wait_finished(WAIT_S)
        self.channel.close()

    def write_elsewhere(self, name: bytes, content: bytes) -> int:
        handle, inode = drive(self.other.create(WHO, ROOT, name, 0o644, flags=BOTH))
        drive(self.other.write(handle, 0, memoryview(content)))
        drive(self.other.flush(handle))
        drive(self.other.release(handle))
        return inode.inode_id


@pytest.fixture
def here(tmp_path: Path) -> Iterator[HereMounted]:
    place = tmp_path / "mnt"
    place.mkdir()
    made = HereMounted(place)
    yield made
    made.end()


def test_notifications_reach_the_kernels_caches(here: HereMounted) -> None:
    inode_id = here.write_elsewhere(b"file", b"one")
    path = here.place / "file"
    assert path.stat().st_size == 3
    here.write_elsewhere(b"file", b"three")
    assert path.stat().st_size == 3, "cached for an hour"
    assert here.channel.invalidate_inode(inode_id)
    assert path.stat().st_size == 5
    assert path.read_bytes() == b"three"

    drive(here.other.unlink(WHO, ROOT, b"file"))
    assert path.exists(), "cached for an hour"
    assert here.channel.invalidate_entry(ROOT, b"file")
    assert not path.exists()
    child = here.write_elsewhere(b"again", b"x")
    assert (here.place / "again").exists()
    drive(here.other.unlink(WHO, ROOT, b"again"))
    assert here.channel.deleted(ROOT, child, b"again")
    assert not (here.place / "again").exists()
    assert not here.channel.invalidate_inode(987654), "the kernel has never heard of it"


def test_bytes_can_be_put_into_the_kernels_pages(here: HereMounted) -> None:
    inode_id = here.write_elsewhere(b"file", b"a" * 4096)
    with (here.place / "file").open("rb", buffering=0) as file:
        assert file.read(1) == b"a"
        assert here.channel.store(inode_id, 0, b"b" * 4096)
        file.seek(0)
        assert file.read() == b"b" * 4096


def test_a_length_is_known_though_a_later_change_overtakes_the_answer(
    here: HereMounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops an answer that was overtaken by an invalidation, and asks no second time."""
    inode_id = here.write_elsewhere(b"log", b"one")
    drops = here.server.context.drops
    ask = here.operations.getattr

    async def overtaken(asked: int) -> meta_pb2.Inode:
        inode = await ask(asked)
        drops.drop(asked)
        return inode

    with (here.place / "log").open("rb", buffering=0) as log:
        assert log.read() == b"one"
        monkeypatch.setattr(here.operations, "getattr", overtaken)
        for content in (b"one two", b"one two three"):
            here.write_elsewhere(b"log", content)
            drops.drop(inode_id)
            seen = log.tell()
            assert log.read() == content[seen:]


def test_only_the_kernel_says_estale_of_a_directory_that_it_cannot_move(
    here: HereMounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mount moved it. Linux finds it at its new place, and would have to move what it
    remembers of the old one, while a rename of this mount holds the lock for that."""
    for name in ("old", "old/moved", "new", "from", "to"):
        (here.place / name).mkdir()
    (here.place / "from" / "file").touch()
    old, new = ((here.place / name).stat().st_ino for name in ("old", "new"))
    drive(here.other.rename(meta_pb2.RenameRequest(
        credential=WHO, parent=old, name=b"moved", new_parent=new, new_name=b"moved")))
    gate, waiting = threading.Event(), threading.Event()
    rename = here.operations.rename

    async def slow(request: meta_pb2.RenameRequest) -> None:
        waiting.set()
        assert gate.wait(WAIT_S)
        await rename(request)

    monkeypatch.setattr(here.operations, "rename", slow)
    with ThreadPoolExecutor(1) as pool:
        renaming = pool.submit(
            (here.place / "from" / "file").rename, here.place / "to" / "file")
        try:
            assert waiting.wait(WAIT_S)
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                (here.place / "new" / "moved").stat()
        finally:
            gate.set()
        renaming.result(WAIT_S)
    assert (here.place / "new" / "moved").is_dir()
    assert here.server.dispatcher.refused[errno.ESTALE] == 0


class Told:
    """A feed of changes that told nothing yet."""

    live = True
    count = 0


def test_a_directory_is_not_asked_for_after_each_change_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    here = HereMounted(place, feed=Told())
    asked: list[int] = []
    ask = here.operations.getattr

    async def getattr_(inode_id: int) -> meta_pb2.Inode:
        asked.append(inode_id)
        return await ask(inode_id)

    monkeypatch.setattr(here.operations, "getattr", getattr_)
    try:
        folder = place / "folder"
        folder.mkdir()
        inode_id = folder.stat().st_ino
        asked.clear()
        for number in range(3):
            (folder / f"{number}").write_bytes(b"content")
            (folder / f"{number}").rename(folder / f"{number}.new")
            (folder / f"below{number}").mkdir()
            (folder / f"{number}.new").unlink()
            seen, wanted = folder.stat(), drive(here.other.getattr(inode_id))
            assert (seen.st_nlink, seen.st_mtime_ns, seen.st_ctime_ns) == (
                wanted.nlink, wanted.mtime_ns, wanted.ctime_ns)
        assert inode_id not in asked
        (folder / "last").touch()
        drive(here.other.setattr(meta_pb2.SetAttrRequest(
            credential=WHO, inode_id=inode_id, mode=0o700)))
        here.operations.parents.forget([inode_id])
        assert folder.stat().st_mode & 0o777 == 0o700, "as others left it, once that was told"
        assert inode_id in asked
    finally:
        here.end()


def test_an_open_is_as_new_as_the_last_close_though_nobody_told_of_it(tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    here = HereMounted(place, feed=Told())
    file = place / "file"
    try:
        file.write_bytes(b"old")
        assert file.read_bytes() == b"old"
        for content in (b"new and longer" * 1000, b"short"):
            handle, _ = drive(here.other.open(
                WHO, file.stat().st_ino, OpenFlags(write=True, truncate=True)))
            drive(here.other.write(handle, 0, memoryview(content)))
            drive(here.other.release(handle))
            assert file.read_bytes() == content
            with file.open("rb", buffering=0) as opened:
                assert os.fstat(opened.fileno()).st_size == len(content)
    finally:
        here.end()


class Blocking(Operations):
    """Reads wait until they are let go."""

    gate: threading.Event
    waiting: threading.Semaphore

    async def read(
        self, handle: int, offset: int, size: int, room: memoryview | None = None
    ) -> memoryview:
        self.waiting.release()
        assert self.gate.wait(WAIT_S)
        return await super().read(handle, offset, size, room)


def test_requests_that_wait_hold_up_no_others(here: HereMounted) -> None:
    count = 2 * IDLE_MAX
    for number in range(count):
        here.write_elsewhere(b"%d" % number, b"%d" % number)
    here.operations.__class__ = Blocking
    assert isinstance(here.operations, Blocking)
    here.operations.gate = threading.Event()
    here.operations.waiting = threading.Semaphore(0)
    with ThreadPoolExecutor(count) as pool:
        try:
            reads = [pool.submit((here.place / str(number)).read_bytes)
                     for number in range(count)]
            for _ in range(count):
                assert here.operations.waiting.acquire(timeout=WAIT_S)
            (here.place / "new").write_bytes(b"not held up")
            assert (here.place / "new").stat().st_size == 11
        finally:
            here.operations.gate.set()
        assert [read.result(WAIT_S) for read in reads] == [b"%d" % n for n in range(count)]


def test_a_cloned_descriptor_serves_as_well(here: HereMounted) -> None:
    clone = here.channel.clone()
    second = here.serve(clone)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (here.place / f"f{n}").write_bytes(b"x" * n), range(200)))
    assert sorted(path.stat().st_size for path in here.place.iterdir()) == list(range(200))
    here.end()
    assert second.wait_finished(WAIT_S)
    clone.close()


def test_the_helper_mounts_and_passes_the_device(tmp_path: Path) -> None:
    made = HereMounted(tmp_path, by_helper=True)
    try:
        (tmp_path / "file").write_bytes(b"through the helper")
        assert (tmp_path / "file").read_bytes() == b"through the helper"
        entry = find_mount(tmp_path)
        assert entry is not None
        assert entry.filesystem == "fuse.luciole"
    finally:
        made.end()


def abort_connection(mount_point: Path) -> None:
    """As an administrator does, through the kernel's control filesystem."""
    number = device_of_mount(mount_point).partition(":")[2]
    with tempfile.TemporaryDirectory() as control:
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=True, timeout=WAIT_S)
        try:
            (Path(control) / number / "abort").write_text("1")
        finally:
            subprocess.run(["umount", control], check=True, timeout=WAIT_S)


@needs_root
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("way", ["SIGTERM", "umount", "umount -l", "umount -f", "abort"])
def test_a_mount_always_ends(binding: str, way: str, tmp_path: Path) -> None:
    with mounted(binding, tmp_path) as server:
        (tmp_path / "file").write_bytes(b"x" * 100_000)
        in_use = way in {"SIGTERM", "umount -f", "abort"}
        opened = (tmp_path / "file").open("rb") if in_use else None
        try:
            if way == "SIGTERM":
                server.send_signal(signal.SIGTERM)
            elif way == "abort":
                abort_connection(tmp_path)
            elif way == "umount -f":
                # It refuses a busy mount, but not before it has aborted the connection.
                subprocess.run(["umount", "-f", tmp_path], check=False, capture_output=True,
                               timeout=WAIT_S)
            else:
                subprocess.run([*way.split(), tmp_path], check=True, timeout=WAIT_S)
            if way == "SIGTERM" and binding == "direct":
                with pytest.raises(subprocess.TimeoutExpired):
                    server.wait(0.3)  # this bare server serves whoever has it open
                assert find_mount(tmp_path) is None
                assert opened is not None
                assert opened.read() == b"x" * 100_000
                opened.close()
            assert server.wait(WAIT_S) == 0
        finally:
            if opened is not None:
                with contextlib.suppress(OSError):  # its file system is gone
                    opened.close()
    assert find_mount(tmp_path) is None
