"""The tests of this folder in the guest with Soft-RoCE, for machines that have no such device.

They run if the guest's kernel is there: `make rdma-guest` builds it, and so does CI beforehand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CANNOT = 77
GUEST_S = 2400  # a bound: it takes two to five minutes, and more with a quarter of a processor


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("LUCIOLE_GUEST")), reason="this is the guest")
def test_everything_holds_over_rdma() -> None:
    done = subprocess.run(
        [HERE / "run.sh", sys.executable, "-m", "pytest", "-rs", "tests/rdma/test_rdma.py",
         "tests/rdma/test_rdma_cm.py", "tests/rdma/test_rdma_storage.py",
         "tests/rdma/test_rdma_cluster.py"],
        cwd=HERE.parent.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=GUEST_S + 60, check=False,
        env={**os.environ, "GUEST_BUILD": "no", "GUEST_SECONDS": str(GUEST_S),
             "PYTHONPATH": str(HERE.parent.parent / "src")})
    if done.returncode == CANNOT:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    summary = done.stdout.strip().rpartition("\n")[2]
    assert " passed" in summary, done.stdout
    assert "skipped" not in summary, done.stdout
