"""The way of few steps: what it takes, what it leaves to the ordinary way, what it must not do."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, storage_pb2
from luciole.proto.packed import READ, single_read
from luciole.proto.services import STORAGE, STORAGE_READ_PACKED, Call, MetaStub, StorageStub
from luciole.rpc import at_once, frame, stream
from luciole.rpc.memory import PAGE, Region, place_of
from luciole.rpc.tcp_client import BlockingCaller, Fetched
from luciole.rpc.tcp_server import FramedServer
from luciole.rpc.wire import Address
from luciole.runtime import drive
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler
from luciole.tests.rpc.fuzzing import Inputs

SOON_S = 5.0
REPLY_BYTES = len(
    storage_pb2.ReadPackedReply(lengths=b"1234", checksums=b"1234").SerializeToString())


class Handler(StorageHandler):
    """Fills the room with what the chunk id begins with; `failure` is raised in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: FsError | None = None
        self.held: threading.Event | None = None
        self.filled = threading.Event()

    async def read_packed(
        self, request: storage_pb2.ReadPackedRequest, call: Call
    ) -> storage_pb2.ReadPackedReply:
        raise FsError(Kind.UNIMPLEMENTED, "the ordinary way is not asked here")

    def read_packed_at_once(self, message: bytes, call: Call) -> bytes | None:
        if self.held is not None:
            self.held.wait(SOON_S)
        if self.failure is not None:
            raise self.failure
        chunk_id, _, size = READ.unpack_from(message, len(message) - READ.size)
        room = call.room(0, size)
        room[:] = chunk_id[:1] * size
        self.filled.set()
        lengths = size.to_bytes(4, "little")
        if call.in_place:
            return storage_pb2.ReadPackedReply(lengths=lengths).SerializeToString()
        call.reply_payload([room])
        return storage_pb2.ReadPackedReply(lengths=lengths, checksums=b"1234").SerializeToString()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture(params=["unix", "tcp"])
def server(request: pytest.FixtureRequest, handler: Handler) -> Iterator[FramedServer]:
    address: Address = ("127.0.0.1", 0)
    if request.param == "unix":
        address = f"\0luciole-at-once-{os.getpid()}-{id(handler)}"
    server = FramedServer(address, [(STORAGE, handler)], cluster_id=CLUSTER, name="served")
    server.start()
    yield server
    server.stop(2.0)


def fetch(caller: BlockingCaller, room: memoryview, timeout: float = SOON_S) -> Fetched | None:
    message = single_read(1, 1) + READ.pack(b"x" * 16, 0, len(room))
    return caller.fetch(STORAGE_READ_PACKED, message, room, REPLY_BYTES, timeout)


def test_bytes_come_by_both_transports(server: FramedServer) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    region = Region(16 * PAGE)
    room = region.view[PAGE : 3 * PAGE]
    assert fetch(caller, room) is None, "nobody has connected yet"
    caller.probe()
    found = fetch(caller, room)
    assert found is not None
    assert found.in_place == isinstance(server.address, str)
    assert bytes(region.view) == bytes(PAGE) + b"x" * 2 * PAGE + bytes(13 * PAGE)
    if found.in_place:  # what is no whole page cannot be lent, and was not asked for
        assert fetch(caller, region.view[1 : PAGE + 1]) is None
        assert fetch(caller, memoryview(bytearray(PAGE))) is None
    caller.close()
    region.close()


def test_an_error_arrives_and_costs_neither_connection_nor_memory(
    server: FramedServer, handler: Handler
) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    caller.probe()
    region = Region(PAGE)
    handler.failure = FsError(Kind.NOT_SERVING, "not now", "target 7")
    with pytest.raises(FsError) as caught:
        fetch(caller, region.view)
    if isinstance(server.address, str):
        assert (caught.value.kind, caught.value.subject) == (Kind.NOT_SERVING, "target 7")
        handler.failure = None
        assert fetch(caller, region.view) is not None
    assert place_of(region.view) is not None
    caller.close()
    region.close()


def test_a_late_server_writes_where_nobody_looks(server: FramedServer, handler: Handler) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    caller.probe()
    region = Region(2 * PAGE)
    handler.held = threading.Event()
    with pytest.raises(FsError) as caught:
        fetch(caller, region.view[:PAGE], timeout=0.2)
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    region.view[:PAGE] = b"z" * PAGE
    handler.held.set()
    assert handler.filled.wait(SOON_S)
    handler.held = None
    caller.probe()
    assert bytes(region.view[:PAGE]) == b"z" * PAGE
    if isinstance(server.address, str):
        assert fetch(caller, region.view[:PAGE]) is None, "that page is lent no more"
        assert fetch(caller, region.view[PAGE:]) is not None
    caller.close()
    region.close()


def test_a_connection_that_died_idle_is_an_error_and_then_replaced(
    server: FramedServer, handler: Handler
) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    caller.probe()
    server.stop(2.0)
    again = FramedServer(server.address, [(STORAGE, handler)], cluster_id=CLUSTER, name="again")
    again.start()
    region = Region(PAGE)
    with pytest.raises(FsError) as caught:
        fetch(caller, region.view)
    assert caught.value.kind == Kind.CONNECTION_LOST
    assert place_of(region.view) is not None, "nobody was told of it"
    assert fetch(caller, region.view) is None
    drive(StorageStub(caller).write(storage_pb2.WriteRequest(), payload=[b"data"]))
    assert handler.stored == b"data"
    again.stop(2.0)
    caller.close()
    region.close()


