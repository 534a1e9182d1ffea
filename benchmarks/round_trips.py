"""Round trips and CPU time of each operation on small files.

    python -m benchmarks.round_trips [--count N] [--json FILE]

A cluster of real processes has two mounts: through one the files are made that the other finds for
the first time ("cold"), and the other counts what it sends. Calls of its loops (the feed of
changes, leases, routing) are left out; what storage services send each other is not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from benchmarks.cluster import running
from benchmarks.measure import CpuMeter
from benchmarks.workloads import pack
from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.mount import serve_direct
from luciole.client.fuse.mount_table import find_mount
from luciole.deploy import processes
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.deploy.local_cluster import Shape
from luciole.proto.method import Method
from luciole.proto.services import Buffer
from luciole.rpc.tcp_client import BlockingCaller, Fetched

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)
SMALL = b"x" * 4096
LISTED = 1000
PACKED = 2000
START_SECONDS = 20.0
LOOPS = {"Watch", "Hold"}
SENT: Counter[str] = Counter()
GUARD = threading.Lock()


class CountingCaller(BlockingCaller):
    """Counts the calls to metadata and storage services by name."""

    async def call(
        self, method: Method[RequestT, ReplyT], request: RequestT, *,
        timeout: float | None = None, payload: Sequence[Buffer] = (),
        sink: Callable[[ReplyT], Sequence[memoryview]] | None = None,
        into: Sequence[memoryview] = (),
    ) -> ReplyT:
        """As `Caller.call`."""
        if method.service in {"Meta", "Storage"} and method.name not in LOOPS:
            with GUARD:
                SENT[f"{method.service}.{method.name}"] += 1
        return await super().call(
            method, request, timeout=timeout, payload=payload, sink=sink, into=into)

    def fetch(
        self, method: Method[RequestT, ReplyT], message: bytes, room: memoryview,
        reply_bytes: int, timeout: float,
    ) -> Fetched | None:
        """As `BlockingCaller.fetch`."""
        found = super().fetch(method, message, room, reply_bytes, timeout)
        if found is not None:
            with GUARD:
                SENT[f"{method.service}.{method.name}"] += 1
        return found


def serve(cluster: Path, place: Path) -> None:
    """Mounts until unmounted; answers each line on standard input with the counts so far."""
    def answer() -> None:
        for _ in sys.stdin:
            with GUARD:
                sys.stdout.write(json.dumps(SENT) + "\n")
            sys.stdout.flush()

    threading.Thread(target=answer, daemon=True).start()
    serve_direct(ClusterDirectory(cluster).client_config(), place, allow_other=False,
                 make_caller=CountingCaller)


class Mount:
    """A mount in a process of its own."""

    def __init__(self, cluster: Path, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.round_trips", "--serve", str(cluster), str(place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + START_SECONDS
        while find_mount(place) is None:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, "the mount ended"
            time.sleep(0.05)

    def sent(self) -> Counter[str]:
        """Calls since it began, by name."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Counter(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """Unmounts and waits."""
        mounting.detach(self.place)
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.place.rmdir()


@contextmanager
def mounted(cluster: Path, place: Path) -> Iterator[Mount]:
    """A mount while the block runs."""
    mount = Mount(cluster, place)
    try:
        yield mount
    finally:
        mount.close()


def create(path: str) -> None:
    """Makes a file with content."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(descriptor, SMALL)
    os.close(descriptor)


