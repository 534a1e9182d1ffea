"""RDMA over a verbs device: the conformance suite, and what only this transport does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luciole.config import RdmaSetup
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, Buffer, Call, StorageStub
from luciole.rpc import rdma_client, rdma_memory, rdma_server, stream
from luciole.rpc.dispatch import Services
from luciole.rpc.memory import PAGE, Region
from luciole.rpc.rdma_device import Settings, choose
from luciole.rpc.rdma_queue import _REQUESTS_MAX, _RETRIES, _TIMEOUT, QueuePair
from luciole.rpc.rdma_table import decode_card
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer, _Connection
from luciole.rpc.wire import Address
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.rpc import (
    CLUSTER,
    Body,
    RpcConformance,
    Served,
    StorageHandler,
    T,
    pattern,
)
from luciole.tests.rdma.device import needs_device

SOON_S = 8.0
SETUPS: list[RdmaSetup] = ["tcp", "cm"]  # both ways to connect queue pairs
CHOSEN = Settings(setup="cm" if os.environ.get("LUCIOLE_TEST_RDMA_SETUP") == "cm" else "auto")


pytestmark = needs_device


def serve(services: Services, port: int = 0) -> FramedServer:
    server = FramedServer(("127.0.0.1", port), services, cluster_id=CLUSTER, name="served",
                          kind="test", rdma=Settings())
    server.start()
    return server


class RdmaBinding:
    remote = True
    sends_files = False

    def __init__(self, setup: RdmaSetup = "auto") -> None:
        self._settings = Settings(setup=setup)

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        server = serve(services, port)
        assert isinstance(server.address, tuple)
        return server, server.address[1]

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = BlockingCaller(("127.0.0.1", port), cluster_id=cluster_id, rdma=self._settings)
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class TestRdma(RpcConformance):
    binding = RdmaBinding()


class TestRdmaByManager(RpcConformance):
    binding = RdmaBinding("cm")


class Watchful(StorageHandler):
    """Can be held up before it answers a read."""

    def __init__(self) -> None:
        super().__init__()
        self.held: threading.Event | None = None
        self.filled = threading.Event()

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        self.entered.set()
        if self.held is not None:
            self.held.wait(SOON_S)
        reply = await super().read(request, call)
        self.filled.set()
        return reply


@pytest.fixture
def handler() -> Watchful:
    return Watchful()


@pytest.fixture(params=SETUPS)
def server(
    handler: Watchful, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FramedServer]:
    """Its callers, and those of other processes, connect in one way and in the other."""
    monkeypatch.setattr(sys.modules[__name__], "CHOSEN", Settings(setup=request.param))
    monkeypatch.setenv("LUCIOLE_TEST_RDMA_SETUP", request.param)
    server = serve([(STORAGE, handler)])
    yield server
    server.stop(2.0)


def caller_at(address: Address, settings: Settings | None = None) -> BlockingCaller:
    return BlockingCaller(address, cluster_id=CLUSTER, rdma=settings or CHOSEN)


def caller_of(server: FramedServer, settings: Settings | None = None) -> BlockingCaller:
    return caller_at(server.address, settings)


def warm(server: FramedServer) -> None:
    """What a server keeps once it was asked, it has now; and nobody is connected."""
    caller = caller_of(server)
    caller.probe()
    assert caller.managed == (CHOSEN.setup == "cm")
    caller.close()
    all_gone(server)


def all_gone(server: FramedServer) -> None:
    """Waits until the server's threads have seen their callers go."""
    deadline = time.monotonic() + SOON_S
    while rdma_server.ends() or server.connection_count:
        assert time.monotonic() < deadline, "a connection stays"
        time.sleep(0.01)


def read(caller: BlockingCaller, room: memoryview, timeout: float = SOON_S) -> None:
    """Fills a room from the beginning of what is stored."""
    request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=len(room), relaxed=True)])
    drive(StorageStub(caller).read(
        request, sink=lambda reply: [room[: reply.results[0].length]], into=[room],
        timeout=timeout))


def store(caller: BlockingCaller, data: memoryview) -> None:
    """Writes all of `data`."""
    drive(StorageStub(caller).write(storage_pb2.WriteRequest(), payload=[data]))


def sent_over_tcp() -> int:
    """Bytes that this guest's loopback device has carried; queue pairs use another."""
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


