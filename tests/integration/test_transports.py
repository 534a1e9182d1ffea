"""Which transport a client of a real cluster takes, and that both carry the same files."""

from __future__ import annotations

import json

import msgspec
import pytest

from luciole.deploy.doctor import Way
from luciole.tests.integration.cluster import Cluster, needs_fuse

pytestmark = pytest.mark.mount
WHOLE = "".join(str(number) for number in range(500_000)).encode()


def ways(cluster: Cluster) -> list[Way]:
    text = cluster.luciole("doctor", "--dir", str(cluster.directory.path), "--json")
    return msgspec.convert(json.loads(text)["nodes"], list[Way])


@needs_fuse
def test_a_mount_over_shared_memory_and_over_tcp(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LUCIOLE_TEST_TRANSPORT", raising=False)
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    assert {(way.kind, way.transport, way.why) for way in ways(cluster)} == {
        ("meta", "shm", ""), ("storage", "shm", "")}
    place = cluster.mounts[0]
    for transport, other in (("shm", "tcp"), ("tcp", "shm")):
        cluster.set_transport(transport)
        cluster.luciole("mount", str(place), "--dir", str(cluster.directory.path))
        (place / transport).write_bytes(WHOLE)
        if (place / other).exists():
            assert (place / other).read_bytes() == WHOLE
        cluster.luciole("umount", str(place))
        cluster.luciole("mount", str(place), "--dir", str(cluster.directory.path))
        assert (place / transport).read_bytes() == WHOLE
        cluster.luciole("umount", str(place))
    assert {(way.transport, "transport = tcp" in way.why) for way in ways(cluster)} == {
        ("tcp", True)}
    assert cluster.fsck() == []
