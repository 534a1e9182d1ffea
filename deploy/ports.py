"""Ports of a local cluster: a free block at creation, and a clear word when one is taken."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luciole.errors import FsError, Kind

FIRST_BASE = 7400
LAST_BASE = 32_000  # below what kernels hand out by themselves
BLOCK_STEP = 20
POLL_SECONDS = 0.1


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port that only remembers its last connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def find_block(size: int) -> int:
    """The first port of `size` free ones in a row. Raises FsError UNAVAILABLE."""
    for base in range(FIRST_BASE, LAST_BASE, max(BLOCK_STEP, size)):
        if all(is_free(base + offset) for offset in range(size)):
            return base
    raise FsError(Kind.UNAVAILABLE, f"no {size} free ports in a row from {FIRST_BASE} to "
                  f"{LAST_BASE}: stop some programs, or choose with --port-base")


def check_free(port: int, host: str, service: str) -> None:
    """Raises FsError UNAVAILABLE naming the port, who wants it and what to do."""
    if not is_free(port, host):
        raise FsError(Kind.UNAVAILABLE, f"port {port} is in use by another program and {service} "
                      f"needs it: stop that program (`ss -ltnp 'sport = :{port}'` shows it), or "
                      "choose other ports with --port-base", f"{host}:{port}")


@contextmanager
def choosing(seconds: float) -> Iterator[None]:
    """Keeps other clusters of this user from choosing ports until ours listens on its own.

    Raises FsError BUSY when another takes longer than `seconds`.
    """
    path = Path(tempfile.gettempdir()) / f"luciole-ports-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as failure:
                if time.monotonic() > deadline:
                    raise FsError(
                        Kind.BUSY, "another cluster is being made and still chooses its ports: "
                        "try again, or choose with --port-base") from failure
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
