"""What one service sends on to another: which way it goes, and what is left when one of them fails.

The first service is in this process, the next one in another that can be killed and stopped.
"""

from __future__ import annotations

import gc
import json
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

from luciole.checksum import crc32c
from luciole.client.remote.connections import Connections, connections_of
from luciole.config import StorageConfig, Transport
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.services import STORAGE, Call, StorageStub
from luciole.rpc.slices import REGION_BYTES, Slices
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive
from luciole.storage.copying import fetch
from luciole.tests.conformance.rpc import CLUSTER, StorageHandler, pattern
from luciole.tests.rpc.test_shared import region_files, wait_until
from luciole.tests.standing import wait_until_it_stands

SOON_S = 5.0
CALL_S = 30.0
HOLD = b"hold"
SIZES = (1, 4096, 100_000, 1 << 20, (8 << 20) + 3)

SUCCESSOR = """
import os, sys, threading
from luciole.tests.client.test_forwards import Successor, announce
announce(Successor())
"""


class Successor(StorageHandler):
    """Tells the checksum of what came; holds a call for ever that asks for it."""

    async def write(self, request: storage_pb2.WriteRequest, call: Call) -> storage_pb2.WriteReply:
        if request.ios and request.ios[0].chunk_id == HOLD:
            print("held", flush=True)
            threading.Event().wait()
        self.stored = bytes(call.payload)
        result = storage_pb2.WriteResult(length=len(call.payload), version=crc32c(call.payload))
        return storage_pb2.WriteReply(results=[result])


def announce(handler: Successor) -> None:
    """Serves in this process for as long as its input is open."""
    name = f"\0luciole-forwards-{os.urandom(8).hex()}"
    servers = [FramedServer(address, [(STORAGE, handler)], cluster_id=CLUSTER, name="successor")
               for address in (("127.0.0.1", 0), name)]
    ports = [server.start() for server in servers]
    print(json.dumps({"port": ports[0], "local": name[1:]}), flush=True)
    sys.stdin.read()


class Next:
    """The process of the next service."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUCCESSOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)
        told = json.loads(self.line())
        self.node = mgmtd_pb2.Node(
            node_id=7, kind=mgmtd_pb2.STORAGE, host="127.0.0.1", rpc_port=told["port"],
            local=told["local"])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until_it_stands(self.process.pid)

    def maps(self) -> set[str]:
        """The regions that it maps, by inode."""
        lines = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        return {line.split()[4] for line in lines if "memfd:luciole" in line}

    def end(self) -> None:
        self.process.kill()
        self.process.wait(SOON_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


class Head(StorageHandler):
    """Sends what comes on to the next one, from where it was received."""

    def __init__(self, connections: Connections, following: Next) -> None:
        super().__init__()
        self.connections = connections
        self.following = following

    async def write(self, request: storage_pb2.WriteRequest, call: Call) -> storage_pb2.WriteReply:
        return await self.connections.storage(self.following.node).write(
            request, payload=[call.payload], timeout=CALL_S)


class Chain:
    """A service in this process, and the next one."""

    def __init__(self, transport: Transport) -> None:
        config = StorageConfig(cluster_id=CLUSTER, transport=transport)
        self.pool = Slices()
        self.connections = connections_of(config, "head", memory=self.pool.take)
        self.following = Next()
        self.head = Head(self.connections, self.following)
        self.name = f"\0luciole-head-{os.urandom(8).hex()}"
        self.servers = [
            FramedServer(address, [(STORAGE, self.head)], cluster_id=CLUSTER, name="head",
                         memory=self.pool.take)
            for address in (("127.0.0.1", 0), self.name)]
        ports = [server.start() for server in self.servers]
        self.callers = {"tcp": BlockingCaller(("127.0.0.1", ports[0]), cluster_id=CLUSTER),
                        "shm": BlockingCaller(self.name, cluster_id=CLUSTER)}

    def write(
        self, data: memoryview, *, hold: bool = False, by: str = "tcp"
    ) -> storage_pb2.WriteResult:
        request = storage_pb2.WriteRequest()
        request.ios.add(chunk_id=HOLD if hold else b"")
        reply = drive(StorageStub(self.callers[by]).write(request, payload=[data], timeout=CALL_S))
        return reply.results[0]

    def hold(self) -> Callable[[], FsError]:
        """A write whose forward is held by the next service; waits for its error."""
        failures: list[FsError] = []

        def work() -> None:
            try:
                self.write(memoryview(pattern(1 << 20)), hold=True)
            except FsError as failure:
                failures.append(failure)

        thread = threading.Thread(target=work)
        thread.start()
        assert self.following.line() == "held"

        def ended() -> FsError:
            thread.join(SOON_S)
            assert not thread.is_alive(), "the call waits for a service that is gone"
            return failures[0]

        return ended

    def end(self) -> None:
        for caller in self.callers.values():
            caller.close()
        for server in self.servers:
            server.stop(2.0)
        self.connections.close()
        self.following.end()

    def everything_was_given_back(self) -> bool:
        gc.collect()
        whole = self.pool.take(REGION_BYTES)
        del whole
        return self.pool.regions == 1


@pytest.fixture
def made() -> Iterator[list[Chain]]:
    """Chains, which end with the test and leave nothing behind."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    chains: list[Chain] = []
    yield chains
    while chains:
        chain = chains.pop()
        chain.end()
        wait_until(chain.everything_was_given_back, "somebody has memory still")
        del chain
    gc.collect()
    assert region_files() == 0
    assert len(os.listdir("/proc/self/fd")) <= files, "descriptors were left open"


