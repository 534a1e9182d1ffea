"""Shared memory: what a server trusts, and what a caller that fails or dies leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, STORAGE_READ, Call, StorageStub
from luciole.rpc import frame
from luciole.rpc.interface import Arena
from luciole.rpc.memory import PAGE, Region, place_of
from luciole.rpc.shared import REGIONS_MAX, Shown, encode_table
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler, pattern

SOON_S = 5.0


class Watchful(StorageHandler):
    """Notes whether rooms were the caller's memory; can be held up before it fills them."""

    def __init__(self) -> None:
        super().__init__()
        self.in_place: list[bool] = []
        self.held: threading.Event | None = None
        self.filled = threading.Event()

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        call.room(0, request.ios[0].length)
        self.entered.set()
        if self.held is not None:
            self.held.wait(SOON_S)
        reply = await super().read(request, call)
        self.in_place.append(call.in_place)
        self.filled.set()
        return reply


@pytest.fixture
def handler() -> Watchful:
    return Watchful()


@pytest.fixture
def name(handler: Watchful) -> Iterator[str]:
    name = f"\0luciole-shared-{os.getpid()}-{id(handler)}"
    server = FramedServer(name, [(STORAGE, handler)], cluster_id=CLUSTER, name="served")
    server.start()
    yield name
    server.stop(2.0)


def read(caller: BlockingCaller, room: memoryview, timeout: float = SOON_S) -> bool:
    """Reads a room full; returns whether the bytes travelled."""
    travelled = []

    def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
        travelled.append(True)
        return [room[: reply.results[0].length]]

    request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=len(room), relaxed=True)])
    drive(StorageStub(caller).read(request, sink=sink, into=[room], timeout=timeout))
    return bool(travelled)


def test_bytes_of_regions_do_not_travel(name: str, handler: Watchful) -> None:
    caller = BlockingCaller(name, cluster_id=CLUSTER)
    data = pattern(8 * PAGE)[: 8 * PAGE]
    region = Region(len(data))
    region.view[:] = data
    drive(StorageStub(caller).write(
        storage_pb2.WriteRequest(), payload=[region.view[:5].toreadonly(), region.view[5:]]))
    assert handler.stored == data
    region.view[:] = bytes(len(data))
    assert not read(caller, region.view)
    assert bytes(region.view) == data
    # Not whole pages, or memory of nobody's region: they travel, and arrive all the same.
    assert read(caller, region.view[1 : PAGE + 1])
    assert bytes(region.view[1 : PAGE + 1]) == data[:PAGE]
    assert read(caller, memoryview(bytearray(PAGE)))
    assert handler.in_place == [True, False, False]
    region.close()
    assert read(caller, memoryview(bytearray(PAGE)))
    caller.close()


def test_a_late_server_writes_where_nobody_looks(name: str, handler: Watchful) -> None:
    handler.stored = pattern(4 * PAGE)
    handler.held = threading.Event()
    caller = BlockingCaller(name, cluster_id=CLUSTER)
    region = Region(4 * PAGE)
    room = region.view[PAGE : 3 * PAGE]
    with pytest.raises(FsError) as caught:
        read(caller, room, timeout=0.2)
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    room[:] = b"z" * len(room)  # the caller goes on with its memory
    handler.held.set()
    assert handler.filled.wait(SOON_S)
    assert handler.in_place == [True]
    assert bytes(room) == b"z" * len(room)
    assert place_of(room) is None
    handler.held = None
    assert not read(caller, region.view[:PAGE])
    assert read(caller, room)
    assert bytes(room) == handler.stored[: len(room)]
    caller.close()
    region.close()


def unsealed(size: int) -> int:
    file = os.memfd_create("hostile", os.MFD_CLOEXEC)
    os.ftruncate(file, size)
    return file


def test_what_could_kill_the_server_is_refused(tmp_path: Path) -> None:
    shown = Shown()
    before = len(os.listdir("/proc/self/fd"))
    plain = os.open(tmp_path / "plain", os.O_CREAT | os.O_RDWR)
    for files in ([unsealed(PAGE)], [], [plain], [unsealed(PAGE), unsealed(PAGE)]):
        with pytest.raises(FsError) as caught:
            shown.add(files)
        assert caught.value.kind == Kind.INVALID_ARGUMENT
    assert len(os.listdir("/proc/self/fd")) == before
    region = Region(PAGE)
    for number in range(REGIONS_MAX):
        assert shown.add([os.dup(region.file)]) == number
    with pytest.raises(FsError, match="fewer and larger"):
        shown.add([os.dup(region.file)])
    region.close()


