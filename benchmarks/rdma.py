"""`python -m benchmarks.rdma`: one caller and one server over shared memory, RDMA and TCP.

Measures reads and writes of 4 KiB and 1 MiB, one at a time, from and into a region of the caller;
and beside them, on the same device, the programs of the package perftest, if there. The server
copies between its memory and the room it is given, as a storage service does from the page cache.
CPU time is that of the two processes; what the kernel does elsewhere on their behalf (Soft-RoCE
moves packets in softirqs and workers) shows in `busy`, the whole machine's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from luciole.errors import FsError
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, Call, StorageStub
from luciole.rpc.memory import Region
from luciole.rpc.rdma_device import Settings, choose
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import drive

CLUSTER = "benchmark"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")
LOCAL = "\0luciole-benchmark-rdma"
BEYOND_S, TIMES_MAX = 2.0, 1024
# Program, size, iterations of the short run, options: one at a time (-t 1), and many.
PERFTEST = (("ib_read_lat", 4 * KIB, 400, ()), ("ib_read_bw", 4 * KIB, 1000, ()),
            ("ib_read_bw", MIB, 50, ("-t", "1")), ("ib_read_bw", MIB, 50, ()),
            ("ib_write_bw", MIB, 50, ("-t", "1")), ("ib_write_bw", MIB, 50, ()))


class Handler:
    """Serves reads from memory, and takes writes."""

    def __init__(self) -> None:
        self._memory = memoryview(os.urandom(MIB))

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        """Fills the room that it is given."""
        length = request.ios[0].length
        room = call.room(0, length)
        room[:] = self._memory[:length]
        call.reply_payload([room])
        return storage_pb2.ReadReply(results=[storage_pb2.ReadResult(length=length)])

    async def write(self, request: storage_pb2.WriteRequest, call: Call) -> storage_pb2.WriteReply:
        """Looks at nothing."""
        return storage_pb2.WriteReply(results=[storage_pb2.WriteResult(length=len(call.payload))])


def serve() -> None:
    """The server's process: prints its port and serves until its input ends."""
    services = [(STORAGE, Handler())]
    framed = FramedServer(("127.0.0.1", 0), services, cluster_id=CLUSTER, name="bench",
                          rdma=Settings())
    local = FramedServer(LOCAL, services, cluster_id=CLUSTER, name="bench")
    local.start()
    print(framed.start(), flush=True)
    sys.stdin.read()


def busy_seconds() -> float:
    """CPU seconds that the machine has worked."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(name: str, caller: BlockingCaller, server: int, seconds: float) -> None:
    """Prints a line for each kind and size."""
    stub = StorageStub(caller)
    region = Region(MIB)
    for size in (4 * KIB, MIB):
        room = region.view[:size]
        io = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=size)])

        def read(room: memoryview = room, io: storage_pb2.ReadRequest = io) -> None:
            drive(stub.read(io, sink=lambda _: [room], into=[room]))

        def write(room: memoryview = room) -> None:
            drive(stub.write(storage_pb2.WriteRequest(), payload=[room]))

        for kind, operation in (("read", read), ("write", write)):
            operation()
            before = cpu_seconds(os.getpid()) + cpu_seconds(server), busy_seconds()
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                operation()
                count += 1
            took = time.perf_counter() - began
            used = cpu_seconds(os.getpid()) + cpu_seconds(server) - before[0]
            busy = busy_seconds() - before[1]
            gibibytes = count * size / GIB
            print(f"{name:5} {kind:5} {size // KIB:5} KiB {count / took:9,.0f}/s "
                  f"{count * size / took / 1e6:9,.1f} MB/s  CPU {used / gibibytes:6.2f} s/GiB  "
                  f"busy {busy / gibibytes:6.2f} s/GiB", flush=True)
    region.close()


def perftest(device: str, gid_index: int) -> None:
    """Runs perftest's programs against themselves on the same device.

    They are timed from outside, by the difference between a long and a short run: they count
    cycles, and User-Mode Linux does not tell them how many make a second. The long one is made
    longer until the difference is beyond what starting a program takes now and then.
    """
    for program, size, count, more in PERFTEST:
        if shutil.which(program) is None:
            print(f"{program}: not installed (package perftest)")
            continue
        command = [program, "-d", device, "-x", str(gid_index), "-s", str(size), "-F", *more]
        try:
            short = _timed([*command, "-n", str(count)])
            times = 1
            beyond = 0.0
            while beyond < BEYOND_S and times < TIMES_MAX:
                times *= 4
                beyond = _timed([*command, "-n", str(times * count)]) - short
        except (subprocess.SubprocessError, OSError) as failure:
            print(f"{program}: {failure}")
            continue
        rate = (times - 1) * count / beyond
        print(f"{program:12} {size // KIB:5} KiB {' '.join(more):6} {rate:9,.0f}/s "
              f"{rate * size / 1e6:9,.1f} MB/s", flush=True)


def _timed(command: list[str]) -> float:
    """Seconds that a program takes against one of its kind."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        try:
            _wait_for_listener()
            began = time.perf_counter()
            subprocess.run([*command, "127.0.0.1"], capture_output=True, check=True, timeout=40)
            return time.perf_counter() - began
        finally:
            other.kill()


def _wait_for_listener(port: int = 18515, seconds: float = 10.0) -> None:
    wanted = f":{port:04X} "
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        tables = Path("/proc/net/tcp").read_text()
        if Path("/proc/net/tcp6").exists():
            tables += Path("/proc/net/tcp6").read_text()
        if any(wanted in line and " 0A " in line for line in tables.splitlines()):
            return
        time.sleep(0.05)


def main() -> None:
    """Everything on this machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rdma")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        threading.current_thread().name = "main"
        serve()
        return
    with subprocess.Popen([sys.executable, "-m", "benchmarks.rdma", "--serve"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = ("127.0.0.1", int(server.stdout.readline()))
        callers = {"shm": BlockingCaller(LOCAL, cluster_id=CLUSTER),
                   "rdma": BlockingCaller(address, cluster_id=CLUSTER, rdma=Settings()),
                   "tcp": BlockingCaller(address, cluster_id=CLUSTER)}
        for name, caller in callers.items():
            try:
                caller.probe()
            except FsError as failure:
                print(f"{name}: {failure.message}")
                continue
            measure(name, caller, server.pid, options.seconds)
            caller.close()
    try:
        _, source = choose(Settings(), "")
    except FsError as failure:
        print(f"perftest: {failure.message}")
    else:
        perftest(source.device, source.gid_index)


if __name__ == "__main__":
    main()
