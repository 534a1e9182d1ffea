"""Locks of processes on two mounts of a real cluster."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.tests.integration.cluster import Cluster, needs_fuse

pytestmark = [pytest.mark.mount, pytest.mark.slow, needs_fuse]
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
def mounts(cluster: Cluster) -> Iterator[tuple[Path, Path]]:
    first, second = cluster.mounts
    cluster.up("--nodes", "2", "--replicas", "2", "--mount", str(first))
    cluster.luciole("mount", str(second), "--dir", str(cluster.directory.path))
    yield first, second


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
