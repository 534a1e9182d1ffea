"""The conformance suite over every binding, and what only the in-process one does."""

from __future__ import annotations

import itertools
import os

import pytest
import trio

from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, StorageStub
from luciole.rpc.dispatch import Services
from luciole.rpc.grpc_binding import GrpcCaller, GrpcServer
from luciole.rpc.inprocess import InProcessCaller
from luciole.rpc.ring_client import RingCaller
from luciole.rpc.tcp_client import BlockingCaller, TrioCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import ThreadRuntime, TrioRuntime, drive
from luciole.tests.conformance.rpc import (
    CLUSTER,
    Body,
    RpcConformance,
    Served,
    StorageHandler,
    T,
)


class _Nothing:
    def stop(self, limit_s: float = 5.0) -> None:
        pass


class InProcessBinding:
    remote = False
    sends_files = False

    def __init__(self) -> None:
        self._served: dict[int, Services] = {}
        self._ports = itertools.count(1)

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        port = next(self._ports)
        self._served[port] = services
        return _Nothing(), port

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        return drive(body(InProcessCaller(self._served[port]), ThreadRuntime()))


class FramedBinding:
    remote = True
    sends_files = True

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        server = FramedServer(
            ("127.0.0.1", port), services, cluster_id=CLUSTER, name="served", kind="test"
        )
        return server, server.start()


class BlockingBinding(FramedBinding):
    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = BlockingCaller(("127.0.0.1", port), cluster_id=cluster_id)
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class TrioBinding(FramedBinding):
    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        async def main() -> T:
            caller = TrioCaller(("127.0.0.1", port), cluster_id=cluster_id)
            try:
                return await body(caller, TrioRuntime())
            finally:
                caller.close()

        return trio.run(main)


class SharedBinding:
    """Over a Unix socket, where memory is shared."""

    remote = True
    sends_files = True

    def __init__(self) -> None:
        self._free = itertools.count(1)
        self._unique = f"\0luciole-test-{os.getpid()}"

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        port = port or next(self._free)
        server = FramedServer(
            f"{self._unique}-{port}", services, cluster_id=CLUSTER, name="served", kind="test"
        )
        server.start()
        return server, port

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = BlockingCaller(f"{self._unique}-{port}", cluster_id=cluster_id)
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class RingBinding(SharedBinding):
    """Every request and reply that fits goes through rings."""

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = RingCaller(f"{self._unique}-{port}", cluster_id=cluster_id)
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class GrpcBinding:
    remote = True
    sends_files = False

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        server = GrpcServer(("127.0.0.1", port), services, cluster_id=CLUSTER)
        return server, server.start()

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = GrpcCaller(("127.0.0.1", port), cluster_id=cluster_id)
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class TestInProcess(RpcConformance):
    binding = InProcessBinding()


class TestFramedBlocking(RpcConformance):
    binding = BlockingBinding()


class TestFramedTrio(RpcConformance):
    binding = TrioBinding()


class TestShared(RpcConformance):
    binding = SharedBinding()


class TestRings(RpcConformance):
    binding = RingBinding()


class TestGrpc(RpcConformance):
    binding = GrpcBinding()


def test_in_process_under_trio_leaves_the_handler_at_the_deadline() -> None:
    async def main() -> None:
        handler = StorageHandler(TrioRuntime())
        stub = StorageStub(InProcessCaller([(STORAGE, handler)]))
        began = trio.current_time()
        with pytest.raises(FsError) as caught:
            await stub.sync(storage_pb2.SyncRequest(), timeout=0.1)
        assert caught.value.kind == Kind.DEADLINE_EXCEEDED
        assert trio.current_time() - began < 1.0

    trio.run(main)
