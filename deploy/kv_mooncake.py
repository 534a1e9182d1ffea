"""Mooncake's store as a peer of `luciole kv bench`: its master, a node with memory, and a client.

Layer: shell. Over TCP, as a pool of memory on another machine would be reached: the client gives no
memory of its own, so that every block travels to the node and back. Memory for blocks is registered
once, and batches go by Mooncake's batched calls without a copy in Python: its fastest ways.

`python -m luciole.deploy.kv_mooncake HOST:PORT BYTES` is the node; it ends with its standard input.
"""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from luciole.deploy.ports import find_block
from luciole.errors import FsError, Kind
from luciole.rpc.memory import address_of

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
NODE_BYTES = 2 << 30
CLIENT_BYTES = 64 << 20
READY = b"ready\n"
LEASE_MS = 5000  # of a block that was read: a late read of it fails


class Mooncake:
    """A client of a Mooncake store."""

    name = "mooncake tcp"

    def __init__(self, client: Any) -> None:
        self._client = client
        self._memory: list[memoryview] = []

    def memory(self, count: int, size: int) -> list[memoryview]:
        """See Peer."""
        whole = memoryview(mmap.mmap(-1, count * size))
        self._memory.append(whole)  # an address is registered once
        self._check([self._client.register_buffer(address_of(whole), len(whole))])
        return [whole[at : at + size] for at in range(0, count * size, size)]

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """See Peer."""
        self._check(self._client.batch_put_from(
            _names(keys), [address_of(value) for value in values], [len(v) for v in values]))

    def get(self, keys: Sequence[bytes], buffers: Sequence[memoryview]) -> None:
        """See Peer."""
        self._check(self._client.batch_get_into(
            _names(keys), [address_of(buffer) for buffer in buffers], [len(b) for b in buffers]))

    def exists(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        self._check(self._client.batch_is_exist(_names(keys)))

    def clear(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        self._client.batch_remove(_names(keys), True)

    @staticmethod
    def _check(results: Sequence[int]) -> None:
        failed = [result for result in results if result < 0]
        if failed:
            raise FsError(Kind.UNAVAILABLE, f"Mooncake answered {failed[0]} for {len(failed)} of "
                          f"{len(results)} blocks")


def _names(keys: Sequence[bytes]) -> list[str]:
    return [key.hex() for key in keys]


def mooncake_missing() -> str:
    """Why Mooncake cannot be measured; empty if it can."""
    if importlib.util.find_spec("mooncake") is None:
        return "the Python package mooncake-transfer-engine-non-cuda is not installed"
    return ""


def _join(master: str, segment: int) -> Any:
    """A member of the pool with so much memory for others."""
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
    store = importlib.import_module("mooncake.store").MooncakeDistributedStore()
    code = store.setup(HOST, "P2PHANDSHAKE", segment, CLIENT_BYTES, "tcp", "", master)
    if code:
        raise FsError(Kind.UNAVAILABLE, f"Mooncake's client did not start: it answered {code}")
    return store


@contextmanager
def mooncake_peer() -> Iterator[tuple[Mooncake, list[int]]]:
    """A Mooncake store of its own: a client of it, and the servers' process ids. Raises FsError."""
    program = shutil.which("mooncake_master", path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise FsError(Kind.UNAVAILABLE, "mooncake_master is not installed beside its package")
    port = find_block(2)
    address = f"{HOST}:{port}"
    with ExitStack() as resources:
        master = subprocess.Popen(
            [program, f"-rpc_address={HOST}", f"-rpc_port={port}", f"-metrics_host={HOST}",
             f"-metrics_port={port + 1}", f"-default_kv_lease_ttl={LEASE_MS}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        resources.callback(_end, master)
        _wait_listening(port, master)
        node = subprocess.Popen(
            [sys.executable, "-m", "luciole.deploy.kv_mooncake", address, str(NODE_BYTES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        resources.callback(_end, node)
        assert node.stdout is not None
        for line in node.stdout:  # its library prints as well
            if line == READY:
                break
        else:
            raise FsError(Kind.UNAVAILABLE, "Mooncake's node did not start")
        client = _join(address, 0)
        resources.callback(client.close)
        yield Mooncake(client), [master.pid, node.pid]


def _wait_listening(port: int, master: subprocess.Popen[bytes]) -> None:
    wanted = f":{port:04X}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and master.poll() is None:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        if any(line.split()[1].endswith(wanted) and line.split()[3] == "0A" for line in lines):
            return
        time.sleep(0.05)
    raise FsError(Kind.UNAVAILABLE, "mooncake_master did not start")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(STOP_SECONDS)
    for pipe in (server.stdin, server.stdout):
        if pipe is not None:
            pipe.close()


def main() -> None:
    """The node."""
    store = _join(sys.argv[1], int(sys.argv[2]))
    os.write(1, READY)
    sys.stdin.buffer.read()
    store.close()


if __name__ == "__main__":
    main()
