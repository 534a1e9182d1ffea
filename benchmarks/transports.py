"""`python -m benchmarks.transports`: what a byte costs by shared memory, RDMA and TCP.

One storage service with one copy and one client, real processes, a file in the page cache: reads
and writes of 1 MiB one at a time between the file and a buffer of the client, and reads of 4 KiB.
All transports are measured in turn, several times; printed are medians. CPU time of client and
service is apart in user mode and in the kernel, and beside it what else the machine did, which is
where Soft-RoCE works: softirqs and kernel workers move packets as a card would. System calls are
counted by strace in a turn of their own; those that hand a request to the device are apart: a card
is rung by a store to its memory.

User-Mode Linux counts all time as the kernel's. So for the guest, benchmarks.guest_transports looks
from outside at who works in each turn, which this program tells with --turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import luciole
from benchmarks import rdma
from benchmarks.cluster import MIB, running
from luciole.client.native.file import File
from luciole.client.native.filesystem import Buffer
from luciole.config import Transport
from luciole.deploy import processes
from luciole.deploy.local_cluster import Shape
from luciole.errors import FsError
from luciole.rpc.rdma_device import Settings, choose

GIB = 1 << 30
SMALL = 4096
SIZES = {"read": MIB, "write": MIB, "read_small": SMALL}
FILE_BYTES = 64 * MIB
SMALL_SPAN = 32 * MIB
COUNTED = 24  # operations under strace
STRACE_S = 20.0
# Of what threads say to each other, and of looks at the clock (no system calls but in User-Mode
# Linux), a traced process makes more than others.
CALL = re.compile(r"(recv|send|poll|p?read|p?write|ioctl|setsockopt|splice|fsync|fdatasync)\w*\(")
DEVICE_CALL = re.compile(r"(write|ioctl)\(\d+</dev/infiniband/")
TICKS = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """What one turn took."""

    rate: float  # operations a second
    client_user: float  # seconds for each GiB, as all that follow
    service_user: float
    client_kernel: float
    service_kernel: float
    elsewhere: float  # of the machine beyond both


def times(pid: int) -> tuple[float, float]:
    """Seconds in user mode and in the kernel of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


