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

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, Call, StorageStub
from luciole.rpc import rdma_memory, rdma_server
from luciole.rpc.dispatch import Services
from luciole.rpc.memory import PAGE, Region
from luciole.rpc.rdma_device import Settings, choose, devices
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
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

SOON_S = 8.0


def _missing() -> str:
    try:
        devices()
    except FsError as failure:
        return failure.message
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=f"no verbs device here: {_missing()}")


def serve(services: Services, port: int = 0) -> FramedServer:
    server = FramedServer(("127.0.0.1", port), services, cluster_id=CLUSTER, name="served",
                          kind="test", rdma=Settings())
    server.start()
    return server


class RdmaBinding:
    remote = True

    def serve(self, services: Services, port: int = 0) -> tuple[Served, int]:
        server = serve(services, port)
        assert isinstance(server.address, tuple)
        return server, server.address[1]

    def run(self, port: int, body: Body[T], cluster_id: str = CLUSTER) -> T:
        caller = BlockingCaller(("127.0.0.1", port), cluster_id=cluster_id, rdma=Settings())
        try:
            return drive(body(caller, ThreadRuntime()))
        finally:
            caller.close()


class TestRdma(RpcConformance):
    binding = RdmaBinding()