@pytest.mark.parametrize("registered", [True, False])
def test_bulk_goes_by_the_queue_pair(
    server: FramedServer, handler: Watchful, registered: bool
) -> None:
    caller = caller_of(server)
    caller.probe()
    size = 4 << 20
    data = pattern(size)[:size]
    region = Region(size)
    memory = region.view if registered else memoryview(bytearray(size))
    before = sent_over_tcp()
    for _ in range(3):
        memory[:] = data
        drive(StorageStub(caller).write(
            storage_pb2.WriteRequest(), payload=[memory[:5].toreadonly(), memory[5:]]))
        assert handler.stored == data
        memory[:] = bytes(size)
        read(caller, memory)
        assert bytes(memory) == data
    assert sent_over_tcp() - before < 4096
    caller.close()
    region.close()


def test_what_is_posted_again_goes_where_it_is_wanted_now(
    server: FramedServer, handler: Watchful
) -> None:
    """Requests for the card are kept by what they say of one end; the other end changes."""
    handler.stored = pattern(2 * PAGE)
    caller = caller_of(server)
    region = Region(8 * PAGE)
    lengths = [PAGE + number for number in range(2 * _REQUESTS_MAX)]
    for length in lengths * 2:
        for begin in (0, 4 * PAGE):
            region.view[:] = bytes(8 * PAGE)
            read(caller, region.view[begin : begin + length])
            assert region.view[begin : begin + length] == handler.stored[:length]
            assert not any(region.view[begin + length :])
            assert not any(region.view[:begin])
    for begin in (0, PAGE, 2 * PAGE):
        data = pattern(3 * PAGE)[begin : begin + PAGE]
        region.view[begin : begin + PAGE] = data
        for _ in range(3):
            store(caller, region.view[begin : begin + PAGE])
            assert handler.stored == data
    caller.close()
    region.close()


def test_a_call_that_was_given_up_writes_nothing_late(
    server: FramedServer, handler: Watchful
) -> None:
    handler.stored = pattern(4 * PAGE)
    handler.held = threading.Event()
    caller = caller_of(server)
    caller.probe()
    region = Region(4 * PAGE)
    room = region.view[PAGE : 3 * PAGE]
    with pytest.raises(FsError) as caught:
        read(caller, room, timeout=0.3)
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    room[:] = b"z" * len(room)
    handler.held.set()
    assert handler.filled.wait(SOON_S)
    deadline = time.monotonic() + SOON_S
    while server.connection_count and time.monotonic() < deadline:
        time.sleep(0.01)  # the server has tried to write, and has hung up
    assert server.connection_count == 0
    assert bytes(room) == b"z" * len(room)
    handler.held = None
    read(caller, room)
    assert bytes(room) == handler.stored[: len(room)]
    caller.close()
    region.close()