def test_a_region_that_is_closed_costs_other_memory_nothing(server: FramedServer) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    caller.probe()
    closed, other = Region(PAGE), Region(PAGE)
    assert fetch(caller, closed.view) is not None
    closed.close()
    found = fetch(caller, other.view)
    # Whoever knew the region has ended; over TCP nobody did.
    assert (found is None) == isinstance(server.address, str)
    caller.probe()
    assert fetch(caller, other.view) is not None
    assert place_of(other.view) is not None
    caller.close()
    other.close()


def test_what_is_taken_at_once_is_what_the_ordinary_way_reads() -> None:
    inputs, taken = Inputs(3), 0
    for _ in range(20_000):
        data = memoryview(inputs.next())
        asked = at_once.asked(data, len(data))
        if asked is not None:
            header = frame.parse_header(data)
            assert header.kind == frame.REQUEST
            assert asked.message == frame.take_message(header, data)
            assert asked.method == at_once.key(header.service_id, header.method_id)
            assert len(asked.table) == header.payload_length
            assert asked.deadline_ms == header.deadline_ms
            taken += 1
        for shared in (True, False):
            message = at_once.answered(data, len(data), 7, shared=shared)
            if message is not None:
                header = frame.parse_header(data)
                assert (header.kind, header.request_id) == (frame.REPLY, 7)
                assert message == frame.take_message(header, data)
                taken += 1
    assert taken > 500


def test_a_frame_packed_at_once_is_the_ordinary_one() -> None:
    request = at_once.Request(3, 12, 1000, 99, b"message")
    assert at_once.encode(request) == frame.encode(
        frame.REQUEST, b"message", service_id=3, method_id=12, deadline_ms=1000, request_id=99)
    table = at_once.room_table(2, PAGE, 3 * PAGE)
    assert at_once.encode(request, table) == frame.encode(
        frame.REQUEST, b"message", service_id=3, method_id=12, deadline_ms=1000, request_id=99,
        payload_length=len(table), flags=frame.SHARED) + table
    assert at_once.room_of(memoryview(table)) == (2, PAGE, 3 * PAGE)
    assert at_once.room_of(memoryview(table[:-1])) is None
    assert at_once.reply(99, b"message") == frame.encode(frame.REPLY, b"message", request_id=99)


def answering(answer: Callable[[int], list[bytes]]) -> tuple[int, threading.Thread]:
    """A server of one request, whose id it gives to `answer`; sends the pieces one by one."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(SOON_S)

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            connection.settimeout(SOON_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65536)
            connection.sendall(frame.encode_hello(CLUSTER, "pieces", "meta"))
            request = memoryview(connection.recv(65536))
            for piece in answer(frame.parse_header(request).request_id):
                connection.sendall(piece)
                time.sleep(0.02)  # so that it is received by itself
            with suppress(OSError):
                connection.recv(65536)

    thread = threading.Thread(target=run)
    thread.start()
    return listener.getsockname()[1], thread


def ask(answer: Callable[[int], list[bytes]]) -> meta_pb2.InodeReply:
    port, thread = answering(answer)
    caller = BlockingCaller(("127.0.0.1", port), cluster_id=CLUSTER, timeout=SOON_S)
    try:
        return drive(MetaStub(caller).lookup(meta_pb2.LookupRequest(parent=1, name=b"name")))
    finally:
        caller.close()
        thread.join(SOON_S)


@pytest.mark.parametrize("length", [10, 3 * stream.SMALL_BYTES])
@pytest.mark.parametrize("first", [0, 1, frame.HEADER_BYTES, frame.HEADER_BYTES + 1])
def test_a_small_call_takes_a_reply_in_any_pieces(length: int, first: int) -> None:
    reply = meta_pb2.InodeReply(inode=meta_pb2.Inode(inode_id=42, symlink=b"x" * length))

    def answer(request_id: int) -> list[bytes]:
        whole = frame.encode(frame.REPLY, reply.SerializeToString(), request_id=request_id)
        return [piece for piece in (whole[:first], whole[first:]) if piece]

    assert ask(answer) == reply


@pytest.mark.parametrize("kind", ["payload", "rest", "flag", "message", "error", "id"])
def test_a_small_call_refuses_what_is_no_reply_to_it(kind: str) -> None:
    def answer(request_id: int) -> list[bytes]:
        message = meta_pb2.InodeReply(inode=meta_pb2.Inode(inode_id=42)).SerializeToString()
        if kind == "error":
            return [frame.encode_error(request_id, FsError(Kind.NOT_FOUND, "no such entry"))]
        return [frame.encode(
            frame.REPLY, b"\xff" if kind == "message" else message,
            request_id=request_id + (kind == "id"), payload_length=4 * (kind == "payload"),
            flags=frame.SHARED * (kind == "flag")) + b"more" * (kind in {"payload", "rest"})]

    with pytest.raises(FsError) as caught:
        ask(answer)
    assert caught.value.kind == (Kind.NOT_FOUND if kind == "error" else Kind.CORRUPT_FRAME)
