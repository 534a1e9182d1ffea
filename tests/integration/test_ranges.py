"""Ranges, appends and blocks on a cluster of real processes, while one of them is killed."""

from __future__ import annotations

import pytest

from luciole.tests.integration.cluster import Cluster, needs_fuse
from luciole.tests.model import appender
from luciole.tests.model.exerciser import Exerciser

pytestmark = [pytest.mark.mount, pytest.mark.slow, needs_fuse]
RECORDS = 300
WAIT_S = 60.0


def test_appends_and_ranges_survive_a_killed_storage_node(cluster: Cluster) -> None:
    first, second = cluster.mounts
    cluster.up("--mount", str(first))
    cluster.luciole("mount", str(second), "--dir", str(cluster.directory.path))
    (first / "log").touch()
    exerciser = Exerciser(first / "exercised", 7)
    writers = [appender.start(first / "log", "a", RECORDS, 50),
               appender.start(second / "log", "b", RECORDS, 0)]
    try:
        exerciser.run(100)
        cluster.kill("storage-2")
        exerciser.run(300)
        assert [writer.wait(WAIT_S) for writer in writers] == [0, 0]
    finally:
        exerciser.close()
        for writer in writers:
            writer.kill()
            writer.wait()
    found = appender.records((second / "log").read_bytes())
    assert sorted(found) == [(name, number) for name in "ab" for number in range(RECORDS)]
    blocks = (second / "log").stat().st_blocks * 512
    assert 0 <= blocks - (second / "log").stat().st_size < 2 << 20
    cluster.up()
    assert cluster.fsck() == []