def chain_of(made: list[Chain], transport: Transport = "auto") -> Chain:
    made.append(Chain(transport))
    return made[-1]


@pytest.mark.parametrize("by", ["tcp", "shm"])
@pytest.mark.parametrize("transport", ["auto", "shm", "tcp"])
def test_what_was_received_is_sent_on(made: list[Chain], transport: Transport, by: str) -> None:
    chain = chain_of(made, transport)
    source = Slices().take(max(SIZES))  # so that it is lent to the head, if that is on shm
    for size in SIZES:
        data = source[:size]
        data[:] = pattern(size)[:size]
        for _ in range(2):
            result = chain.write(data, by=by)
            assert (result.length, result.version) == (size, crc32c(data))
    choice = chain.connections.way(chain.following.node)
    assert choice is not None
    assert choice.transport == ("tcp" if transport == "tcp" else "shm")
    # Of shared memory the next one maps the region that all of this was received into; once.
    assert len(chain.following.maps()) == (0 if transport == "tcp" else 1)
    del data, source


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_successor_that_is_killed_ends_the_forward(
    made: list[Chain], transport: Transport
) -> None:
    chain = chain_of(made, transport)
    chain.write(memoryview(pattern(1 << 20)))
    ended = chain.hold()
    chain.following.send(signal.SIGKILL)
    assert ended().kind == Kind.CONNECTION_LOST


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_successor_that_stands_still_is_severed(
    made: list[Chain], transport: Transport
) -> None:
    chain = chain_of(made, transport)
    chain.write(memoryview(pattern(1 << 20)))
    ended = chain.hold()
    chain.following.send(signal.SIGSTOP)
    chain.connections.sever(chain.following.node)
    assert ended().kind == Kind.CONNECTION_LOST
    chain.following.send(signal.SIGCONT)
    data = memoryview(pattern(1 << 20))
    assert chain.write(data).version == crc32c(data), "it is reached again"


def test_the_successor_of_a_head_that_ends_keeps_nothing(made: list[Chain]) -> None:
    chain = chain_of(made)
    chain.write(memoryview(pattern(1 << 20)))
    assert chain.following.maps()
    chain.connections.close()
    wait_until(lambda: not chain.following.maps(), "it maps memory of a head that has gone")


