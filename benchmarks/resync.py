"""`python -m benchmarks.resync`: what a resync of 1 GiB costs those who work meanwhile.

Three nodes, three replicas. One is killed, 1 GiB is written, it is started again. Before, during
and after, a thread writes chunks and another reads them, one at a time, without pause.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import threading
import time

from benchmarks.cluster import MIB, Cluster, file_of_one_chain, percentile, running
from luciole.client.session import Client
from luciole.deploy import processes
from luciole.deploy.local_cluster import Shape
from luciole.errors import FsError
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.runtime import drive

CHUNKS = 64  # that the foreground overwrites and reads
WAIT_SECONDS = 240.0


class Foreground:
    """Writes and reads until stopped; remembers (when it ended, how long it took)."""

    def __init__(self, cluster: Cluster) -> None:
        self.writes: list[tuple[float, float]] = []
        self.reads: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._data = memoryview(random.Random(1).randbytes(MIB))
        client = cluster.client()
        for number in range(CHUNKS):
            drive(client.chunks.write(file_of_one_chain(1), number * MIB, self._data))
        self._threads = [
            threading.Thread(target=self._work, args=(cluster.client(), writes))
            for writes in (True, False)]
        for thread in self._threads:
            thread.start()

    def _work(self, client: Client, writes: bool) -> None:
        inode, chance = file_of_one_chain(1), random.Random(writes)
        buffer = memoryview(bytearray(MIB))
        threading.Thread(target=follow, args=(client, self._stop), daemon=True).start()
        while not self._stop.is_set():
            offset, began = chance.randrange(CHUNKS) * MIB, time.monotonic()
            drive(client.chunks.write(inode, offset, self._data) if writes
                  else client.chunks.read(inode, offset, buffer))
            ended = time.monotonic()
            (self.writes if writes else self.reads).append((ended, ended - began))

    def stop(self) -> None:
        """Ends both."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def tell(self, name: str, begin: float, end: float) -> None:
        """Prints what was done in a stretch of time."""
        parts = []
        for what, done in (("write", self.writes), ("read", self.reads)):
            took = [seconds for at, seconds in done if begin <= at < end] or [end - begin]
            parts.append(f"{what} {len(took) / (end - begin):6.1f} MiB/s p50 "
                         f"{1e3 * statistics.median(took):5.1f} p99 "
                         f"{1e3 * percentile(took, 0.99):6.1f} ms")
        print(f"  {name:20} {end - begin:5.1f} s: {'; '.join(parts)}")


def follow(client: Client, stop: threading.Event) -> None:
    """Keeps a client's routing new, as a mount does."""
    while not stop.is_set():
        try:
            drive(client.manager.follow())
        except FsError:
            stop.wait(0.2)


def states(client: Client) -> set[mgmtd_pb2.PublicState]:
    """Which states targets have now."""
    status = drive(client.manager.call(
        lambda stub: stub.status(common_pb2.Empty(), timeout=5.0)))
    return {member.state for chain in status.routing.chains for member in chain.targets}


def until(client: Client, wanted: set[mgmtd_pb2.PublicState]) -> float:
    """Waits until targets have exactly these states; returns the seconds."""
    began = time.monotonic()
    while states(client) != wanted:
        if time.monotonic() > began + WAIT_SECONDS:
            raise TimeoutError(f"targets are not as wanted after {WAIT_SECONDS} s")
        time.sleep(0.05)
    return time.monotonic() - began


def measure(cluster: Cluster, size: int, seconds: float) -> None:
    """One round; prints its phases."""
    foreground, client, ended = Foreground(cluster), cluster.client(), threading.Event()
    threading.Thread(target=follow, args=(client, ended), daemon=True).start()
    try:
        marks = [time.monotonic()]
        time.sleep(seconds)
        marks.append(time.monotonic())
        foreground.tell("before", *marks)
        victim = processes.running(cluster.directory.pid_file("storage-3"))
        assert victim is not None
        processes.send(victim, signal.SIGKILL)
        processes.wait_end(victim, 10.0)
        until(client, {mgmtd_pb2.SERVING, mgmtd_pb2.OFFLINE})
        data = memoryview(random.Random(2).randbytes(MIB))
        for number in range(size // MIB):
            drive(client.chunks.write(file_of_one_chain(2), number * MIB, data))
        marks = [time.monotonic()]
        time.sleep(seconds)
        marks.append(time.monotonic())
        foreground.tell("two replicas", *marks)
        began = time.monotonic()
        cluster.start(wait=False)
        until(client, {mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING})
        syncing = time.monotonic()
        until(client, {mgmtd_pb2.SERVING})
        whole = time.monotonic()
        foreground.tell("while it syncs", syncing, whole)
        time.sleep(seconds)
        foreground.tell("after", whole, time.monotonic())
        print(f"  redundant {whole - began:.1f} s after the start, {whole - syncing:.1f} s of it "
              f"resync: {size / MIB / (whole - syncing):.0f} MiB/s")
    finally:
        ended.set()
        foreground.stop()


def main() -> None:
    """Each bound in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resync")
    parser.add_argument("--size", type=int, default=1024, help="MiB written meanwhile")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each quiet phase")
    parser.add_argument("--bound", type=int, action="append", help="MiB/s; 0: none")
    options = parser.parse_args()
    for bound in options.bound or [512, 0, 64]:
        print(f"resync bound {bound or 'none'} MiB/s per process")
        with running(
            Shape(nodes=3, replicas=3, targets_per_node=1),
            storage={"resync_bytes_per_second": bound * MIB},
        ) as cluster:
            measure(cluster, options.size * MIB, options.seconds)


if __name__ == "__main__":
    main()