@pytest.mark.parametrize("write", [True, False])
def test_a_wrong_key_breaks_only_its_own_connection(
    server: FramedServer, handler: Watchful, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    """The caller's card refuses the server; whoever lied about his memory has lost a connection."""
    handler.stored = pattern(1 << 20)
    honest, liar = caller_of(server), caller_of(server)
    region = Region(1 << 20)
    read(honest, region.view)
    real = rdma_memory.Shareable.piece
    with monkeypatch.context() as patched:
        patched.setattr(rdma_memory.Shareable, "piece", lambda self, view: (
            found._replace(key=found.key ^ 0x5500) if (found := real(self, view)) else None))
        began = time.monotonic()
        with pytest.raises(FsError) as caught:
            (store if write else read)(liar, region.view)
    assert caught.value.kind == Kind.CONNECTION_LOST
    assert time.monotonic() - began < SOON_S
    for caller in (honest, liar):
        region.view[:] = bytes(len(region.view))
        read(caller, region.view)
        assert bytes(region.view) == handler.stored[: 1 << 20]
        caller.close()
    region.close()


def set_link(state: str) -> None:
    subprocess.run(["ip", "link", "set", "eth0", state], check=True, timeout=SOON_S)


# Not by rdma_cm: what Soft-RoCE's manager sends into a dead cable breaks the manager for good, for
# every program of the guest.
@pytest.mark.parametrize("server", ["tcp"], indirect=True)
@pytest.mark.skipif(not os.environ.get("LUCIOLE_GUEST"), reason="it takes a network down")
def test_a_fabric_that_fails_is_noticed_and_tcp_taken(
    server: FramedServer, handler: Watchful
) -> None:
    """The cable is out: TCP still goes (over lo), packets of queue pairs do not."""
    handler.stored = pattern(1 << 20)
    caller = caller_of(server)
    room = memoryview(bytearray(1 << 20))
    read(caller, room)
    set_link("down")
    try:
        began = time.monotonic()
        with pytest.raises(FsError) as caught:
            read(caller, room, timeout=60.0)
        assert caught.value.kind == Kind.CONNECTION_LOST
        assert time.monotonic() - began < SOON_S
        room[:] = bytes(len(room))
        read(caller, room)
        assert bytes(room) == handler.stored[: 1 << 20]
        with pytest.raises(FsError) as caught:
            caller.probe()
        assert "no RDMA" in caught.value.message
    finally:
        set_link("up")
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            caller.probe()
            break
        except FsError:
            assert time.monotonic() < deadline, "the port does not come back"
            time.sleep(0.05)
    caller.close()


def test_a_peer_that_is_slow_is_still_one_for_rdma(
    server: FramedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the card says that a fabric carries nothing: a busy machine may take its time."""
    real = _Connection._take_queue_pair

    def late(connection: _Connection, request: stream.Frame) -> Buffer:
        if connection._rdma is not None:
            threading.Event().wait(1.5)  # the peer has other work
        return real(connection, request)

    monkeypatch.setattr(_Connection, "_take_queue_pair", late)
    caller = caller_of(server)
    caller.probe()
    assert rdma_server.ends() == 1
    caller.close()


def to_nobody(queue: QueuePair, identifier: Any, reads: int) -> None:
    """As `QueuePair.join`, but of the caller to a queue pair that nobody has."""
    e = queue._verbs.e
    for state in (e.IBV_QPS_RTR, e.IBV_QPS_RTS):
        attributes, mask = identifier.init_qp_attr(state)
        if queue._access and state == e.IBV_QPS_RTR:
            attributes.dest_qp_num ^= 0x8000
        attributes.timeout, attributes.retry_cnt = _TIMEOUT, _RETRIES
        queue._pair.modify(attributes, mask)


def test_a_fabric_that_carries_nothing_is_told_by_the_card(
    server: FramedServer, handler: Watchful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets go to a queue pair that nobody has, and vanish."""
    monkeypatch.setattr(QueuePair, "join", to_nobody)
    handler.stored = pattern(PAGE)
    monkeypatch.setattr(rdma_client, "decode_card", lambda data: (
        card := decode_card(data))._replace(number=card.number ^ 0x8000))
    caller = caller_of(server)
    with pytest.raises(FsError) as caught:
        caller.probe()
    assert "nothing goes over the queue pair" in caught.value.message
    assert "RETRY_EXC" in caught.value.message
    room = memoryview(bytearray(PAGE))
    read(caller, room)
    assert bytes(room) == handler.stored[:PAGE]
    caller.close()


def test_many_connections_leave_nothing_behind(server: FramedServer, handler: Watchful) -> None:
    handler.stored = pattern(1 << 20)
    warm(server)
    files, memory = len(os.listdir("/proc/self/fd")), rdma_memory.registered_bytes()
    callers = [caller_of(server) for _ in range(40)]
    room = memoryview(bytearray(64 * 1024))
    for caller in callers:
        read(caller, room)
        assert bytes(room) == handler.stored[: len(room)]
    assert rdma_server.ends() == 40
    for caller in callers:
        caller.close()
    deadline = time.monotonic() + SOON_S
    while rdma_server.ends() and time.monotonic() < deadline:
        time.sleep(0.01)  # each of the server's threads sees its caller go
    assert rdma_server.ends() == 0
    assert rdma_memory.registered_bytes() <= memory
    assert len(os.listdir("/proc/self/fd")) <= files + 2


CLIENT = """
import sys
from luciole.rpc.memory import Region
from luciole.tests.rdma.test_rdma import caller_at, read, store
port, stage = int(sys.argv[1]), sys.argv[2]
callers, regions = [caller_at(("127.0.0.1", port)) for _ in range(3)], []
for caller in callers:
    caller.probe()
    regions.append(Region(4 << 20))
    store(caller, regions[-1].view)  # registered here, and an arena there
    read(caller, memoryview(bytearray(1 << 20)))  # through memory of the connection
print("ready", flush=True)
sys.stdin.readline()
while stage == "works":
    for caller, region in zip(callers, regions):
        store(caller, region.view)
        read(caller, region.view)
if stage == "waits":
    read(callers[0], regions[0].view, 60.0)
sys.stdin.read()
"""


def kernel_resources() -> dict[str, str]:
    """What the device holds for all processes: queue pairs, memory, completion queues, ..."""
    text = subprocess.run(["rdma", "resource", "show", "rxe0"], check=True, text=True,
                          capture_output=True, timeout=SOON_S).stdout
    words = text.split()[2:]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.skipif(not os.environ.get("LUCIOLE_GUEST"), reason="others may use the device, too")
@pytest.mark.parametrize("stage", ["idles", "waits", "works"])
def test_a_killed_client_leaves_nothing(
    server: FramedServer, handler: Watchful, stage: str
) -> None:
    """Neither in this process nor in the kernel, whatever its card was just doing."""
    handler.stored = pattern(1 << 20)
    assert isinstance(server.address, tuple)
    warm(server)
    files, memory = len(os.listdir("/proc/self/fd")), rdma_memory.registered_bytes()
    resources = kernel_resources()
    assert rdma_server.ends() == 0
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(server.address[1]), stage],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdin is not None
    try:
        assert client.stdout.readline() == "ready\n"
        assert rdma_server.ends() >= 3
        assert kernel_resources() != resources
        handler.entered.clear()
        handler.held = threading.Event() if stage == "waits" else None
        client.stdin.write("go on\n")
        client.stdin.flush()
        if stage != "idles":
            assert handler.entered.wait(SOON_S)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(SOON_S)
        client.stdout.close()
        client.stdin.close()
        if handler.held is not None:
            handler.held.set()  # its reply has nowhere to go

    def left() -> dict[str, object]:
        return {"ends": rdma_server.ends(), "connections": server.connection_count,
                "memory": rdma_memory.registered_bytes() > memory,
                "files": len(os.listdir("/proc/self/fd")) > files, **kernel_resources()}

    nothing = {"ends": 0, "connections": 0, "memory": False, "files": False, **resources}
    deadline = time.monotonic() + SOON_S
    while (found := left()) != nothing:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_server_at_its_limit_is_reached_over_tcp(
    server: FramedServer, handler: Watchful, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rdma_server, "QUEUE_PAIRS_MAX", 0)
    handler.stored = pattern(PAGE)
    caller = caller_of(server)
    room = memoryview(bytearray(PAGE))
    for _ in range(2):
        read(caller, room)
        assert bytes(room) == handler.stored[:PAGE]
        caller.sever()
    with pytest.raises(FsError) as caught:
        caller.probe()
    assert "limit of 0 queue pairs" in caught.value.message
    assert capsys.readouterr().out.count("going on over TCP") == 1
    caller.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(Settings(device="mlx9"), "no RDMA device 'mlx9'"), (Settings(gid_index=77), "rdma_gid_index"),
     (Settings(port=9), "rdma_port")])
