"""How many requests of the kernel's own come at once: few while a file is read in large pieces."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from luciole.client.fuse.direct.background import few, open_limit
from luciole.client.fuse.direct.negotiation import BACKGROUND
from luciole.client.fuse.mount_table import mounts
from luciole.tests.fuse.mounted import mounted, needs_fuse

pytestmark = [
    pytest.mark.mount, needs_fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may change it here")]
MIB = 1 << 20
WAIT_S = 10.0


def number_of(mount_point: Path) -> int:
    """What the kernel says."""
    file = open_limit(mount_point)
    try:
        return int(os.read(file, 20))
    finally:
        os.close(file)


def becomes(mount_point: Path, number: int) -> bool:
    """Whether the kernel's number is that, soon."""
    end = time.monotonic() + WAIT_S
    while number_of(mount_point) != number:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_the_number_follows_what_is_read(tmp_path: Path) -> None:
    with mounted("direct", tmp_path):
        controls = sum(entry.filesystem == "fusectl" for entry in mounts())
        (tmp_path / "file").write_bytes(os.urandom(16 * MIB))
        assert becomes(tmp_path, BACKGROUND)
        with (tmp_path / "file").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(MIB):
                pass
            assert becomes(tmp_path, few())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for page in (3, 900, 2000):
                os.pread(file.fileno(), 100, page * 4096)
        assert becomes(tmp_path, BACKGROUND)
        assert sum(entry.filesystem == "fusectl" for entry in mounts()) == controls
