"""Rings between processes: one doorbell for many requests, and what a hostile or dead end does."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, STORAGE_READ, Call, StorageStub
from luciole.rpc import bell, frame
from luciole.rpc.memory import PAGE, SEALS, Region, place_of
from luciole.rpc.reach import NodeCaller
from luciole.rpc.ring import PAIR_BYTES, RECORD_BYTES_MAX, TAIL, Consumer, Producer
from luciole.rpc.ring_client import Ask, RingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler, pattern
from luciole.tests.rpc.fuzzing import Inputs

SOON_S = 5.0
SLOW_OFFSET = 7


class Handler(StorageHandler):
    """Notes which threads it runs on; may be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.held: threading.Event | None = None
        self.held_at: threading.Event | None = None
        self.was_taken = False

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        self.threads.add(threading.get_ident())
        self.entered.set()
        if self.held is not None:
            self.held.wait(SOON_S)
        if self.held_at is not None and request.ios[0].offset == SLOW_OFFSET:
            self.was_taken = self.held_at.wait(SOON_S)
        return await super().read(request, call)


@pytest.fixture
def handler() -> Handler:
    made = Handler()
    made.stored = pattern(1 << 20)
    return made


@pytest.fixture
def server(handler: Handler) -> Iterator[FramedServer]:
    server = FramedServer(f"\0luciole-rings-{os.getpid()}-{id(handler)}", [(STORAGE, handler)],
                          cluster_id=CLUSTER, name="served")
    server.start()
    yield server
    server.stop(2.0)


@pytest.fixture
def caller(server: FramedServer) -> Iterator[RingCaller]:
    made = RingCaller(server.address, cluster_id=CLUSTER)
    yield made
    made.close()


def ask(
    room: memoryview, offset: int, *, lent: bool = True
) -> Ask[storage_pb2.ReadRequest, storage_pb2.ReadReply]:
    """To fill `room` from `offset`, in place if it may be."""
    io = storage_pb2.ReadIO(offset=offset, length=len(room), relaxed=lent)
    return Ask(storage_pb2.ReadRequest(ios=[io]), sink=lambda _: [room],
               into=[room] if lent else ())


def fill(caller: RingCaller, asks: list[Ask[storage_pb2.ReadRequest, storage_pb2.ReadReply]],
         timeout: float = SOON_S) -> None:
    replies = drive(caller.call_many(STORAGE_READ, asks, timeout=timeout))
    assert all(isinstance(reply, storage_pb2.ReadReply) for reply in replies)


