"""A mount of a filesystem in memory, in a process of its own, through one of the bindings.

Layer: tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from luciole.client.fuse.mount_table import find_mount
from luciole.deploy import mounts

BINDINGS = ("direct", "pyfuse3")
START_SECONDS = 20.0
needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be opened")


@contextmanager
def mounted(binding: str, mount_point: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Mounts, and unmounts however the block ends."""
    if binding == "pyfuse3":
        pytest.importorskip("pyfuse3")
    server = subprocess.Popen(
        [sys.executable, "-m", "luciole.tests.fuse.serve", binding, str(mount_point)],
        stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while find_mount(mount_point) is None or mounts.probe(mount_point) != 0:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "not mounted in time"
            time.sleep(0.02)
        yield server
    finally:
        if find_mount(mount_point) is not None:
            subprocess.run(["fusermount3", "-u", "-z", str(mount_point)], check=False, timeout=20)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)
