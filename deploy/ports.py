"""Ports of a local cluster: a free block at creation, and a clear word when one is taken."""

from __future__ import annotations

import socket

from luciole.errors import FsError, Kind

FIRST_BASE = 7400
LAST_BASE = 32_000  # below what kernels hand out by themselves
BLOCK_STEP = 20


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
