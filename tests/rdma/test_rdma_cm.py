"""Queue pairs that rdma_cm connects: what may go wrong in between, and what knows no other way.

What such a connection does once it is there, test_rdma.py tests for both ways.
"""

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
from typing import Any

import pytest

from luciole.errors import FsError, Kind
from luciole.proto.services import STORAGE
from luciole.rpc import rdma_client, rdma_listen, rdma_server
from luciole.rpc.rdma_device import Settings, devices
from luciole.rpc.rdma_listen import Guest, Listener
from luciole.rpc.rdma_table import Invitation, decode_invitation
from luciole.rpc.reach import NodeCaller
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler, pattern
from luciole.tests.rdma.device import needs_device
from luciole.tests.rdma.test_rdma import (
    SOON_S,
    all_gone,
    caller_at,
    caller_of,
    kernel_resources,
    read,
)

pytestmark = needs_device
CM = Settings(setup="cm")
SIZE = 1 << 20


@pytest.fixture
def handler() -> StorageHandler:
    handler = StorageHandler()
    handler.stored = pattern(SIZE)
    return handler


def serve(handler: StorageHandler, settings: Settings, host: str = "127.0.0.1") -> FramedServer:
    server = FramedServer(
        (host, 0), [(STORAGE, handler)], cluster_id=CLUSTER, name="served", rdma=settings)
    server.start()
    return server


@pytest.fixture
def server(handler: StorageHandler) -> Iterator[FramedServer]:
    server = serve(handler, Settings())
    yield server
    server.stop(2.0)


def reads_well(caller: BlockingCaller, handler: StorageHandler) -> None:
    room = memoryview(bytearray(SIZE))
    read(caller, room)
    assert bytes(room) == handler.stored[:SIZE]


def refused(caller: BlockingCaller) -> str:
    """Why a caller gets no queue pair, which it is told within the bound of a set-up."""
    began = time.monotonic()
    with pytest.raises(FsError) as caught:
        caller.probe()
    assert caught.value.kind == Kind.UNAVAILABLE
    assert time.monotonic() - began < SOON_S
    return caught.value.message


def invited(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Invitation], Invitation]
) -> None:
    """Callers understand their invitations otherwise."""
    monkeypatch.setattr(
        rdma_client, "decode_invitation", lambda data: change(decode_invitation(data)))