class Counted:
    """Counts the bells that are sent through a connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by: dict[bool, int] = {True: 0, False: 0}  # by callers, by servers
        wake = bell.Bell._wake

        def counting(end: bell.Bell) -> None:
            self.by[end._calls] += 1
            wake(end)

        monkeypatch.setattr(bell.Bell, "_wake", counting)


def test_many_requests_with_one_doorbell_and_one_thread(
    caller: RingCaller, server: FramedServer, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Region(16 * PAGE)
    rooms = [region.view[at : at + PAGE] for at in range(0, 16 * PAGE, PAGE)]
    fill(caller, [ask(room, 0) for room in rooms])
    rung = Counted(monkeypatch)
    for turn in range(20):
        fill(caller, [ask(room, number + turn) for number, room in enumerate(rooms)])
        for number, room in enumerate(rooms):
            assert bytes(room) == handler.stored[number + turn : number + turn + PAGE]
    assert rung.by[True] <= 20 + 2  # a slow machine may have one ring again
    assert len(handler.threads) == 1
    assert server.connection_count == 1
    region.close()


def test_what_fits_no_ring_travels_and_all_arrives(
    caller: RingCaller, handler: Handler
) -> None:
    """Replies that are too large, too many, or in place, and requests that are too large."""
    chance = random.Random(1)
    region = Region(8 * PAGE)
    for _ in range(30):
        rooms, asks = [], []
        for number in range(chance.choice([1, 3, 40])):
            size = chance.choice([1, 700, RECORD_BYTES_MAX - 100, RECORD_BYTES_MAX, 200_000])
            lent = chance.random() < 0.3
            room = region.view[number % 8 * PAGE :][:PAGE] if lent \
                else memoryview(bytearray(size))
            rooms.append((room, number % 8 if lent else number))
            asks.append(ask(room, rooms[-1][1], lent=lent))
            if chance.random() < 0.2:
                asks[-1].request.ios[0].chunk_id = bytes(RECORD_BYTES_MAX)
        fill(caller, asks, 30.0)
        for room, offset in rooms:
            assert bytes(room) == handler.stored[offset : offset + len(room)]
    region.close()


def test_more_than_a_ring_holds(caller: RingCaller, handler: Handler) -> None:
    rooms = [memoryview(bytearray(10_000)) for _ in range(60)]
    fill(caller, [ask(room, number, lent=False) for number, room in enumerate(rooms)])
    for number, room in enumerate(rooms):
        assert bytes(room) == handler.stored[number : number + 10_000]


def test_errors_are_of_their_requests(caller: RingCaller, handler: Handler) -> None:
    room = memoryview(bytearray(10))
    region = Region(PAGE)
    broken: Ask[storage_pb2.ReadRequest, storage_pb2.ReadReply] = Ask(
        storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=2 * PAGE, relaxed=True)]),
        sink=lambda _: [room], into=[region.view])
    outcomes = drive(caller.call_many(
        STORAGE_READ, [ask(room, 0, lent=False), broken, ask(room, 5, lent=False)]))
    assert isinstance(outcomes[1], FsError)
    assert outcomes[1].kind == Kind.INVALID_ARGUMENT
    assert bytes(room) == handler.stored[5:15]
    assert place_of(region.view) is not None  # an answer ends the loan
    region.close()


def test_a_lost_doorbell_costs_a_moment(
    caller: RingCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = memoryview(bytearray(10))
    fill(caller, [ask(room, 0, lent=False)])
    monkeypatch.setattr(Producer, "must_ring", lambda _: False)
    began = time.monotonic()
    for _ in range(10):
        fill(caller, [ask(room, 0, lent=False)])
    assert time.monotonic() - began < SOON_S / 2


def test_a_deadline_takes_all_rooms_back(caller: RingCaller, handler: Handler) -> None:
    region = Region(4 * PAGE)
    rooms = [region.view[at : at + PAGE] for at in range(0, 4 * PAGE, PAGE)]
    fill(caller, [ask(room, 0) for room in rooms])
    handler.held = threading.Event()
    with pytest.raises(FsError) as caught:
        fill(caller, [ask(room, 1) for room in rooms], timeout=0.2)
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    region.view[:] = b"z" * len(region.view)
    handler.held.set()
    handler.held = None
    assert all(place_of(room) is None for room in rooms)
    other = memoryview(bytearray(10))
    fill(caller, [ask(other, 3, lent=False)])
    assert bytes(other) == handler.stored[3:13]
    assert bytes(region.view) == b"z" * len(region.view)
    region.close()


def test_a_server_that_hangs_up_fails_all_at_once(
    caller: RingCaller, server: FramedServer, handler: Handler
) -> None:
    handler.held = threading.Event()

    def kill() -> None:
        assert handler.entered.wait(SOON_S)
        server.stop(0.0)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    with pytest.raises(FsError) as caught:
        fill(caller, [ask(memoryview(bytearray(9)), 0, lent=False) for _ in range(5)], 30.0)
    assert caught.value.kind == Kind.CONNECTION_LOST
    assert time.monotonic() - began < SOON_S
    handler.held.set()
    killer.join(SOON_S)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def mapped_rings() -> set[str]:
    """The rings that this process maps, by inode."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:luciole-rings" in line}