def test_pieces_outside_a_region_are_refused() -> None:
    shown, region, arena = Shown(), Region(2 * PAGE), Arena()
    shown.add([os.dup(region.file)])
    for piece in ((1, 1, 0), (0, 2 * PAGE + 1, 0), (0, 1, 2 * PAGE), (0, 1, 2**64 - 1)):
        for table in (encode_table(piece, []), encode_table([], piece)):
            with pytest.raises(FsError, match="outside region"):
                shown.resolve(memoryview(table), arena)
    for broken in (b"", b"\1\0\0\0\0\0\0\0", b"\xff" * 8, encode_table((0, 1, 0), []) + b"x"):
        with pytest.raises(FsError) as caught:
            shown.resolve(memoryview(broken), arena)
        assert caught.value.kind == Kind.CORRUPT_FRAME
    region.view[:3] = b"abc"
    payload, rooms = shown.resolve(memoryview(encode_table((0, 3, 0), (0, 2, 1))), arena)
    region.view[:3] = b"xyz"
    assert bytes(payload) == b"abc"  # a copy: the caller cannot change what was checked
    assert bytes(rooms[0]) == b"yz"
    region.close()


def test_rooms_of_no_region_are_an_error_and_the_connection_lives(name: str) -> None:
    table = encode_table([], (7, 10, 0))
    request = frame.encode(
        frame.REQUEST, storage_pb2.ReadRequest().SerializeToString(), service_id=3,
        method_id=STORAGE_READ.method_id, deadline_ms=1000, request_id=1,
        payload_length=len(table), flags=frame.SHARED)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(SOON_S)
        peer.connect(name)
        peer.sendall(frame.encode_hello(CLUSTER, "hostile", "test"))
        assert peer.recv(4096)
        for _ in range(2):
            peer.sendall(request + table)
            answer = memoryview(peer.recv(4096))
            header = frame.parse_header(answer)
            assert header.kind == frame.ERROR
            error = frame.decode_error(frame.take_message(header, answer))
            assert error.kind == Kind.INVALID_ARGUMENT


CLIENT = """
import sys, time
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.memory import Region
from luciole.tests.rpc.test_shared import CLUSTER, read
caller, regions = BlockingCaller("\\0" + sys.argv[1], cluster_id=CLUSTER), []
for number in range(3):
    regions.append(Region(1 << 20))
    assert not read(caller, regions[-1].view)
print("ready", flush=True)
time.sleep(60)
"""


def mapped() -> set[str]:
    """The regions that this process maps, by inode."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:luciole" in line}


def region_files() -> int:
    """How many regions this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return sum("memfd:luciole" in os.readlink(link) for link in links if link.is_symlink())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_killed_client_leaves_nothing(name: str, handler: Watchful) -> None:
    handler.stored = pattern(1 << 20)
    files, before = len(os.listdir("/proc/self/fd")), mapped()
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, name[1:]], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    try:
        assert client.stdout.readline() == "ready\n"
        shown = mapped() - before
        assert len(shown) == 3
        assert region_files() == 0  # a region that is mapped costs no descriptor
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(SOON_S)
        client.stdout.close()
    wait_until(lambda: not mapped() & shown, "the server maps what the dead client showed")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files, "the server keeps files")


def test_a_region_is_mapped_once_for_all_connections() -> None:
    region = Region(2 * PAGE)
    inode = str(os.fstat(region.file).st_ino)

    def mappings() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(line.split()[4] == inode for line in lines)

    before = mappings()
    shown = [Shown() for _ in range(5)]
    for each in shown:
        assert each.add([os.dup(region.file)]) == 0
    assert mappings() == before + 1
    table = memoryview(encode_table((0, 3, 0), ()))
    region.view[:3] = b"abc"
    shown.pop(0)
    assert all(bytes(each.resolve(table, Arena())[0]) == b"abc" for each in shown)
    shown.clear()
    del each
    assert mappings() == before
    again = Shown()
    again.add([os.dup(region.file)])
    assert bytes(again.resolve(table, Arena())[0]) == b"abc"
    region.close()


def test_a_closed_region_is_dropped_by_the_server(name: str, handler: Watchful) -> None:
    handler.stored = pattern(PAGE)
    caller = BlockingCaller(name, cluster_id=CLUSTER)
    region = Region(PAGE)
    inode = str(os.fstat(region.file).st_ino)
    assert not read(caller, region.view)
    assert inode in mapped()
    region.close()
    del region
    wait_until(lambda: inode not in mapped(), "the server keeps the region")
    assert read(caller, memoryview(bytearray(PAGE)))
    caller.close()
