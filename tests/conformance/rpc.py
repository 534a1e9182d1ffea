"""What every RPC binding keeps: `RpcConformance`, run by tests/rpc over each of them."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, storage_pb2
from luciole.proto.services import (
    META,
    STORAGE,
    STORAGE_SYNC_DONE,
    Buffer,
    Call,
    Caller,
    FileRange,
    MetaStub,
    StorageStub,
)
from luciole.rpc.dispatch import Services
from luciole.rpc.interface import MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX
from luciole.rpc.memory import Region
from luciole.runtime import Runtime, Signal, ThreadRuntime

T = TypeVar("T")
Body = Callable[[Caller, Runtime], Coroutine[Any, Any, T]]
CLUSTER = "firefly"
BLOCKED_MAX_S = 1.5
SIZES = (0, 1, 4096, 1 << 20, 8 << 20)


def pattern(size: int) -> bytes:
    """`size` bytes in which a misplaced piece shows."""
    return bytes(index % 251 for index in range(min(size, 251))) * (size // 251 + 1)


def cut(data: bytes, count: int) -> list[memoryview]:
    """`data` in `count` pieces of uneven size."""
    view = memoryview(data)
    edges = sorted({len(data) * i * i // (count * count) for i in range(count + 1)})
    return [view[a:b] for a, b in itertools.pairwise(edges)]


def into(room: bytearray) -> Callable[[storage_pb2.ReadReply], list[memoryview]]:
    """A sink of one buffer."""
    return lambda _: [memoryview(room)]


class StorageHandler:
    """Write stores its payload, read returns it, and some methods misbehave on purpose."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        self.stored = b""
        self.file = os.memfd_create("stored", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.file)
        self.files_sent = 0
        self.calls = 0
        self.deadline = 0.0
        self.entered = threading.Event()
        self.runtime = runtime or ThreadRuntime()
        self.released: Signal = self.runtime.signal()

    async def write(self, request: storage_pb2.WriteRequest, call: Call) -> storage_pb2.WriteReply:
        assert not request.data
        self.calls += 1
        self.deadline = call.deadline
        self.stored = bytes(call.payload)
        results = [storage_pb2.WriteResult(length=io.length) for io in request.ios]
        request.Clear()  # the caller's message is another
        return storage_pb2.WriteReply(results=results)

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        if request.ios and request.ios[0].relaxed:
            return self._read_into_rooms(request, call)
        if request.ios and request.ios[0].unverified:
            return self._read_from_file(request, call)
        pieces = [memoryview(self.stored)[io.offset : io.offset + io.length] for io in request.ios]
        call.reply_payload(pieces)
        return storage_pb2.ReadReply(
            results=[storage_pb2.ReadResult(length=len(piece)) for piece in pieces]
        )

    def _read_into_rooms(
        self, request: storage_pb2.ReadRequest, call: Call
    ) -> storage_pb2.ReadReply:
        reply, parts = storage_pb2.ReadReply(), []
        for index, io in enumerate(request.ios):
            room = call.room(index, io.length)
            found = self.stored[io.offset : io.offset + io.length]
            room[: len(found)] = found
            parts.append(room[: len(found)])
            reply.results.append(storage_pb2.ReadResult(length=len(found)))
        call.reply_payload(parts)
        return reply

    def _read_from_file(
        self, request: storage_pb2.ReadRequest, call: Call
    ) -> storage_pb2.ReadReply:
        """Every part but the second out of a file, if the transport sends files."""
        reply = storage_pb2.ReadReply()
        parts: list[Buffer | FileRange] = []
        if call.takes_files:
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, self.stored, 0)
            self.files_sent += 1
        for index, io in enumerate(request.ios):
            if call.takes_files and index != 1:
                parts.append(FileRange(self.file, io.offset, io.length))
            else:
                parts.append(self.stored[io.offset : io.offset + io.length])
            reply.results.append(storage_pb2.ReadResult(length=io.length))
        call.reply_parts(parts)
        return reply

    async def forward(
        self, request: storage_pb2.ForwardRequest, call: Call
    ) -> storage_pb2.ForwardReply:
        call.reply_payload([bytes(PAYLOAD_BYTES_MAX), b"one more"])
        return storage_pb2.ForwardReply()

    async def query_version(
        self, request: storage_pb2.QueryVersionRequest, call: Call
    ) -> storage_pb2.QueryVersionReply:
        raise FsError(Kind.CHAIN_VERSION_MISMATCH, "version 7 is current: é", "chain 3")

    async def remove_ranges(
        self, request: storage_pb2.RemoveRangesRequest, call: Call
    ) -> storage_pb2.RemoveRangesReply:
        return storage_pb2.RemoveRangesReply(removed=request.limit // 0)

    async def sync(self, request: storage_pb2.SyncRequest, call: Call) -> common_pb2.Empty:
        self.entered.set()
        await self.released.wait(0, BLOCKED_MAX_S)
        return common_pb2.Empty()

    async def list_chunks(
        self, request: storage_pb2.ListChunksRequest, call: Call
    ) -> storage_pb2.ListChunksReply:
        chunk = storage_pb2.ChunkInfo(chunk_id=bytes(1 << 20))
        return storage_pb2.ListChunksReply(chunks=[chunk] * request.limit)


class MetaHandler:
    """One method of another service of the same server."""

    async def lookup(self, request: meta_pb2.LookupRequest, call: Call) -> meta_pb2.InodeReply:
        return meta_pb2.InodeReply(inode=meta_pb2.Inode(inode_id=42, symlink=request.name))


class Served(Protocol):
    """A running server, or what stands for it."""

    def stop(self, limit_s: float = 5.0) -> None: ...


class Binding(Protocol):
    """How the suite reaches one binding."""

    remote: bool  # there is a peer that can die
    sends_files: bool

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        """Starts a server of cluster CLUSTER; returns it and its port."""

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        """Runs `body` with a caller of that server and the runtime to go with it."""


class RpcConformance:
    """Subclasses give `binding`."""

    binding: Binding

    @pytest.fixture
    def handler(self) -> StorageHandler:
        return StorageHandler()

    @pytest.fixture
    def services(self, handler: StorageHandler) -> Services:
        return [(STORAGE, handler), (META, MetaHandler())]

    @pytest.fixture
    def port(self, services: Services, handler: StorageHandler) -> Iterator[int]:
        server, port = self.binding.serve(services)
        yield port
        handler.released.notify()
        server.stop(2.0)

    def refused(self, port: int, body: Body[object], **options: str) -> FsError:
        with pytest.raises(FsError) as caught:
            self.binding.run(port, body, **options)
        return caught.value

    def test_typed_stubs_of_two_services(self, port: int) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            request = storage_pb2.WriteRequest(ios=[storage_pb2.WriteIO(length=5)])
            reply = await StorageStub(caller).write(request, payload=[b"hello"])
            assert [result.length for result in reply.results] == [5]
            assert len(request.ios) == 1
            found = await MetaStub(caller).lookup(meta_pb2.LookupRequest(name=b"n\xff"))
            assert (found.inode.inode_id, found.inode.symlink) == (42, b"n\xff")

        self.binding.run(port, body)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("count", [1, 7])
    def test_payload_both_ways_in_several_buffers(
        self, port: int, handler: StorageHandler, size: int, count: int
    ) -> None:
        data = pattern(size)[:size]
        arrived = bytearray(size)
        pieces = cut(data, count)
        ios: list[storage_pb2.ReadIO] = []
        for piece in pieces:
            start = ios[-1].offset + ios[-1].length if ios else 0
            ios.append(storage_pb2.ReadIO(offset=start, length=len(piece)))

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            assert sum(result.length for result in reply.results) == size
            half = size // 3
            return [memoryview(arrived)[:half], memoryview(arrived)[half:]]

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)
            await stub.write(storage_pb2.WriteRequest(), payload=pieces)
            assert handler.stored == data
            reply = await stub.read(storage_pb2.ReadRequest(ios=ios), sink=sink)
            assert not reply.data
            assert arrived == data

        self.binding.run(port, body)

    def test_payload_of_two_thousand_buffers(self, port: int, handler: StorageHandler) -> None:
        data = pattern(64_000)[:64_000]
        pieces = [memoryview(data)[at : at + 32] for at in range(0, len(data), 32)]
        arrived = bytearray(len(data))
        sinks = [memoryview(arrived)[at : at + 32] for at in range(0, len(data), 32)]

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)
            await stub.write(storage_pb2.WriteRequest(), payload=pieces)
            ios = [storage_pb2.ReadIO(offset=at, length=32) for at in range(0, len(data), 32)]
            await stub.read(storage_pb2.ReadRequest(ios=ios), sink=lambda _: sinks)

        self.binding.run(port, body)
        assert handler.stored == data == arrived

    @pytest.mark.parametrize("shared", [True, False])
    def test_parts_of_a_reply_in_the_rooms_for_them(
        self, port: int, handler: StorageHandler, shared: bool
    ) -> None:
        """Whole, short and empty parts, in memory that the transport may reach and in other."""
        handler.stored = pattern(300_000)
        sizes = [65536, 4096, 8192, 4096]
        ios = [storage_pb2.ReadIO(offset=offset, length=size, relaxed=True)
               for offset, size in zip([0, 77, 295_904, 400_000], sizes, strict=True)]
        found = [handler.stored[io.offset : io.offset + io.length] for io in ios]
        whole = sum(sizes)
        region = Region(whole)
        memory = region.view if shared else memoryview(bytearray(whole))
        rooms = [memory[sum(sizes[:index]) :][:size] for index, size in enumerate(sizes)]

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            return [room[: result.length]
                    for room, result in zip(rooms, reply.results, strict=True) if result.length]

        async def body(caller: Caller, runtime: Runtime) -> None:
            for _ in range(3):
                memory[:] = bytes(whole)
                reply = await StorageStub(caller).read(
                    storage_pb2.ReadRequest(ios=ios), sink=sink, into=rooms)
                assert [result.length for result in reply.results] == [len(part) for part in found]
                for room, part in zip(rooms, found, strict=True):
                    assert bytes(room[: len(part)]) == part

        self.binding.run(port, body)
        region.close()

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("sizes", [
        [1 << 20], [65536, 100, 65537], [0, 3, 0], [5 << 20, 0, 3 << 20], [70_000] * 40])
    def test_parts_of_a_reply_that_lie_in_files(
        self, port: int, handler: StorageHandler, sizes: list[int], shared: bool
    ) -> None:
        whole = sum(sizes)
        handler.stored = pattern(whole + 77)
        begins = list(itertools.accumulate(sizes, initial=77))
        ios = [storage_pb2.ReadIO(offset=begin, length=size, unverified=True)
               for begin, size in zip(begins, sizes, strict=False)]
        region = Region(whole)
        memory = region.view if shared else memoryview(bytearray(whole))

        async def body(caller: Caller, runtime: Runtime) -> None:
            for _ in range(2):
                memory[:] = bytes(whole)
                await StorageStub(caller).read(
                    storage_pb2.ReadRequest(ios=ios), sink=lambda _: [memory[:whole]])
                assert memory == handler.stored[77 : 77 + whole]
            # The connection is as good as before for small replies.
            await MetaStub(caller).lookup(meta_pb2.LookupRequest(name=b"x"))

        self.binding.run(port, body)
        assert handler.files_sent == (2 if self.binding.sends_files else 0)
        region.close()

    def test_sink_of_another_size_and_no_sink_are_errors(
        self, port: int, handler: StorageHandler
    ) -> None:
        handler.stored = b"12345"
        request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=5)])

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)
            for size in (0, 4, 6):
                with pytest.raises(FsError) as caught:
                    await stub.read(request, sink=into(bytearray(size)))
                assert caught.value.kind == Kind.CORRUPT_FRAME
            with pytest.raises(FsError) as caught:
                await stub.read(request)
            assert caught.value.kind == Kind.CORRUPT_FRAME
            room = bytearray(5)
            await stub.read(request, sink=into(room))
            assert room == b"12345"

        self.binding.run(port, body)

    def test_error_arrives_as_it_was_raised(self, port: int) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).query_version(storage_pb2.QueryVersionRequest())

        error = self.refused(port, body)
        assert error.kind == Kind.CHAIN_VERSION_MISMATCH
        assert "version 7 is current: é" in error.message
        assert error.subject == "chain 3"

    def test_broken_invariant_is_internal_and_tells_no_secret(
        self, port: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).remove_ranges(storage_pb2.RemoveRangesRequest())

        error = self.refused(port, body)
        assert error.kind == Kind.INTERNAL
        assert "division" not in str(error)
        request_id = error.message.split()[1]
        log = capsys.readouterr().out
        assert request_id in log
        assert "ZeroDivisionError" in log

    def test_unknown_method(self, port: int) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await caller.call(STORAGE_SYNC_DONE, storage_pb2.SyncDoneRequest())

        assert self.refused(port, body).kind == Kind.UNIMPLEMENTED

    def test_deadline(self, port: int, handler: StorageHandler) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).sync(storage_pb2.SyncRequest(), timeout=0.2)

        began = time.monotonic()
        assert self.refused(port, body).kind == Kind.DEADLINE_EXCEEDED
        if self.binding.remote:
            assert 0.15 < time.monotonic() - began < BLOCKED_MAX_S * 0.8

    def test_deadline_reaches_the_handler(self, port: int, handler: StorageHandler) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).write(storage_pb2.WriteRequest(), timeout=7.0)

        self.binding.run(port, body)
        assert 4.0 < handler.deadline - time.monotonic() <= 7.01

    def test_passed_deadline_starts_nothing(self, port: int, handler: StorageHandler) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).write(storage_pb2.WriteRequest(), timeout=0.0)

        assert self.refused(port, body).kind == Kind.DEADLINE_EXCEEDED
        assert handler.calls == 0

    def test_callers_side_by_side(self, port: int, handler: StorageHandler) -> None:
        handler.stored = pattern(100_000)

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)

            async def one(number: int) -> None:
                for step in range(5):
                    start, size = number * 1000 + step, 3000 + number
                    room = bytearray(size)
                    io = storage_pb2.ReadIO(offset=start, length=size)
                    await stub.read(storage_pb2.ReadRequest(ios=[io]), sink=into(room))
                    assert room == handler.stored[start : start + size]

            await runtime.gather([functools.partial(one, number) for number in range(32)])

        self.binding.run(port, body)

    def test_too_large_is_refused_before_it_is_sent(
        self, port: int, handler: StorageHandler
    ) -> None:
        message = storage_pb2.ListChunksRequest(begin=bytes(MESSAGE_BYTES_MAX + 1))

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)
            with pytest.raises(FsError) as caught:
                await stub.list_chunks(message)
            assert caught.value.kind == Kind.INVALID_ARGUMENT
            half = bytes(PAYLOAD_BYTES_MAX // 2 + 1)
            with pytest.raises(FsError) as caught:
                await stub.write(storage_pb2.WriteRequest(), payload=[half, half])
            assert caught.value.kind == Kind.INVALID_ARGUMENT
            assert handler.calls == 0

        self.binding.run(port, body)

    def test_too_large_a_reply_is_an_error(self, port: int) -> None:
        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = StorageStub(caller)
            with pytest.raises(FsError) as caught:
                await stub.list_chunks(storage_pb2.ListChunksRequest(limit=5))
            assert caught.value.kind == Kind.INVALID_ARGUMENT
            with pytest.raises(FsError) as caught:
                await stub.forward(storage_pb2.ForwardRequest())
            assert caught.value.kind == Kind.INVALID_ARGUMENT
            reply = await stub.list_chunks(storage_pb2.ListChunksRequest(limit=3))
            assert len(reply.chunks) == 3

        self.binding.run(port, body)

    # What only a binding with a peer can show.

    def test_other_cluster_is_refused(self, port: int, handler: StorageHandler) -> None:
        self.needs_peer()

        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).write(storage_pb2.WriteRequest())

        error = self.refused(port, body, cluster_id="glowworm")
        assert error.kind == Kind.WRONG_CLUSTER
        assert CLUSTER in error.message
        assert "glowworm" in error.message
        assert handler.calls == 0

    def test_nobody_there(self) -> None:
        self.needs_peer()
        server, port = self.binding.serve([(META, MetaHandler())])
        server.stop()

        async def body(caller: Caller, runtime: Runtime) -> None:
            await MetaStub(caller).lookup(meta_pb2.LookupRequest(), timeout=3.0)

        error = self.refused(port, body)
        assert error.kind == Kind.UNAVAILABLE
        assert str(port) in error.message

    def test_port_in_use_says_so(self, port: int) -> None:
        self.needs_peer()
        with pytest.raises(FsError) as caught:
            self.binding.serve([(META, MetaHandler())], port)
        assert caught.value.kind == Kind.CONFIG_INVALID
        assert str(port) in caught.value.message

    def test_server_death_under_a_request(
        self, services: Services, handler: StorageHandler
    ) -> None:
        self.needs_peer()
        server, port = self.binding.serve(services)

        def kill() -> None:
            assert handler.entered.wait(5.0)
            server.stop(0.0)

        killer = threading.Thread(target=kill)
        killer.start()

        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).sync(storage_pb2.SyncRequest(), timeout=5.0)

        began = time.monotonic()
        error = self.refused(port, body)
        elapsed = time.monotonic() - began
        handler.released.notify()
        killer.join(5.0)
        assert not killer.is_alive()
        assert error.kind == Kind.CONNECTION_LOST
        assert error.facts.maybe_applied
        assert elapsed < BLOCKED_MAX_S

    def test_restarted_server_costs_its_callers_nothing(self, services: Services) -> None:
        self.needs_peer()
        servers = [self.binding.serve(services)]
        port = servers[0][1]

        async def body(caller: Caller, runtime: Runtime) -> None:
            stub = MetaStub(caller)
            lookup = meta_pb2.LookupRequest(name=b"x")

            async def one() -> None:
                await stub.lookup(lookup)

            await runtime.gather([one] * 4)
            servers[0][0].stop()
            servers.append(self.binding.serve(services, port))
            for _ in range(6):
                await stub.lookup(lookup)

        self.binding.run(port, body)
        servers[1][0].stop()

    def test_stop_lets_a_running_handler_end(
        self, services: Services, handler: StorageHandler
    ) -> None:
        self.needs_peer()
        server, port = self.binding.serve(services)
        stopper = threading.Thread(target=server.stop, args=(5.0,))

        def stop_then_release() -> None:
            assert handler.entered.wait(5.0)
            stopper.start()
            stopper.join(0.2)
            handler.released.notify()

        helper = threading.Thread(target=stop_then_release)
        helper.start()

        async def body(caller: Caller, runtime: Runtime) -> None:
            await StorageStub(caller).sync(storage_pb2.SyncRequest())

        self.binding.run(port, body)
        helper.join(5.0)
        stopper.join(5.0)
        assert not stopper.is_alive()

        error = self.refused(port, body)
        assert error.kind == Kind.UNAVAILABLE

    def needs_peer(self) -> None:
        if not self.binding.remote:
            pytest.skip("there is no peer in this binding")
