"""Any calls on a tree through two mounts: as on a local filesystem, and by many at once.

Short runs of what is run for long by hand: see tests/model/tree_exerciser.py and tree_stress.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luciole.tests.integration.cluster import Cluster, needs_fuse
from luciole.tests.model.tree_exerciser import TreeExerciser

pytestmark = [
    pytest.mark.mount, needs_fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="they act as several users, which takes root")]
OPERATIONS = 1500
PROCESSES, SECONDS = 4, 4


@pytest.fixture(scope="module")
def mounts(module_cluster: Cluster) -> list[Path]:
    return module_cluster.up_twice(nodes=3)


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_is_what_a_local_one_is(mounts: list[Path], tmp_path: Path, seed: int) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3], *mounts[0].parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)  # other users have to get here
    places = [mount / str(seed) for mount in mounts]
    places[0].mkdir()
    exerciser = TreeExerciser(tmp_path, places, seed)
    try:
        exerciser.run(OPERATIONS)
    finally:
        exerciser.close()


def test_many_at_once_leave_a_clean_filesystem(
    mounts: list[Path], module_cluster: Cluster
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "luciole.tests.model.tree_stress", str(PROCESSES),
         str(SECONDS), *map(str, mounts)], capture_output=True, text=True, check=False,
        timeout=SECONDS + 60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert module_cluster.fsck() == []
