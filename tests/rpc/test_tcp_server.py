"""The framed server against peers that lie, stall, flood or die."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, storage_pb2
from luciole.proto.services import META, STORAGE, MetaStub, StorageStub
from luciole.rpc import frame
from luciole.rpc.interface import PAYLOAD_BYTES_MAX
from luciole.rpc.tcp_client import BlockingCaller, TrioCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.tests.conformance.rpc import CLUSTER, MetaHandler, StorageHandler

HELLO = frame.encode_hello(CLUSTER, "test", "client")
LOOKUP = meta_pb2.LookupRequest(name=b"x")


@pytest.fixture
def handler() -> StorageHandler:
    return StorageHandler()


@pytest.fixture
def server(handler: StorageHandler) -> Iterator[FramedServer]:
    server = FramedServer(
        ("127.0.0.1", 0),
        [(META, MetaHandler()), (STORAGE, handler)],
        cluster_id=CLUSTER,
        name="served",
        connections_max=4,
        frame_s=0.4,
        hello_s=0.4,
    )
    server.start()
    yield server
    handler.released.notify()
    server.stop(1.0)


def connect(server: FramedServer) -> socket.socket:
    assert isinstance(server.address, tuple)
    connection = socket.create_connection(server.address, 3.0)
    connection.settimeout(3.0)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server hangs up, which it must within the socket's timeout."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return data


def the_error(data: bytes) -> FsError:
    """The error that `data` is."""
    header = frame.parse_header(memoryview(data))
    assert header.kind == frame.ERROR
    return frame.decode_error(frame.take_message(header, memoryview(data)))


def lookup(server: FramedServer) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    reply = drive(MetaStub(caller).lookup(LOOKUP, timeout=3.0))
    caller.close()
    assert reply.inode.inode_id == 42


def say(server: FramedServer, data: bytes) -> FsError:
    """Says hello and `data`; returns the error with which the server hangs up."""
    with connect(server) as connection:
        connection.sendall(HELLO)
        assert frame.parse_header(memoryview(connection.recv(65536))).kind == frame.HELLO
        connection.sendall(data)
        return the_error(read_all(connection))


def test_announced_lengths_beyond_the_limits_are_refused(server: FramedServer) -> None:
    error = say(server, frame.encode(frame.REQUEST, b"", payload_length=PAYLOAD_BYTES_MAX + 1))
    assert error.kind == Kind.CORRUPT_FRAME
    assert str(PAYLOAD_BYTES_MAX) in error.message
    lookup(server)


def test_frame_that_is_no_request_is_refused(server: FramedServer) -> None:
    assert say(server, frame.encode(frame.REPLY, b"")).kind == Kind.CORRUPT_FRAME
    assert say(server, b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n").kind == (
        Kind.CORRUPT_FRAME
    )


def test_request_before_hello_is_refused(server: FramedServer) -> None:
    with connect(server) as connection:
        connection.sendall(frame.encode(frame.REQUEST, b"", service_id=2, method_id=1))
        assert the_error(read_all(connection)).kind == Kind.CORRUPT_FRAME


def test_newer_protocol_is_told_to_wait_for_an_upgrade(server: FramedServer) -> None:
    newer = bytearray(HELLO)
    newer[4] = frame.VERSION + 1
    newer[36:40] = crc32c(newer[:36]).to_bytes(4, "little")
    with connect(server) as connection:
        connection.sendall(newer)
        error = the_error(read_all(connection))
    assert error.kind == Kind.UNIMPLEMENTED
    assert "upgrade" in error.message


def test_silent_and_stalling_peers_are_dropped(server: FramedServer) -> None:
    began = time.monotonic()
    request = frame.encode(frame.REQUEST, b"", service_id=3, method_id=1, payload_length=100)
    with connect(server) as silent, connect(server) as stalling:
        stalling.sendall(HELLO)
        stalling.recv(65536)
        stalling.sendall(request + b"half")
        assert read_all(silent) == b""
        assert read_all(stalling) == b""
    assert time.monotonic() - began < 2.0
    lookup(server)


@pytest.mark.parametrize("in_file", [False, True])
def test_peer_that_does_not_take_its_reply_is_dropped(
    server: FramedServer, handler: StorageHandler, in_file: bool
) -> None:
    handler.stored = bytes(32 << 20)
    request = storage_pb2.ReadRequest(
        ios=[storage_pb2.ReadIO(length=32 << 20, unverified=in_file)])
    with connect(server) as connection:
        connection.sendall(HELLO)
        connection.recv(65536)
        connection.sendall(
            frame.encode(
                frame.REQUEST,
                request.SerializeToString(),
                service_id=3,
                method_id=3,
                deadline_ms=5000,
            )
        )
        began = time.monotonic()
        server.stop(5.0)  # lets the reply go out, for as long as a frame may take
        assert server.connection_count == 0
        assert 0.2 < time.monotonic() - began < 3.0


@pytest.mark.parametrize("size", [1, 65536, 3 << 20])
def test_file_that_ends_early_ends_the_connection_and_pads_nothing(
    server: FramedServer, handler: StorageHandler, size: int
) -> None:
    handler.stored = bytes(1000)
    request = storage_pb2.ReadRequest(
        ios=[storage_pb2.ReadIO(offset=10, length=990 + size, unverified=True)])
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    room = memoryview(bytearray(990 + size))
    began = time.monotonic()
    with pytest.raises(FsError) as caught:
        drive(StorageStub(caller).read(request, sink=lambda _: [room]))
    assert caught.value.kind == Kind.CONNECTION_LOST
    assert time.monotonic() - began < 0.3  # told at once, not at a deadline
    request.ios[0].length = 990
    drive(StorageStub(caller).read(request, sink=lambda _: [room[:990]]))
    caller.close()


def test_idle_peer_is_kept(server: FramedServer) -> None:
    caller = BlockingCaller(server.address, cluster_id=CLUSTER)
    stub = MetaStub(caller)
    drive(stub.lookup(LOOKUP))
    threading.Event().wait(0.6)  # longer than a frame may take
    assert server.connection_count == 1
    drive(stub.lookup(LOOKUP))
    assert server.connection_count == 1
    caller.close()


def test_connection_beyond_the_limit_is_told_why(server: FramedServer) -> None:
    held = []
    for _ in range(4):
        connection = connect(server)
        connection.sendall(HELLO)
        assert connection.recv(65536)
        held.append(connection)
    with pytest.raises(FsError, match="limit of 4 connections") as caught:
        lookup(server)
    assert caught.value.kind == Kind.UNAVAILABLE
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 3.0
    while server.connection_count and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    lookup(server)


def test_garbage_does_not_stop_service(server: FramedServer) -> None:
    source = random.Random(1)
    request = frame.encode(
        frame.REQUEST,
        LOOKUP.SerializeToString(),
        service_id=2,
        method_id=1,
        deadline_ms=1000,
    )
    threads = threading.active_count()
    for number in range(300):
        with connect(server) as connection, suppress(ConnectionError):
            data = bytearray(HELLO + request)
            if number % 3 == 0:
                data = bytearray(source.randbytes(source.randrange(200)))
            elif number % 3 == 1:
                data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            else:
                del data[source.randrange(len(data)) :]
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    lookup(server)
    assert threading.active_count() <= threads + 4


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    server = FramedServer(path, [(META, MetaHandler())], cluster_id=CLUSTER, name="local")
    server.start()
    lookup(server)

    async def main() -> None:
        caller = TrioCaller(path, cluster_id=CLUSTER)
        assert (await MetaStub(caller).lookup(LOOKUP)).inode.inode_id == 42
        caller.close()

    trio.run(main)
    other = FramedServer(path, [], cluster_id=CLUSTER, name="second")
    with pytest.raises(FsError, match="in use"):
        other.start()
    server.stop(1.0)
    assert not (tmp_path / "socket").exists()


def fake_server(answers: list[bytes]) -> tuple[int, threading.Thread]:
    """Answers what one peer sends, piece by piece, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(3.0)

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            connection.settimeout(3.0)
            for answer in answers:
                connection.recv(65536)
                connection.sendall(answer)
            with suppress(ConnectionError):
                connection.recv(65536)

    thread = threading.Thread(target=run)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    "answer",
    [
        frame.encode(frame.REPLY, b"", payload_length=PAYLOAD_BYTES_MAX + 1),
        frame.encode(frame.HELLO, b""),
        frame.encode(frame.REPLY, b"", request_id=1),
        bytes(100),
    ],
)
@pytest.mark.parametrize("under_trio", [False, True])
def test_lying_server(answer: bytes, under_trio: bool) -> None:
    port, thread = fake_server([HELLO, answer])
    maker = TrioCaller if under_trio else BlockingCaller
    stub = MetaStub(maker(("127.0.0.1", port), cluster_id=CLUSTER))
    with pytest.raises(FsError) as caught:
        trio.run(stub.lookup, LOOKUP) if under_trio else drive(stub.lookup(LOOKUP))
    thread.join(3.0)
    assert not thread.is_alive()
    assert caught.value.kind == Kind.CORRUPT_FRAME
    assert str(port) in caught.value.message


def test_cancelled_call_closes_its_connection(
    server: FramedServer, handler: StorageHandler
) -> None:
    async def main() -> None:
        caller = TrioCaller(server.address, cluster_id=CLUSTER)
        stub = StorageStub(caller)
        with trio.move_on_after(0.1) as scope:
            await stub.sync(storage_pb2.SyncRequest())
        assert scope.cancelled_caught
        handler.released.notify()
        reply = await MetaStub(caller).lookup(LOOKUP)
        assert reply.inode.inode_id == 42
        caller.close()

    trio.run(main)
