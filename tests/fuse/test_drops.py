"""Stores that come back while a file's pages are taken away: in order with whatever follows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.dispatch import Dispatcher
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.messages import Request, Validity
from luciole.client.fuse.direct.protocol import Opcode
from luciole.client.handles import OpenFlags
from luciole.client.remote.chunks import Changed, ChunkClient, PieceIO
from luciole.proto import common_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

WHO = common_pb2.Credential(uid=0, gid=0)
BOTH = OpenFlags(read=True, write=True)
SIZE = 20_000


class Mount:
    """A mount whose kernel does what a test says while its pages of the file are taken away."""

    def __init__(self) -> None:
        cluster = MemoryCluster(ThreadRuntime())
        drive(cluster.start())
        self.operations = cluster.client(b"a test of drops.", None)
        self.meanwhile: Callable[[], None] = lambda: None
        self.drops = Drops(self.operations, self._invalidate)
        self.context = Context(
            self.operations, Validity.of(1.0, 1.0), Validity.of(1.0, 1.0), self.drops)
        self._dispatcher = Dispatcher(self.context)
        self.handle, inode = drive(self.operations.create(WHO, 1, b"f", 0o644, flags=BOTH))
        self.node = inode.inode_id
        drive(self.operations.write(self.handle, 0, memoryview(b"o" * SIZE)))
        drive(self.operations.flush(self.handle))

    def _invalidate(self, inode_id: int, offset: int) -> bool:
        self.meanwhile()
        return True

    def ask(self, opcode: int, body: bytes) -> None:
        """A request that has to succeed."""
        head = protocol.IN_HEADER.pack(
            protocol.IN_HEADER.size + len(body), opcode, 7, self.node, 0, 0, 0, 0, 0)
        answer = self._dispatcher.answer(
            Request(memoryview(head + body), memoryview(bytearray(1 << 16))))
        assert not isinstance(answer, int), errno.errorcode.get(answer, answer)

    def write(self, offset: int, data: bytes, *, cached: bool) -> None:
        """A write, or a page that comes back from a mapping."""
        flags = protocol.WRITE_CACHE if cached else 0
        self.ask(Opcode.WRITE, protocol.WRITE_IN.pack(
            self.handle, offset, len(data), flags, 0, os.O_RDWR, 0) + data)

    def release(self) -> None:
        """The last close."""
        self.ask(Opcode.FLUSH, protocol.FLUSH_IN.pack(self.handle, 0, 0, 0))
        self.ask(Opcode.RELEASE, protocol.RELEASE_IN.pack(self.handle, os.O_RDWR, 0, 0))

    def cut(self, length: int) -> None:
        """ftruncate(2)."""
        valid = protocol.FATTR_SIZE | protocol.FATTR_FH
        self.ask(Opcode.SETATTR, protocol.SETATTR_IN.pack(
            valid, 0, self.handle, length, *[0] * 12))

    def content(self) -> bytes:
        """What another open finds."""
        handle, inode = drive(self.operations.open(WHO, self.node, OpenFlags(read=True)))
        data = bytes(drive(self.operations.read(handle, 0, inode.length + 1)))
        drive(self.operations.release(handle))
        return data


@pytest.fixture
def mount() -> Mount:
    return Mount()


def test_a_close_waits_for_what_was_staged(mount: Mount) -> None:
    def meanwhile() -> None:
        mount.write(4096, b"m" * 4096, cached=True)
        mount.release()

    mount.meanwhile = meanwhile
    mount.drops.drop(mount.node)
    assert mount.content() == b"o" * 4096 + b"m" * 4096 + b"o" * (SIZE - 8192)


def test_a_write_comes_after_what_was_staged_before_it(mount: Mount) -> None:
    def meanwhile() -> None:
        mount.write(4096, b"m" * 4096, cached=True)
        mount.write(5000, b"n" * 10, cached=False)
        mount.write(8192, b"m" * 4096, cached=True)

    mount.meanwhile = meanwhile
    mount.drops.drop(mount.node)
    wanted = bytearray(b"o" * 4096 + b"m" * 8192 + b"o" * (SIZE - 12288))
    wanted[5000:5010] = b"n" * 10
    assert mount.content() == wanted


def test_a_cut_takes_what_was_staged_with_it(mount: Mount) -> None:
    def meanwhile() -> None:
        mount.write(12288, b"m" * 4096, cached=True)
        mount.cut(100)

    mount.meanwhile = meanwhile
    mount.drops.drop(mount.node)
    assert mount.content() == b"o" * 100


def test_a_read_finds_what_is_staged_and_what_was_written_since(mount: Mount) -> None:
    found = []

    def meanwhile() -> None:
        mount.write(4096, b"m" * 4096, cached=True)
        found.append([piece.run.data for piece in mount.drops.staged(mount.node)])
        mount.write(4096, b"n" * 10, cached=False)
        found.append([piece.run.data for piece in mount.drops.staged(mount.node)])

    mount.meanwhile = meanwhile
    mount.drops.drop(mount.node)
    assert found == [[b"m" * 4096], []]


def test_many_short_stores_of_two_pages_are_one_update(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    update = ChunkClient.update

    async def counted(self: ChunkClient, pieces: list[PieceIO], **options: Any) -> Changed:
        updates.append(len(pieces))
        return await update(self, pieces, **options)

    mount.context.twins.begin(mount.node)
    page = bytearray(b"o" * 8192)
    mount.context.twins.given(mount.node, 8192, memoryview(page), 8192)
    other, _ = drive(mount.operations.open(WHO, mount.node, BOTH))
    drive(mount.operations.write(other, 8193, memoryview(b"other")))
    drive(mount.operations.flush(other))
    monkeypatch.setattr(ChunkClient, "update", counted)
    page[::8] = b"s" * 1024
    mount.write(8192, bytes(page), cached=True)
    assert updates == [1]
    page[1:6] = b"other"
    assert mount.content() == b"o" * 8192 + bytes(page) + b"o" * (SIZE - 16384)