def test_a_wrong_device_is_named_and_tcp_taken(
    server: FramedServer, handler: Watchful, settings: Settings, reason: str
) -> None:
    handler.stored = pattern(PAGE)
    caller = caller_of(server, settings)
    room = memoryview(bytearray(PAGE))
    read(caller, room)
    assert bytes(room) == handler.stored[:PAGE]
    with pytest.raises(FsError) as caught:
        caller.probe()
    assert reason in caught.value.message
    caller.close()


def test_the_address_that_routes_to_the_peer_is_chosen() -> None:
    assert choose(Settings(), "10.77.0.2")[1].ipv4 == "10.77.0.2"
    assert choose(Settings(), "10.77.0.1")[1].ipv4 == "10.77.0.1"
    assert choose(Settings(gid_index=2), "10.77.0.1")[1].gid_index == 2
    assert choose(Settings(), "192.0.2.1")[1].ipv4


SERVER = """
import sys, threading
from luciole.proto.services import STORAGE
from luciole.rpc.rdma_device import Settings
from luciole.rpc.tcp_server import FramedServer
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler
server = FramedServer(("127.0.0.1", 0), [(STORAGE, StorageHandler())], cluster_id=CLUSTER,
                      name="child", rdma=Settings())
print(server.start(), flush=True)
threading.Event().wait(60)
"""


@pytest.mark.parametrize("setup", SETUPS)
def test_a_killed_peer_is_lost_at_once(setup: RdmaSetup) -> None:
    child = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        caller = BlockingCaller(("127.0.0.1", int(child.stdout.readline())), cluster_id=CLUSTER,
                                rdma=Settings(setup=setup))
        caller.probe()
        killer = threading.Timer(0.3, lambda: os.kill(child.pid, signal.SIGKILL))
        killer.start()
        began = time.monotonic()
        with pytest.raises(FsError) as caught:
            drive(StorageStub(caller).sync(storage_pb2.SyncRequest(), timeout=20.0))
        assert caught.value.kind == Kind.CONNECTION_LOST
        assert time.monotonic() - began < 3.0
        killer.join(SOON_S)
        with pytest.raises(FsError) as caught:
            drive(StorageStub(caller).sync(storage_pb2.SyncRequest(), timeout=2.0))
        assert caught.value.kind == Kind.UNAVAILABLE
        caller.close()
    finally:
        child.kill()
        child.wait(SOON_S)
        if child.stdout is not None:
            child.stdout.close()
