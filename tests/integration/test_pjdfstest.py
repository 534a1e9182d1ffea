"""pjdfstest, the POSIX conformance suite of FreeBSD's filesystems, on the mount of a real cluster.

It is not part of this repository: PJDFSTEST names a checkout of github.com/pjd/pjdfstest in which
its program was built (autoreconf -ifs && ./configure && make pjdfstest). `make pjdfstest` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from luciole.tests.integration.cluster import Cluster, needs_fuse

CHECKOUT = os.environ.get("PJDFSTEST", "")
SECONDS = 1800
pytestmark = [
    pytest.mark.mount, pytest.mark.slow, needs_fuse,
    pytest.mark.skipif(not CHECKOUT, reason="PJDFSTEST does not name a checkout of pjdfstest"),
    pytest.mark.skipif(os.geteuid() != 0, reason="pjdfstest acts as many users, which takes root"),
    pytest.mark.skipif(shutil.which("prove") is None, reason="prove(1) of Perl is not installed"),
]


def test_every_file_of_the_suite_passes(cluster: Cluster) -> None:
    program = Path(CHECKOUT) / "pjdfstest"
    assert program.is_file(), f"{program} is not built: see the head of this file"
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    place = mount / "pjdfstest"
    place.mkdir()
    done = subprocess.run(
        ["prove", "-rQ", "-j", "2", str(Path(CHECKOUT) / "tests")], cwd=place, check=False,
        capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    shutil.rmtree(place)
    assert cluster.fsck() == []
