"""A node that the manager calls failed holds up no call, even when its process stands still."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import trio

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import Manager, RoutingCache
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, services, storage_pb2
from luciole.proto.services import Call, Caller, MgmtdStub
from luciole.rpc import frame
from luciole.rpc.inprocess import InProcessCaller
from luciole.rpc.tcp_client import BlockingCaller, TrioCaller
from luciole.runtime import ThreadRuntime, TrioRuntime, drive

CALL_SECONDS = 20.0
SOON_SECONDS = 5.0
SYNC = storage_pb2.SyncRequest()


class Still(NamedTuple):
    """A node that takes a request and never says a word."""

    node: mgmtd_pb2.Node
    asked: threading.Event


@pytest.fixture
def still() -> Iterator[Still]:
    """A node that greets whoever comes, hears one request, and stands still."""
    asked = threading.Event()
    greeting = frame.encode_hello("c", "still", "storage")
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def greet() -> None:
            peer, _ = listener.accept()
            held.append(peer)
            peer.recv(65536)  # hello
            peer.sendall(greeting)
            peer.recv(65536)  # the request
            asked.set()

        thread = threading.Thread(target=greet)
        thread.start()
        yield Still(mgmtd_pb2.Node(
            node_id=5, kind=mgmtd_pb2.STORAGE, host="127.0.0.1",
            rpc_port=listener.getsockname()[1], state=mgmtd_pb2.CONNECTED), asked)
        thread.join(SOON_SECONDS)
    for peer in held:
        peer.close()


class OneAnswer:
    """A manager that knows of one node; each poll tells its next state."""

    def __init__(self, node: mgmtd_pb2.Node) -> None:
        self._node = node
        self._version = 0

    async def get_routing(
        self, request: mgmtd_pb2.GetRoutingRequest, call: Call
    ) -> mgmtd_pb2.GetRoutingReply:
        self._version += 1
        node = mgmtd_pb2.Node()
        node.CopyFrom(self._node)
        if self._version > 1:
            node.state = mgmtd_pb2.FAILED
        return mgmtd_pb2.GetRoutingReply(version=self._version, routing=mgmtd_pb2.Routing(
            version=self._version, nodes=[node]))


class Reached(Connections):
    """Reaches the manager in process and all others by `connect`."""

    def __init__(
        self, connect: Callable[[tuple[str, int]], Caller], node: mgmtd_pb2.Node
    ) -> None:
        super().__init__(connect)
        self._manager = InProcessCaller([(services.MGMTD, OneAnswer(node))])

    def mgmtd(self, address: tuple[str, int]) -> MgmtdStub:
        return MgmtdStub(self._manager)


def test_a_thread_s_call_fails_when_the_node_is_called_failed(still: Still) -> None:
    runtime = ThreadRuntime()
    connections = Reached(lambda address: BlockingCaller(address, cluster_id="c"), still.node)
    manager = Manager(runtime, connections, ["manager:1"], RoutingCache(runtime))
    failures: list[FsError] = []

    def call() -> None:
        with pytest.raises(FsError) as caught:
            drive(connections.storage(still.node).sync(SYNC, timeout=CALL_SECONDS))
        failures.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    drive(manager.follow(0))
    assert still.asked.wait(SOON_SECONDS)
    assert thread.is_alive()  # a living node may take its time
    began = time.monotonic()
    drive(manager.follow(0))
    thread.join(SOON_SECONDS)
    assert [failure.kind for failure in failures] == [Kind.CONNECTION_LOST]
    assert time.monotonic() < began + SOON_SECONDS


def test_a_task_s_call_fails_when_the_node_is_called_failed(still: Still) -> None:
    kinds: list[Kind] = []

    async def main() -> None:
        runtime = TrioRuntime()
        connections = Reached(lambda address: TrioCaller(address, cluster_id="c"), still.node)
        manager = Manager(runtime, connections, ["manager:1"], RoutingCache(runtime))

        async def call() -> None:
            with pytest.raises(FsError) as caught:
                await connections.storage(still.node).sync(SYNC, timeout=CALL_SECONDS)
            kinds.append(caught.value.kind)

        with trio.fail_after(SOON_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await manager.follow(0)
                await trio.to_thread.run_sync(still.asked.wait, SOON_SECONDS)
                assert not kinds
                await manager.follow(0)

    trio.run(main)
    assert kinds == [Kind.CONNECTION_LOST]