def test_a_successor_that_started_anew_gets_another_caller(made: list[Chain]) -> None:
    chain = chain_of(made)
    data = memoryview(pattern(1 << 20))
    chain.write(data)
    old, chain.following = chain.following, Next()
    chain.head.following = chain.following
    old.end()
    chain.following.node.rpc_port = old.node.rpc_port  # the address is that of before
    assert chain.connections.way(chain.following.node) is None
    assert chain.write(data).version == crc32c(data)
    choice = chain.connections.way(chain.following.node)
    assert choice is not None
    assert choice.transport == "shm"


def test_a_node_that_stands_still_decides_nothing(made: list[Chain]) -> None:
    chain = chain_of(made)
    chain.following.send(signal.SIGSTOP)
    data = memoryview(pattern(1 << 20))
    kinds: list[Kind] = []

    def work() -> None:
        with pytest.raises(FsError) as caught:
            chain.write(data)
        kinds.append(caught.value.kind)

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == [Kind.UNAVAILABLE] * 6
    assert time.monotonic() - began < 2 * SOON_S, "they tried one after the other"
    assert chain.connections.way(chain.following.node) is None
    chain.following.send(signal.SIGCONT)
    assert chain.write(data).version == crc32c(data)
    choice = chain.connections.way(chain.following.node)
    assert choice is not None
    assert choice.transport == "shm"


def test_a_name_that_is_out_of_reach_leaves_tcp(made: list[Chain]) -> None:
    """As of a node on another machine, or in another network namespace of this one."""
    chain = chain_of(made)
    chain.following.node.local = "luciole-elsewhere"
    data = memoryview(pattern(1 << 20))
    assert chain.write(data).version == crc32c(data)
    choice = chain.connections.way(chain.following.node)
    assert choice is not None
    assert choice.transport == "tcp"
    assert "not on this machine" in choice.why


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("length", [1, 4096, 1_000_000])
def test_what_a_replica_fetches(made: list[Chain], transport: Transport, length: int) -> None:
    chain = chain_of(made, transport)
    data = memoryview(pattern(1_000_000))[:900_000]
    chain.write(data)
    stub = chain.connections.storage(chain.following.node)
    fetched = drive(fetch(
        stub, storage_pb2.ReadIO(length=length, relaxed=True), chain.connections.memory, CALL_S))
    assert fetched.sent == (transport == "tcp")
    assert len(fetched.room) == length
    found = min(length, len(data))
    assert fetched.result.length == found
    assert bytes(fetched.room[:found]) == bytes(data[:found])
    del fetched


def test_a_fetch_from_one_that_stands_still_takes_its_memory_back(made: list[Chain]) -> None:
    chain = chain_of(made)
    data = memoryview(pattern(1 << 20))
    chain.write(data)
    stub = chain.connections.storage(chain.following.node)
    chain.following.send(signal.SIGSTOP)
    with pytest.raises(FsError) as caught:
        drive(fetch(stub, storage_pb2.ReadIO(length=1 << 20, relaxed=True),
                    chain.connections.memory, 0.3))
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    held = [chain.connections.memory(1 << 20) for _ in range(4)]
    for view in held:
        view[:] = b"z" * len(view)
    chain.following.send(signal.SIGCONT)
    assert chain.write(data).version == crc32c(data)  # by now it has written what was asked for
    wait_until(lambda: not _is_read_by(chain), "the late call goes on")
    assert all(bytes(view) == b"z" * len(view) for view in held)
    del held, view


def _is_read_by(chain: Chain) -> bool:
    """Whether the next service still has a connection that was given up."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect("\0" + chain.following.node.local)
    lines = Path("/proc/net/unix").read_text().splitlines()
    ends = [line for line in lines if line.endswith("@" + chain.following.node.local)]
    return len(ends) > 3  # the listener, the caller's, this one
