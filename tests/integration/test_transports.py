"""Which transports a real cluster takes, and that all of them carry the same files."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

import luciole
from luciole.deploy.doctor import Way
from luciole.rpc import ring
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
    assert {(way.rings, way.why_no_rings) for way in ways(cluster)} == {
        (ring.SOUND, "" if ring.SOUND else "this processor or interpreter knows none")}
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
    assert {(way.rings, way.why_no_rings) for way in ways(cluster)} == {
        (False, "not over shared memory")}
    assert cluster.fsck() == []


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_replicas_are_written_and_made_alike_between_services(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setenv("LUCIOLE_TEST_TRANSPORT", transport)
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    assert [way for way, _ in cluster.forwards(2)] == [transport] * 2
    data = random.Random(8).randbytes((5 << 20) + 77)
    with luciole.connect(cluster.directory.path) as fs:
        for name in ("/before", "/while"):
            if name == "/while":
                cluster.kill("storage-1")
            with fs.open(name, "w") as file:
                file.write(data, 0)
    cluster.up("--nodes", "2", "--targets-per-node", "1")  # waits until all replicas serve
    with luciole.connect(cluster.directory.path) as fs:
        with fs.open("/after", "w") as file:
            file.write(data, 0)
        for name in ("/before", "/while", "/after"):
            with fs.open(name) as file:
                assert file.read(0, len(data)) == data
    # Bytes of replicas are compared, too.
    assert cluster.fsck() == []
    assert [way for way, _ in cluster.forwards(2)] == [transport] * 2


def test_services_of_one_machine_share_memory_by_themselves(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LUCIOLE_TEST_TRANSPORT", raising=False)
    cluster.up("--nodes", "3", "--targets-per-node", "2")
    assert set(cluster.forwards(6)) == {("shm", "")}