class Operations:
    """What is measured, of one open file and one buffer."""

    def __init__(self, file: File, buffer: Buffer) -> None:
        self._file = file
        self._buffer = buffer  # which ends with its last reference
        self._view = buffer.view
        self._chance = random.Random(1)
        self._next = 0

    def _step(self) -> int:
        self._next = (self._next + MIB) % FILE_BYTES
        return self._next

    def read(self) -> None:
        """1 MiB into the buffer."""
        assert self._file.read_into(self._view, self._step()) == MIB

    def write(self) -> None:
        """1 MiB from the buffer; it is on the service when this returns."""
        self._file.write(self._view, self._step())
        self._file.flush()

    def read_small(self) -> None:
        """4 KiB from anywhere in what the service keeps verified."""
        offset = self._chance.randrange(SMALL_SPAN // SMALL) * SMALL
        assert self._file.read_into(self._view[:SMALL], offset) == SMALL


def measure(
    operation: Callable[[], None], size: int, service: int, seconds: float,
    turn: Callable[[float, float, int], None],
) -> Cost:
    """One turn; `turn` is told when it began and ended, and how many bytes it moved."""
    pids = (os.getpid(), service)
    before, busy = [times(pid) for pid in pids], rdma.busy_seconds()
    at = time.time()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        operation()
        count += 1
    took = time.perf_counter() - began
    turn(at, time.time(), count * size)
    used = [(user - old_user, kernel - old_kernel) for (user, kernel), (old_user, old_kernel)
            in zip([times(pid) for pid in pids], before, strict=True)]
    parts = [used[0][0], used[1][0], used[0][1], used[1][1]]
    elsewhere = rdma.busy_seconds() - busy - sum(parts)
    return Cost(count / took, *(part * GIB / (count * size) for part in (*parts, elsewhere)))


def system_calls(operation: Callable[[], None], service: int) -> tuple[float, float] | None:
    """How many each operation makes, of client and service: others, and those to the device."""
    if shutil.which("strace") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "calls"
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-o", str(output), "-p", str(os.getpid()), "-p", str(service)],
            stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        try:
            told, deadline = b"", time.monotonic() + STRACE_S
            while told.count(b" attached") < 2:  # it says so of each process
                if not select.select([tracer.stderr], [], [], deadline - time.monotonic())[0]:
                    return None
                told += os.read(tracer.stderr.fileno(), 4096)
            for _ in range(COUNTED):
                operation()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(STRACE_S)
            tracer.stderr.close()
        begun = [line for line in output.read_text().splitlines()
                 if CALL.search(line.split(maxsplit=1)[-1][:40]) and "resumed>" not in line]
    device = sum(DEVICE_CALL.search(line) is not None for line in begun)
    return (len(begun) - device) / COUNTED, device / COUNTED


def show(name: str, what: str, size: int, turns: list[Cost], calls: str) -> None:
    """A line of medians."""
    cost = Cost(*(statistics.median(column) for column in zip(*turns, strict=True)))
    ours = cost.client_user + cost.service_user
    kernel = cost.client_kernel + cost.service_kernel
    client = cost.client_user + cost.client_kernel
    # User-Mode Linux does not know the two apart.
    split = "" if os.environ.get("LUCIOLE_GUEST") else f": user {ours:.2f}, kernel {kernel:.2f}"
    print(f"{name:5} {what:12} {cost.rate:8,.0f}/s {cost.rate * size / 1e6:8,.1f} MB/s  s/GiB "
          f"{ours + kernel:6.2f} (client {client:.2f}{split}), elsewhere {cost.elsewhere:6.2f}; "
          f"system calls each: {calls}", flush=True)


def compare(
    operations: dict[str, Operations], service: int, options: argparse.Namespace
) -> None:
    """All kinds of operations over all transports in turn."""
    seconds: float = options.seconds

    def tell(what: str, name: str, *facts: float) -> None:
        if options.turns:
            print("turn", json.dumps([what, name, *facts]), flush=True)

    for what in options.kinds.split(","):
        size = SIZES[what]
        found: dict[str, list[Cost]] = {name: [] for name in operations}
        for each in operations.values():
            getattr(each, what)()
        for _ in range(options.rounds):
            at = time.time()
            time.sleep(seconds)
            tell(what, "rest", at, time.time(), 0)
            for name, each in operations.items():
                found[name].append(measure(
                    getattr(each, what), size, service, seconds, partial(tell, what, name)))
        for name, each in operations.items():
            calls = system_calls(getattr(each, what), service)
            told = f"{calls[0]:.1f} + {calls[1]:.1f} to the device" if calls else "unknown"
            show(name, f"{size // 1024:,} KiB {what.partition('_')[0]}", size, found[name], told)


def main() -> None:
    """Everything on this machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transports")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", action="store_true", help="tell when each begins and ends")
    parser.add_argument("--transports", default="shm,rdma,tcp")
    parser.add_argument("--kinds", default=",".join(SIZES), help="what is measured, of these")
    options = parser.parse_args()
    wanted: list[Transport] = options.transports.split(",")
    with running(Shape(nodes=1, replicas=1, targets_per_node=1)) as cluster:
        record = processes.running(cluster.directory.pid_file("storage-1"))
        assert record is not None
        operations: dict[str, Operations] = {}
        for name in wanted:
            fs = luciole.connect(cluster.directory.path, transport=name)
            try:
                file = fs.open(f"/{name}", "w+")
                file.write(random.Random(1).randbytes(MIB) * (FILE_BYTES // MIB), 0)
                file.flush()
            except FsError as failure:
                print(f"{name}: {failure.message}", file=sys.stderr)
                continue
            operations[name] = Operations(file, fs.buffer(MIB))
        compare(operations, record.pid, options)
    try:
        _, source = choose(Settings(), "")
    except FsError as failure:
        print(f"perftest: {failure.message}", file=sys.stderr)
    else:
        rdma.perftest(source.device, source.gid_index)


if __name__ == "__main__":
    main()
