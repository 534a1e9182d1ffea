"""Two mounts of one cluster, and programs that share state through them under locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luciole.deploy import processes
from luciole.tests.integration.cluster import Cluster, needs_fuse, needs_wchan
from luciole.tests.model import sharing

pytestmark = [pytest.mark.mount, needs_fuse]
TIMES = 25
REPLACE_S = 3.0
# Less than a request is tried for (`total_timeout_seconds`), so that something has ended it.
SOON_S = 15.0


@pytest.fixture(scope="module")
def mounts(module_cluster: Cluster) -> list[Path]:
    return module_cluster.up_twice(nodes=2)


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_a_database_with_a_write_ahead_log_loses_nothing(
    mounts: list[Path], synchronous: str
) -> None:
    sharing.database(mounts, TIMES, synchronous)


@pytest.mark.parametrize("lock_name", ["", "lock"])
def test_stores_into_one_mapped_page_are_all_there(mounts: list[Path], lock_name: str) -> None:
    """Under locks on the file itself, and on another one."""
    sharing.mapped(mounts, TIMES, lock_name=lock_name)


def test_a_file_that_is_replaced_is_never_stale_or_torn(mounts: list[Path]) -> None:
    sharing.replace(mounts, REPLACE_S)


def test_a_lock_shows_what_was_done_to_other_files(mounts: list[Path]) -> None:
    """Also to a name that was known not to be there, and to a length."""
    first, second = mounts
    (first / "turn").write_bytes(b"")
    (first / "log").write_bytes(b"")
    with (first / "turn").open("r+b") as here, (second / "turn").open("r+b") as there, (
            first / "log").open("r+b", buffering=0) as log:
        for number in range(20):
            assert not (second / f"new{number}").exists()
            assert (second / "log").stat().st_size == number
            fcntl.lockf(here, fcntl.LOCK_EX)
            os.pwrite(log.fileno(), b"x", number)
            (first / f"new{number}").touch()
            fcntl.lockf(here, fcntl.LOCK_UN)
            fcntl.lockf(there, fcntl.LOCK_EX)
            assert (second / "log").read_bytes() == b"x" * (number + 1)
            assert (second / f"new{number}").exists()
            fcntl.lockf(there, fcntl.LOCK_UN)


def test_a_read_only_mount_changes_nothing(module_cluster: Cluster, mounts: list[Path]) -> None:
    place = module_cluster.directory.path.parent / "read-only"
    place.mkdir()
    module_cluster.luciole(
        "mount", str(place), "--read-only", "--dir", str(module_cluster.directory.path))
    try:
        (mounts[0] / "kept").write_bytes(b"kept")
        assert (place / "kept").read_bytes() == b"kept"
        for change in (
            (place / "new").touch, (place / "kept").unlink,
            lambda: (place / "kept").chmod(0o600), lambda: os.open(place / "kept", os.O_RDWR),
            lambda: os.truncate(place / "kept", 0),
        ):
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                change()
    finally:
        module_cluster.luciole("umount", str(place))


_STUCK = {
    "read": "os.pread(os.open(path, os.O_RDONLY), 100, 1 << 20)",
    "open": "os.open(path, os.O_RDWR)",
    "write": "os.write(os.open(path + '.new', os.O_CREAT | os.O_WRONLY), b'x')",
    "lock": "fcntl.flock(file, fcntl.LOCK_EX)",
}


@pytest.mark.slow
@needs_wchan
def test_processes_that_wait_for_a_lost_cluster_can_be_killed_and_it_unmounts(
    cluster: Cluster,
) -> None:
    place = cluster.mounts[0]
    cluster.up("--mount", str(place))
    program = "import fcntl, os, signal, sys\n" \
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n" \
        "path = sys.argv[1]\nfile = os.open(path, os.O_RDONLY)\n" \
        "print('ready', flush=True)\nsys.stdin.read()\n"
    stuck = []
    for name, call in _STUCK.items():
        for number in (signal.SIGINT, signal.SIGKILL):
            # Each in its own directory: the kernel lets one at a time create in a directory.
            path = place / f"{name}-{number}" / "file"
            path.parent.mkdir()
            path.write_bytes(bytes(2 << 20))
            stuck.append((subprocess.Popen(
                [sys.executable, "-c", program + call, str(path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE), number))
    try:
        for process, _ in stuck:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for record in cluster.records():
            if record.mount_point != str(place):
                processes.send(record, signal.SIGKILL)
                assert processes.wait_end(record, 10.0)
        for process, _ in stuck:
            assert process.stdin is not None
            process.stdin.close()
        for process, number in stuck:
            _until_it_waits(process)
            process.send_signal(number)
        began = time.monotonic()
        assert [process.wait(SOON_S) for process, _ in stuck] == [-number for _, number in stuck]
        assert time.monotonic() - began < SOON_S
    finally:
        for process, _ in stuck:
            process.kill()
            process.wait(120)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
    cluster.luciole("umount", str(place))
    assert not place.is_mount()


def _until_it_waits(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SOON_S
    place = Path(f"/proc/{process.pid}/wchan")
    while "request_wait" not in place.read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