def test_without_a_listener_tcp_is_taken(
    server: FramedServer, handler: StorageHandler, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caller = caller_of(server, CM)
    with monkeypatch.context() as patched:
        invited(patched, lambda invitation: invitation._replace(port=invitation.port ^ 1))
        assert "refused there" in refused(caller)
        reads_well(caller, handler)
        assert "going on over TCP" in capsys.readouterr().out
        caller.sever()
    caller.probe()
    caller.close()
    all_gone(server)


@pytest.mark.parametrize("nonce", [bytes(16), b"", bytes(56)])
def test_a_wrong_nonce_is_refused_and_harms_nobody(
    server: FramedServer, handler: StorageHandler, monkeypatch: pytest.MonkeyPatch, nonce: bytes
) -> None:
    caller, liar = caller_of(server, CM), caller_of(server, CM)
    caller.probe()
    with monkeypatch.context() as patched:
        invited(patched, lambda invitation: invitation._replace(nonce=nonce))
        assert "refused there" in refused(liar)
    reads_well(caller, handler)
    liar.probe()
    for each in (caller, liar):
        each.close()
    all_gone(server)


def test_an_invitation_serves_once(
    server: FramedServer, handler: StorageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who overheard a nonce that was used already gets nothing, and disturbs nothing."""
    caller, liar = caller_of(server, CM), caller_of(server, CM)
    first: list[Invitation] = []

    def remember(invitation: Invitation) -> Invitation:
        first.append(invitation)
        return first[0]

    with monkeypatch.context() as patched:
        invited(patched, remember)
        caller.probe()
        assert "refused there" in refused(liar)
    assert len(first) == 2
    reads_well(caller, handler)
    for each in (caller, liar):
        each.close()
    all_gone(server)


def test_an_invitation_ends(
    server: FramedServer, handler: StorageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rdma_listen, "INVITED_S", 0.0)
    caller = caller_of(server, CM)
    assert "refused there" in refused(caller)
    reads_well(caller, handler)
    caller.close()
    all_gone(server)


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Listeners let nobody in and refuse nobody; set when one came."""
    event = threading.Event()
    kept: list[tuple[Listener, Any]] = []

    def keep(listener: Listener, guest: Guest | None, identifier: Any) -> None:
        kept.append((listener, identifier))
        event.set()

    monkeypatch.setattr(Listener, "_let_in", keep)
    yield event
    for listener, identifier in kept:
        with listener._channel.guard:
            identifier.close()


def test_a_listener_that_does_not_answer_costs_the_deadline_and_no_more(
    server: FramedServer, came: threading.Event
) -> None:
    caller = caller_of(server, CM)
    assert "no answer in time" in refused(caller)
    assert came.is_set()
    all_gone(server)
    caller.close()


def test_a_server_that_hangs_up_in_between_is_noticed_at_once(
    server: FramedServer, came: threading.Event
) -> None:
    caller = caller_of(server, CM)

    def hang_up() -> None:
        if came.wait(SOON_S):
            server._hang_up(socket.SHUT_RDWR)

    other = threading.Thread(target=hang_up)
    other.start()
    began = time.monotonic()
    assert "hung up" in refused(caller)
    assert time.monotonic() - began < 3.0
    other.join(SOON_S)
    caller.close()


HOLDING = """
import threading
from luciole.proto.services import STORAGE
from luciole.rpc.rdma_device import Settings
from luciole.rpc.rdma_listen import Listener
from luciole.rpc.tcp_server import FramedServer
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler
def keep(listener, guest, identifier):
    kept.append(identifier)
    print("came", flush=True)
kept = []
Listener._let_in = keep
server = FramedServer(("127.0.0.1", 0), [(STORAGE, StorageHandler())], cluster_id=CLUSTER,
                      name="child", rdma=Settings())
print(server.start(), flush=True)
threading.Event().wait(60)
"""


def test_a_server_that_is_killed_in_between_is_noticed_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        caller = caller_at(("127.0.0.1", int(child.stdout.readline())), CM)

        def kill() -> None:
            assert child.stdout is not None
            if child.stdout.readline() == "came\n":
                child.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        began = time.monotonic()
        assert "no RDMA" in refused(caller)
        assert time.monotonic() - began < 3.0
        killer.join(SOON_S)
        assert child.wait(SOON_S) == -signal.SIGKILL
        caller.close()
    finally:
        child.kill()
        child.wait(SOON_S)
        child.stdout.close()


LEAVING = """
import os, sys
from luciole.rpc import rdma_client
from luciole.rpc.rdma_device import Settings
from luciole.tests.rdma.test_rdma import caller_at
class Dying(rdma_client.Route):
    def connect(self, queue, deadline):
        if sys.argv[2] == "invited":
            os.kill(os.getpid(), 9)
        queue.join = lambda *rest: os.kill(os.getpid(), 9)  # the server has let us in
        super().connect(queue, deadline)
rdma_client.Route = Dying
caller_at(("127.0.0.1", int(sys.argv[1])), Settings(setup="cm")).probe()
"""


@pytest.mark.skipif(not os.environ.get("LUCIOLE_GUEST"), reason="others may use the device, too")
@pytest.mark.parametrize("stage", ["invited", "let in"])
def test_a_client_that_is_killed_in_between_leaves_nothing(
    server: FramedServer, handler: StorageHandler, stage: str
) -> None:
    caller = caller_of(server, CM)
    caller.probe()
    caller.close()
    all_gone(server)
    before, files = settled(), len(os.listdir("/proc/self/fd"))
    assert isinstance(server.address, tuple)
    child = subprocess.run(
        [sys.executable, "-c", LEAVING, str(server.address[1]), stage], timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    all_gone(server)
    assert settled(before) == before
    assert len(os.listdir("/proc/self/fd")) <= files
    caller = caller_of(server, CM)
    caller.probe()
    caller.close()


def settled(wanted: dict[str, str] | None = None) -> dict[str, str]:
    """What the device holds, when it holds what is wanted, or has stopped to change."""
    deadline = time.monotonic() + SOON_S
    found = kernel_resources()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        last, found = found, kernel_resources()
        if found == (last if wanted is None else wanted):
            break
    return found


@pytest.mark.skipif(not os.environ.get("LUCIOLE_GUEST"), reason="others may use the device, too")
def test_a_server_that_stops_closes_its_listener(handler: StorageHandler) -> None:
    """With callers connected and gone, and for any number of callers there was one."""
    devices()
    before, files = settled(), len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    server = serve(handler, Settings())
    callers = [caller_of(server, CM) for _ in range(3)]
    for caller in callers:
        caller.probe()
    assert len([each for each in threading.enumerate() if each.name.startswith("rdma_cm")]) == 1
    callers.pop().close()
    server.stop(2.0)
    for caller in callers:
        refused(caller)
        caller.close()
    assert rdma_server.ends() == 0
    assert settled(before) == before
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads


def test_a_server_may_do_without(handler: StorageHandler) -> None:
    server = serve(handler, Settings(setup="tcp"))
    caller, usual = caller_of(server, CM), caller_of(server, Settings())
    assert "rdma_setup = tcp" in refused(caller)
    reads_well(caller, handler)
    usual.probe()
    assert not usual.managed
    for each in (caller, usual):
        each.close()
    server.stop(2.0)


def test_an_older_server_is_reached_over_tcp(
    server: FramedServer, handler: StorageHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rdma_server, "asked_reads", lambda data: 0)
    caller = caller_of(server, CM)
    assert "no RDMA" in refused(caller)
    reads_well(caller, handler)
    caller.close()


def test_the_choice_says_that_rdma_cm_made_it(server: FramedServer) -> None:
    assert isinstance(server.address, tuple)
    for settings in (CM, Settings()):
        node = NodeCaller(
            server.address, "", "auto", cluster_id=CLUSTER, name="test", rdma=settings)
        choice = node.choose()
        assert choice.transport == "rdma"
        assert ("connected by rdma_cm" in choice.why) == (settings is CM)
        node.close()


def run(*command: str) -> int:
    return subprocess.run(command, timeout=SOON_S, check=False).returncode


@pytest.fixture
def iwarp() -> Iterator[str]:
    """The address of a Soft-iWARP device, siw0."""
    if not os.environ.get("LUCIOLE_GUEST"):
        pytest.skip("it makes a network interface")
    assert run("ip", "link", "add", "eth1", "type", "dummy") == 0
    try:
        assert run("ip", "addr", "add", "10.78.0.1/24", "dev", "eth1") == 0
        assert run("ip", "link", "set", "eth1", "up") == 0
        assert run("rdma", "link", "add", "siw0", "type", "siw", "netdev", "eth1") == 0
        yield "10.78.0.1"
    finally:
        run("rdma", "link", "delete", "siw0")
        run("ip", "link", "delete", "eth1")


IWARP = """
import sys
from luciole.errors import FsError
from luciole.proto.services import STORAGE
from luciole.rpc import rdma_client
from luciole.rpc.memory import Region
from luciole.rpc.rdma_device import Settings
from luciole.rpc.rdma_table import Invitation
from luciole.rpc.tcp_server import FramedServer
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler, pattern
from luciole.tests.rdma.test_rdma import all_gone, caller_of, read, store
SIZE = 1 << 20
handler = StorageHandler()
server = FramedServer((sys.argv[1], 0), [(STORAGE, handler)], cluster_id=CLUSTER, name="served",
                      rdma=Settings())
server.start()
caller = caller_of(server, Settings())
caller.probe()
assert caller.managed
region = Region(SIZE)
for memory in (region.view, memoryview(bytearray(SIZE))):
    for number in range(3):
        data = pattern(SIZE + 4 * PAGE)[number * PAGE :][:SIZE]
        memory[:] = data
        store(caller, memory)
        assert handler.stored == data
        memory[:] = bytes(SIZE)
        read(caller, memory)
        assert bytes(memory) == data
strict = caller_of(server, Settings(setup="tcp"))
try:
    strict.probe()
except FsError as failure:
    print(failure.message)
rdma_client.decode_invitation = lambda data: Invitation(21000, bytes(16), "10.78.0.99")
caller.sever()
try:
    caller.probe()
except FsError as failure:
    print(failure.message)
caller.close()
all_gone(server)
server.stop(2.0)
print("all is well")
""".replace("PAGE", "4099")

MANY = """
import socket
import sys
from pathlib import Path
from luciole.proto.services import STORAGE
from luciole.rpc.rdma_device import Settings
from luciole.rpc.rdma_route import Route
from luciole.rpc.tcp_server import FramedServer
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler
from luciole.tests.rdma.test_rdma import caller_of
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40255")
taken = []
for port in range(40000, 40256, 4):
    taken.append(socket.create_server((sys.argv[1], port)))
resolve, resolved = Route._resolve, []
def counted(route, deadline):
    resolved.append(route)
    resolve(route, deadline)
Route._resolve = counted
server = FramedServer((sys.argv[1], 30001), [(STORAGE, StorageHandler())], cluster_id=CLUSTER,
                      name="served", rdma=Settings())
server.start()
for number in range(1, 201):
    caller = caller_of(server, Settings())
    caller.probe()
    assert caller.managed
    caller.close()
    if number >= 20 and len(resolved) > number:
        print("a port was taken")
        break
server.stop(2.0)
"""


def test_iwarp_connections_come_one_after_the_other(iwarp: str) -> None:
    """The listener outlives how a caller sees that it answers, and ports are counted twice.

    One client in four picks a port that rdma_cm takes for free and TCP uses.
    """
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = ports.read_text()
    try:
        done = subprocess.run([sys.executable, "-c", MANY, iwarp], stdout=subprocess.PIPE,
                              text=True, timeout=60, check=True)
    finally:
        ports.write_text(before)
    assert "a port was taken" in done.stdout


def test_an_iwarp_device_is_connected_by_rdma_cm(iwarp: str) -> None:
    """Nothing is configured: whose network the connection uses, and what it needs, is found.

    Nor does the process stop where the driver would wait inside a call.

    In a process of its own, as the device cannot go while one has it open.
    """
    done = subprocess.run([sys.executable, "-c", IWARP, iwarp], stdout=subprocess.PIPE, text=True,
                          timeout=60, check=True)
    assert "only rdma_cm connects siw0" in done.stdout
    assert "no answer in time" in done.stdout  # where packets to the listener vanish
    assert done.stdout.endswith("all is well\n")
