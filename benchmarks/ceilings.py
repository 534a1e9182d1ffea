"""What this machine can do at most, measured from the same interpreter in the same run.

A ceiling is a rate: bytes or calls a second of one part that a filesystem passes. The FUSE ones
are those of libfuse's example in C (`peers.plain`); without it they are left out.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import Moved, in_processes
from benchmarks.workloads import MIB, SMALL

SECONDS = 0.5
DISK_BYTES = 128 * MIB
SPAN = 64 * MIB  # more than processors cache


def per_second(step: Callable[[], int]) -> float:
    """How much `step` does in a second; it returns how much it did."""
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        done += step()
    return done / passed


def memory_copy() -> float:
    """Bytes copied from memory to memory."""
    source, target = memoryview(bytearray(SPAN)), memoryview(bytearray(SPAN))
    at = 0

    def step() -> int:
        nonlocal at
        target[at : at + MIB] = source[at : at + MIB]
        at = (at + MIB) % SPAN
        return MIB

    return per_second(step)


def disk(folder: Path) -> dict[str, float]:
    """The disk under `folder`: bytes past the page cache, and flushes of one overwritten page."""
    found = {}
    block = mmap.mmap(-1, MIB)
    block[:] = random.Random(1).randbytes(MIB)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        descriptor = os.open(Path(name) / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        try:
            for what, call in (("disk write", os.pwritev), ("disk read", os.preadv)):
                began = time.perf_counter()
                for offset in range(0, DISK_BYTES, MIB):
                    call(descriptor, [block], offset)
                os.fdatasync(descriptor)
                found[what] = DISK_BYTES / (time.perf_counter() - began)

            page = memoryview(block)[:SMALL]

            def flush() -> int:
                os.pwritev(descriptor, [page], 0)
                os.fdatasync(descriptor)
                return 1

            found["disk flush"] = per_second(flush)
            page.release()
        finally:
            os.close(descriptor)
    return found


def _pair(family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def sockets(family: socket.AddressFamily, name: str) -> dict[str, float]:
    """Bytes through a socket to another process, and requests that it answers with 4 KiB."""
    found = {}
    block = bytearray(MIB)
    page = bytes(SMALL)

    def swallow(end: socket.socket) -> None:
        while end.recv_into(block):
            continue

    def answer(end: socket.socket) -> None:
        while end.recv(1):
            end.sendall(page)

    for what, serve in ((name, swallow), (f"{name} round trip", answer)):
        one, other = _pair(family)
        child = os.fork()
        if not child:
            one.close()
            serve(other)
            os._exit(0)
        other.close()

        def send(one: socket.socket = one) -> int:
            one.sendall(block)
            return len(block)

        def ask(one: socket.socket = one) -> int:
            one.sendall(b"?")
            left = SMALL
            while left:
                left -= len(one.recv(left))
            return 1

        found[what] = per_second(send if serve is swallow else ask)
        one.close()
        os.waitpid(child, 0)
    return found


def calls(folder: Path) -> dict[str, float]:
    """A system call that does nothing much; and a wake-up of another thread and back."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SMALL))
        file.flush()
        buffer = bytearray(SMALL)

        def step() -> int:
            for _ in range(100):
                os.preadv(file.fileno(), [buffer], 0)
            return 100

        found = {"system call (cached preadv)": per_second(step)}
    asked, told = threading.Semaphore(0), threading.Semaphore(0)
    going = True

    def other() -> None:
        while going:
            asked.acquire()
            told.release()

    thread = threading.Thread(target=other)
    thread.start()

    def wake() -> int:
        asked.release()
        told.acquire()
        return 1

    found["thread hand-over and back"] = per_second(wake)
    going = False
    asked.release()
    thread.join()
    return found


def fuse(place: Path) -> dict[str, float]:
    """A C passthrough mounted at `place`: O_DIRECT, so that each call is a request."""
    path = place / "ceiling"
    block = mmap.mmap(-1, MIB)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    blocks = SPAN // MIB
    try:
        found = {}
        for what, call in (("FUSE write", os.pwritev), ("FUSE read", os.preadv)):
            at = 0

            def step(call: Callable[..., int] = call) -> int:
                nonlocal at
                at = (at + 1) % blocks
                return call(descriptor, [block], at * MIB)

            for _ in range(blocks):
                step()  # its pages are there
            found[what] = per_second(step)
    finally:
        os.close(descriptor)

    def small(number: int) -> Moved:
        page = mmap.mmap(-1, SMALL)
        chance = random.Random(number)
        mine = os.open(path, os.O_RDONLY | os.O_DIRECT)
        done, end = 0, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            os.preadv(mine, [page], chance.randrange(SPAN // SMALL) * SMALL)
            done += 1
        os.close(mine)
        return done, 0

    for what, jobs in (("FUSE round trip", 1), ("FUSE round trip, 4 jobs", 4)):
        result = in_processes(jobs, small)
        found[what] = result.operations / result.seconds
    path.unlink()
    return found


def measure(folder: Path, passthrough: Path | None) -> dict[str, float]:
    """All of them, by name: bytes or calls a second."""
    return {
        "memory copy": memory_copy(),
        **disk(folder),
        **sockets(socket.AF_INET, "loopback TCP"),
        **sockets(socket.AF_UNIX, "Unix socket"),
        **calls(folder),
        **(fuse(passthrough) if passthrough is not None else {}),
    }


def is_bytes(name: str) -> bool:
    """Whether a ceiling counts bytes, not calls."""
    return name in {"memory copy", "disk write", "disk read", "loopback TCP", "Unix socket",
                    "FUSE write", "FUSE read"}