CLIENT = """
import sys, time
from luciole.rpc.ring_client import RingCaller
from luciole.tests.rpc.test_rings import CLUSTER, ask, fill
caller = RingCaller("\\0" + sys.argv[1], cluster_id=CLUSTER)
fill(caller, [ask(memoryview(bytearray(10)), 0, lent=False)] * 5)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_client_leaves_nothing(server: FramedServer) -> None:
    gc.collect()  # those of other tests' callers
    files, before = len(os.listdir("/proc/self/fd")), mapped_rings()
    assert isinstance(server.address, str)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.address[1:]], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    try:
        assert client.stdout.readline() == "ready\n"
        shown = mapped_rings() - before
        assert len(shown) == 1
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(SOON_S)
        client.stdout.close()
    wait_until(lambda: not server.connection_count, "the server keeps the connection")
    wait_until(lambda: not mapped_rings() & shown, "the server maps the dead client's rings")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files, "the server keeps files")


class Hostile:
    """A peer that writes what it likes: over the socket, and into the rings."""

    def __init__(self, server: FramedServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SOON_S)
        self.socket.connect(server.address)
        self.socket.sendall(frame.encode_hello(CLUSTER, "hostile", "test"))
        assert self.socket.recv(4096)
        self.bell: bell.Bell | None = None

    def set_up(self) -> bell.Bell:
        self.bell, files = bell.make(self.socket)
        assert self.show(files).kind == frame.REPLY
        return self.bell

    def show(self, files: list[int]) -> frame.Header:
        """The answer to a RINGS frame with these files, which it closes."""
        socket.send_fds(self.socket, [frame.encode(frame.RINGS, b"")], files)
        for file in files:
            os.close(file)
        return frame.parse_header(memoryview(self.socket.recv(4096)))

    def close(self) -> None:
        self.socket.close()
        if self.bell is not None:
            self.bell.close()


def memory_file(size: int, seals: int) -> int:
    file = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def test_files_that_are_no_rings_are_refused(server: FramedServer, tmp_path: Path) -> None:
    gc.collect()  # rings of other tests' callers
    peer, rings = Hostile(server), mapped_rings()
    before = len(os.listdir("/proc/self/fd"))

    def bell_end() -> int:
        return socket.socket(socket.AF_UNIX).detach()

    def rings_file(size: int = PAIR_BYTES, seals: int = SEALS) -> int:
        return memory_file(size, seals)

    hostile: list[Callable[[], list[int]]] = [
        list,
        lambda: [bell_end()],
        lambda: [rings_file(seals=0), bell_end()],
        lambda: [rings_file(seals=fcntl.F_SEAL_GROW), bell_end()],
        lambda: [rings_file(PAIR_BYTES - PAGE), bell_end()],
        lambda: [rings_file(), rings_file()],
        lambda: [rings_file(), os.eventfd(0)],
        lambda: [bell_end(), rings_file()],
        lambda: [os.open(tmp_path / "plain", os.O_CREAT | os.O_RDWR), bell_end()],
    ]
    for make in hostile:
        files = make()
        assert peer.show(files).kind == frame.ERROR
        assert len(os.listdir("/proc/self/fd")) <= before
    assert mapped_rings() <= rings
    peer.set_up()
    assert peer.show([rings_file(), bell_end()]).kind == frame.ERROR
    peer.close()


def test_files_that_nobody_asked_for_are_not_kept(server: FramedServer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    peer = Hostile(server)
    request = frame.encode(frame.REQUEST, b"", service_id=99, deadline_ms=1000, request_id=1)
    for _ in range(20):
        file = memory_file(PAGE, 0)
        socket.send_fds(peer.socket, [request], [file])
        os.close(file)
        assert frame.parse_header(memoryview(peer.socket.recv(4096))).kind == frame.ERROR
    assert len(os.listdir("/proc/self/fd")) <= before + 2 + 2
    peer.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "files are left")


def test_whatever_lies_in_a_ring_the_server_serves_others(
    server: FramedServer, handler: Handler, caller: RingCaller
) -> None:
    """Frames of every kind as records, records in a ring that lies, and plain noise."""
    inputs, chance = Inputs(3), random.Random(3)
    room = memoryview(bytearray(10))
    files = threads = 0
    for number in range(120):
        peer = Hostile(server)
        end = peer.set_up()
        for _ in range(chance.randrange(1, 5)):
            end.put(inputs.next()[:RECORD_BYTES_MAX])
        words = end.outgoing._ring
        if number % 3 == 1:
            for word in range(0, 24, 8):
                words.control[word] = chance.choice([0, 8, 24, chance.getrandbits(64)])
        elif number % 3 == 2:
            words.bytes[:] = chance.randbytes(len(words.bytes))
            words.control[TAIL] = chance.randrange(8, len(words.bytes), 8)
        end._wake()
        if number % 20 == 0:
            fill(caller, [ask(room, number, lent=False)])
            assert bytes(room) == handler.stored[number : number + 10]
        peer.close()
        if number == 60:
            wait_until(lambda: server.connection_count <= 1, "connections are left")
            files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    wait_until(lambda: server.connection_count <= 1, "connections are left")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files, "files are left")
    wait_until(lambda: threading.active_count() <= threads, "threads are left")


def test_a_ring_that_never_empties_does_not_keep_the_server_from_stopping(
    server: FramedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Hostile(server)
    end = peer.set_up()
    request = frame.encode(frame.REQUEST, b"", service_id=99, deadline_ms=1000, request_id=1)
    monkeypatch.setattr(Consumer, "take", lambda _: request)

    def read_answers() -> None:  # of which the ring is full soon
        with suppress(OSError):
            while peer.socket.recv(65536):
                pass

    reader = threading.Thread(target=read_answers)
    reader.start()
    end.put(request)
    end._wake()
    wait_until(lambda: end.incoming._ring.control[TAIL] > 0, "no answer")
    began = time.monotonic()
    server.stop(2.0)
    elapsed = time.monotonic() - began
    reader.join(SOON_S)
    peer.close()
    assert elapsed < 2.0
    assert server.connection_count == 0


def test_a_peer_that_takes_no_answer_and_clears_no_bell_is_given_up(handler: Handler) -> None:
    """Its ring of answers is full, then its socket: nothing waits longer than for any peer."""
    server = FramedServer(f"\0luciole-stuck-{os.getpid()}", [(STORAGE, handler)],
                          cluster_id=CLUSTER, name="served", frame_s=0.3)
    server.start()
    peer = Hostile(server)
    end = peer.set_up()
    request = frame.encode(
        frame.REQUEST, storage_pb2.ReadRequest(
            ios=[storage_pb2.ReadIO(length=15_000)]).SerializeToString(),
        service_id=STORAGE_READ.service_id, method_id=STORAGE_READ.method_id, deadline_ms=1000,
        request_id=1)
    end.incoming._ring.control[16] = 1  # it says that it sleeps
    for _ in range(400):
        end.put(request)
    end._wake()
    wait_until(lambda: bool(server.connection_count), "it never came")
    deadline = time.monotonic() + SOON_S
    while server.connection_count and time.monotonic() < deadline:
        end.put(request)
        end._wake()
    assert not server.connection_count
    peer.close()
    server.stop(1.0)


def test_an_answer_does_not_wait_for_a_slow_request_behind_it(
    caller: RingCaller, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request is answered only once the first answer was taken."""
    monkeypatch.setattr(bell, "TICK_S", 60.0)  # the bell alone tells of it
    taken = handler.held_at = threading.Event()
    room = memoryview(bytearray(5))

    def sink(_: storage_pb2.ReadReply) -> list[memoryview]:
        taken.set()
        return [room]

    first = Ask(storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=5)]), sink=sink)
    fill(caller, [first, ask(memoryview(bytearray(5)), SLOW_OFFSET, lent=False)], 2 * SOON_S)
    assert handler.was_taken


def test_a_node_without_rings_is_asked_as_before(
    server: FramedServer, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(server.address, str)
    local = server.address[1:]

    def reach() -> NodeCaller:
        made = NodeCaller(("127.0.0.1", 1), local, "auto", cluster_id=CLUSTER, name="")
        assert made.why_no_rings() == "not over shared memory"  # before anything was asked
        assert made.choose().transport == "shm"
        return made

    monkeypatch.setattr(bell, "SOUND", False)  # as a server sees it
    caller = reach()
    assert "no rings" in caller.why_no_rings()
    monkeypatch.setattr(bell, "SOUND", True)
    assert "no rings" in caller.why_no_rings()  # it is not asked again
    room = memoryview(bytearray(10))
    drive(StorageStub(caller).read(
        storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=10)]), sink=lambda _: [room]))
    assert bytes(room) == handler.stored[:10]
    caller.close()
    caller = reach()
    assert caller.why_no_rings() == ""
    caller.close()
