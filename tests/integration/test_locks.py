"""Locks of processes on two mounts of a real cluster."""

from __future__ import annotations

import errno
import fcntl
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.deploy import processes
from luciole.tests.integration.cluster import Cluster, needs_fuse, needs_wchan

pytestmark = [pytest.mark.mount, pytest.mark.slow, needs_fuse]
LEASE_S = 3.0
LINES = 100
TIMES = 500  # on each mount
KINDS = ("flock", "fcntl")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "luciole.tests.integration.lock_worker"]
    return subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def mounts(cluster: Cluster) -> tuple[Path, Path]:
    first, second = cluster.mounts
    cluster.up("--nodes", "2", "--replicas", "2", "--mount", str(first))
    cluster.luciole("mount", str(second), "--dir", str(cluster.directory.path))
    return first, second


def free(place: Path, kind: str) -> bool:
    """Whether the lock could be had at once; it is not kept."""
    with place.open("r+b") as file:
        call = fcntl.flock if kind == "flock" else fcntl.lockf
        try:
            call(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Looks ten times a second; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come to pass"
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a test started; they end with it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def test_waits_end_by_unlock_signal_and_death(
    mounts: tuple[Path, Path], workers: list[subprocess.Popen[str]]
) -> None:
    def run(*arguments: object) -> subprocess.Popen[str]:
        workers.append(start(*arguments))
        return workers[-1]

    for kind in KINDS:
        here, there = (place / kind for place in mounts)
        here.write_bytes(b"x")
        holder = run("hold", kind, here)
        assert line(holder) == "held"
        assert not free(there, kind)
        interrupted, killed, patient = (run("wait", kind, there) for _ in range(3))
        for process in (interrupted, killed, patient):
            assert line(process) == "waiting"
        # Either the signal comes before the wait, or it ends it: a handler that raises shows both.
        interrupted.send_signal(signal.SIGUSR1)
        assert line(interrupted) == "interrupted"
        killed.kill()
        assert killed.wait(10) == -signal.SIGKILL
        assert not free(there, kind)
        holder.kill()  # closing its files gives the lock up
        assert line(patient) == "held"
        patient.wait(10)
        until(lambda place=here: free(place, kind), 5.0)  # type: ignore[misc]  # noqa: B023
        with here.open("r+b"), here.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_SH, 5, 10)
            # A close of any descriptor frees what fcntl locked, and nothing of flock.
            here.open("rb").close()
            assert free(there, "fcntl")


@needs_wchan
def test_cycles_of_waits_over_two_mounts_are_refused(
    mounts: tuple[Path, Path], workers: list[subprocess.Popen[str]]
) -> None:
    for name in ("a", "b"):
        (mounts[0] / name).write_bytes(b"x")
    with (mounts[0] / "a").open("r+b") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX)
        workers.append(start("cross", "fcntl", mounts[1] / "b", mounts[1] / "a"))
        assert line(workers[0]) == "held"
        with (mounts[0] / "b").open("r+b") as other:
            with pytest.raises(BlockingIOError):
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert line(workers[0]) == "waiting"
            until(lambda: waits_in_lock(workers[0]), 5.0)
            with pytest.raises(OSError, match="deadlock") as caught:
                fcntl.lockf(other, fcntl.LOCK_EX)
            assert caught.value.errno == errno.EDEADLK
    assert line(workers[0]) == "held"


def waits_in_lock(process: subprocess.Popen[str]) -> bool:
    """Whether a process sleeps in the kernel for an answer of the filesystem."""
    return "request_wait" in Path(f"/proc/{process.pid}/wchan").read_text()


def test_a_killed_mount_frees_its_locks_after_its_lease(
    cluster: Cluster, workers: list[subprocess.Popen[str]]
) -> None:
    first, second = cluster.mounts
    cluster.up("--nodes", "2", "--replicas", "2")
    cluster.down()
    for name, key, seconds in (
        ("mgmtd", "client_lease_seconds", LEASE_S), ("client", "session_seconds", LEASE_S / 3)
    ):
        path = cluster.directory.config_file(name)
        path.write_text(re.sub(f"{key} = .*", f"{key} = {seconds}", path.read_text()))
    cluster.up("--mount", str(first))
    cluster.luciole("mount", str(second), "--dir", str(cluster.directory.path))
    (first / "f").write_bytes(b"x")
    workers.append(start("hold", "flock", second / "f"))
    assert line(workers[0]) == "held"
    time.sleep(2 * LEASE_S)  # a new manager condemns nobody for two leases
    assert not free(first / "f", "flock")
    began = time.monotonic()
    [mount] = [record for record in cluster.records() if record.mount_point == str(second)]
    processes.send(mount, signal.SIGKILL)
    until(lambda: free(first / "f", "flock"), LEASE_S + 15.0)
    took = time.monotonic() - began
    print(f"freed after {took:.1f} s, with a lease of {LEASE_S} s")
    assert took > LEASE_S / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_counter_under_a_lock_loses_no_increment(
    mounts: tuple[Path, Path], kind: str
) -> None:
    (mounts[0] / "counter").write_bytes(b"")
    began = time.monotonic()
    counting = [start("count", kind, place / "counter", TIMES) for place in mounts]
    try:
        for process in counting:
            process.communicate(timeout=120)
            assert process.returncode == 0
    finally:
        for process in counting:
            process.kill()
            process.wait(10)
    print(f"{kind}: {1000 * (time.monotonic() - began) / (2 * TIMES):.2f} ms per increment")
    assert [int((place / "counter").read_bytes()) for place in mounts] == [2 * TIMES] * 2


def test_appends_under_a_lock_do_not_overwrite_each_other(mounts: tuple[Path, Path]) -> None:
    (mounts[0] / "log").write_bytes(b"")
    appending = [start("append", "flock", place / "log", LINES) for place in mounts]
    for process in appending:
        process.communicate(timeout=60)
        assert process.returncode == 0
    lines = (mounts[0] / "log").read_bytes().split(b"\n")
    assert sorted(lines) == sorted([b"", *2 * [b"%07d" % number for number in range(LINES)]])