def touch(path: str) -> None:
    """Makes an empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def read(path: str) -> None:
    """Reads a whole file."""
    descriptor = os.open(path, os.O_RDONLY)
    assert os.read(descriptor, len(SMALL)) == SMALL
    os.close(descriptor)


def list_long(folder: Path) -> None:
    """What `ls -l` asks for."""
    with os.scandir(folder) as found:
        for entry in found:
            os.lstat(entry.path)


class Row(NamedTuple):
    """What one operation costs, `calls` by method and `cpu_us` by kind of process."""

    name: str
    rate: float
    calls: dict[str, float]
    cpu_us: dict[str, int]


class Bench:
    """Runs one row after the other."""

    def __init__(self, mount: Mount, other: Path, pids: dict[str, int], count: int) -> None:
        self._mount, self._other, self._pids, self._count = mount, other, pids, count
        self.rows: list[Row] = []

    def row(self, name: str, operations: int, body: Callable[[], object]) -> None:
        """Measures one row."""
        before, meter = self._mount.sent(), CpuMeter(self._pids)
        began = time.perf_counter()
        body()
        seconds = time.perf_counter() - began
        # What is sent behind the caller's back counts too: releases follow the close.
        self._settle()
        calls, used = self._mount.sent() - before, meter.used()
        cpu: Counter[str] = Counter()
        for process, spent in used.items():
            kind = process.partition("-")[0].rstrip("0123456789")
            cpu[kind] += round(1e6 * spent / operations)
        self.rows.append(Row(
            name, operations / seconds,
            {call: number / operations for call, number in sorted(calls.items())}, dict(cpu)))

    def _settle(self) -> None:
        last = self._mount.sent()
        while True:
            time.sleep(0.2)
            now = self._mount.sent()
            if now == last:
                return
            last = now

    def run(self) -> None:
        """All rows."""
        count, here = self._count, self._mount.place
        (here / "new").mkdir()
        names = [f"{here}/new/{number:04}" for number in range(count)]
        (self._other / "old").mkdir()
        for number in range(LISTED):
            create(f"{self._other}/old/{number:04}")
        old = [f"{here}/old/{number:04}" for number in range(count)]

        def each(call: Callable[[str], object], paths: list[str]) -> Callable[[], None]:
            def body() -> None:
                for path in paths:
                    call(path)

            return body

        self.row("stat, cold", count, each(os.stat, old))
        self.row("stat, warm", count, each(os.stat, old))
        self.row("open, read 4 KiB, close", count, each(read, old))
        self.row("ls -l of 1,000 files (per file)", LISTED, lambda: list_long(here / "old"))
        self.row("create, write 4 KiB, close", count, each(create, names))
        self.row("rename", count, each(lambda path: os.rename(path, path + "r"), names))
        self.row("unlink", count, each(lambda path: os.unlink(path + "r"), names))
        self.row("create, close (empty)", count, each(touch, names))
        self.row("unlink (empty)", count, each(os.unlink, names))
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "small.tar"
            pack(packed, PACKED)
            self.row("untar 2,000 files (per file)", PACKED, lambda: subprocess.run(
                ["tar", "-C", str(here), "-xf", str(packed)], check=True))
        self.row("rm -rf of them (per file)", PACKED, lambda: subprocess.run(
            ["rm", "-rf", str(here / "tree")], check=True))


def render(rows: list[Row]) -> str:
    """A table in Markdown."""
    lines = ["| operation | per second | calls to meta | to storage | which | CPU µs: "
             "mount, meta, storage |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        calls, cpu = row.calls, row.cpu_us
        sums = [sum(value for name, value in calls.items() if name.startswith(service))
                for service in ("Meta", "Storage")]
        which = ", ".join(f"{name.partition('.')[2]} {value:.2f}"
                          for name, value in calls.items() if value >= 0.005)
        costs = ", ".join(f"{cpu.get(kind, 0):,}" for kind in ("mount", "meta", "storage"))
        lines.append(f"| {row.name} | {row.rate:,.0f} | {sums[0]:.2f} | {sums[1]:.2f} | "
                     f"{which} | {costs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=500, help="operations of each row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), Path(options.serve[1]))
        return
    if not 0 < options.count <= LISTED:
        parser.error(f"--count must be between 1 and {LISTED}")
    with running(Shape()) as cluster:
        path = cluster.directory.path
        with mounted(path, cluster.root / "other") as other, \
                mounted(path, cluster.root / "mount") as mount:
            pids = {"mount": mount.process.pid}
            for file in sorted((path / "run").glob("*.pid")):
                record = processes.read_record(file)
                assert record is not None
                pids[file.stem] = record.pid
            bench = Bench(mount, other.place, pids, options.count)
            bench.run()
    sys.stdout.write(render(bench.rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in bench.rows], indent=1))


if __name__ == "__main__":
    main()
