"""What `luciole kv bench` measures: our own store, and Redis, which is started for the occasion.

Layer: shell. A peer has the same four operations on the same keys and buffers. Redis runs without
persistence, over its Unix socket and over TCP, and batches are pipelined: its fastest ways.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from luciole.deploy.ports import find_block
from luciole.errors import FsError, Kind
from luciole.kvcache.store import Namespace
from luciole.rpc.memory import Region

START_SECONDS = 10.0
REDIS_MEMORY = "2gb"


class Peer(Protocol):
    """A store of blocks."""

    name: str

    def memory(self, count: int, size: int) -> list[memoryview]:
        """Memory for blocks, of the kind that suits it best."""

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """Stores blocks."""

    def get(self, keys: Sequence[bytes], buffers: Sequence[memoryview]) -> None:
        """Reads blocks into the caller's memory. Raises FsError if one is missing."""

    def exists(self, keys: Sequence[bytes]) -> None:
        """Asks which blocks are there."""

    def clear(self, keys: Sequence[bytes]) -> None:
        """Removes blocks."""


class Ours:
    """A namespace of the cluster."""

    name = "luciole"

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._regions: list[Region] = []

    def memory(self, count: int, size: int) -> list[memoryview]:
        """See Peer."""
        region = Region(count * size)
        self._regions.append(region)  # volumes reach it for as long as somebody holds it
        return [region.view[at : at + size] for at in range(0, count * size, size)]

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """See Peer."""
        _all(self._namespace.put(keys, values))

    def get(self, keys: Sequence[bytes], buffers: Sequence[memoryview]) -> None:
        """See Peer."""
        _all(self._namespace.get(keys, buffers))

    def exists(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        self._namespace.exists(keys)

    def clear(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        self._namespace.delete(keys)

    def match(self, keys: Sequence[bytes]) -> int:
        """Looks a prefix up under a lease, and ends it; what was found."""
        match = self._namespace.match_prefix(keys, lease=10.0)
        if match.lease is not None:
            self._namespace.release(match.lease)
        return match.count


def _all(outcomes: Sequence[Any]) -> None:
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        raise FsError(Kind.UNAVAILABLE, f"{len(failed)} blocks of {len(outcomes)} failed: "
                      f"{failed[0].value}; the namespace may be too small for the benchmark")


class Redis:
    """A Redis server, by one of its sockets."""

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._client = client

    def memory(self, count: int, size: int) -> list[memoryview]:
        """See Peer."""
        return [memoryview(bytearray(size)) for _ in range(count)]

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """See Peer."""
        if len(keys) == 1:
            self._client.set(keys[0], values[0])
            return
        with self._client.pipeline(transaction=False) as pipe:
            for key, value in zip(keys, values, strict=True):
                pipe.set(key, value)
            pipe.execute()

    def get(self, keys: Sequence[bytes], buffers: Sequence[memoryview]) -> None:
        """See Peer. Its client gives bytes: the copy into the buffer is part of it."""
        found = [self._client.get(keys[0])] if len(keys) == 1 else self._client.mget(keys)
        for value, buffer in zip(found, buffers, strict=True):
            if value is None or len(value) != len(buffer):
                raise FsError(Kind.UNAVAILABLE, "Redis lost a block: it has too little memory")
            buffer[:] = value

    def exists(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.exists(key)
            pipe.execute()

    def clear(self, keys: Sequence[bytes]) -> None:
        """See Peer."""
        self._client.delete(*keys)


def redis_missing() -> str:
    """Why Redis cannot be measured; empty if it can."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    if importlib.util.find_spec("redis") is None:
        return "the Python package redis is not installed"
    return ""


@contextmanager
def redis_peers() -> Iterator[tuple[list[Redis], int]]:
    """A Redis server of its own: its two faces and its process id. Raises FsError."""
    library = importlib.import_module("redis")
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="luciole-kv-")))
        port, path = find_block(1), folder / "redis.sock"
        server = subprocess.Popen(
            [str(shutil.which("redis-server")), "--port", str(port), "--bind", "127.0.0.1",
             "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder),
             "--maxmemory", REDIS_MEMORY],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        resources.callback(_end, server)
        unix = library.Redis(unix_socket_path=str(path))
        tcp = library.Redis(host="127.0.0.1", port=port)
        resources.callback(unix.close)
        resources.callback(tcp.close)
        deadline = time.monotonic() + START_SECONDS
        while not path.exists() and time.monotonic() < deadline and server.poll() is None:
            time.sleep(0.02)
        try:
            unix.ping()
            tcp.ping()
        except library.RedisError as failure:
            raise FsError(Kind.UNAVAILABLE, f"Redis did not start: {failure}") from failure
        yield [Redis("redis unix", unix), Redis("redis tcp", tcp)], server.pid


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(START_SECONDS)
