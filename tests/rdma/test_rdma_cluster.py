"""A cluster of real processes whose client and services use RDMA, and that loses a storage node."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import luciole
from luciole.tests.integration.cluster import Cluster, needs_fuse
from luciole.tests.integration.test_killed_clients import killed_clients_leave_nothing
from luciole.tests.rdma.device import needs_device

MIB = 1 << 20
LATEST_S = 30.0


pytestmark = [
    pytest.mark.slow,
    needs_device,
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.destroy()


def test_files_come_by_rdma_and_outlive_a_storage_node(cluster: Cluster) -> None:
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    data = random.Random(5).randbytes(9 * MIB + 77)
    with luciole.connect(cluster.directory.path, transport="rdma") as fs:
        with fs.open("/file", "w") as file:
            file.write(data, 0)
        with fs.open("/file") as file:
            assert file.read(0, len(data)) == data
            with fs.buffer(2 * MIB) as buffer:
                view = buffer.view[: 2 * MIB]
                assert file.read_into(view, MIB) == len(view)
                assert bytes(view) == data[MIB : 3 * MIB]
            cluster.kill("storage-1")
            assert file.read(0, len(data)) == data
        with fs.open("/later", "w") as file:
            file.write(data[:MIB], 0)
        with fs.open("/later") as file:
            assert file.read(0, MIB) == data[:MIB]


@needs_fuse
@pytest.mark.mount
def test_a_mount_by_rdma(cluster: Cluster) -> None:
    cluster.up("--nodes", "1", "--targets-per-node", "1", "--replicas", "1")
    config = cluster.directory.client_config()
    cluster.directory.write_config("client", msgspec.structs.replace(config, transport="rdma"))
    place = cluster.mounts[0]
    data = random.Random(6).randbytes(5 * MIB + 3)
    for _ in range(2):  # the second mount has nothing in its caches
        cluster.luciole("mount", str(place), "--dir", str(cluster.directory.path))
        if not (place / "file").exists():
            (place / "file").write_bytes(data)
        assert (place / "file").read_bytes() == data
        cluster.luciole("umount", str(place))


def test_doctor_tells_the_transport(cluster: Cluster) -> None:
    cluster.up("--nodes", "1", "--targets-per-node", "1", "--replicas", "1")
    config = cluster.directory.client_config()
    cluster.directory.write_config("client", msgspec.structs.replace(config, transport="rdma"))
    text = cluster.luciole("doctor", "--dir", str(cluster.directory.path), "--json")
    assert {node["transport"] for node in json.loads(text)["nodes"]} == {"rdma"}
    assert "rdma_cm" not in text  # the usual way is not worth a word
    cluster.directory.write_config("client", msgspec.structs.replace(
        config, transport="rdma", rdma_setup="cm"))
    text = cluster.luciole("doctor", "--dir", str(cluster.directory.path), "--json")
    assert all("connected by rdma_cm" in node["why"] for node in json.loads(text)["nodes"])
    cluster.directory.write_config("client", msgspec.structs.replace(
        config, transport="rdma", rdma_device="mlx9"))
    text = cluster.luciole("doctor", "--dir", str(cluster.directory.path), "--json", expect=1)
    assert "no RDMA device 'mlx9'" in text


def test_replicas_are_written_and_made_alike_by_rdma(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCIOLE_TEST_TRANSPORT", "rdma")
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    assert [way for way, _ in cluster.forwards(2)] == ["rdma", "rdma"]
    data = random.Random(7).randbytes(5 * MIB + 77)
    # A client by RDMA, whose bytes come into registered memory, and one by TCP: both are sent on.
    for transport in ("rdma", "tcp"):
        with luciole.connect(cluster.directory.path, transport=transport) as fs, \
                fs.open(f"/{transport}", "w") as file:
            file.write(data, 0)
    cluster.kill("storage-1")
    with luciole.connect(cluster.directory.path, transport="rdma") as fs:
        for name in ("/rdma", "/tcp"):
            with fs.open(name) as file:
                assert file.read(0, len(data)) == data, "what the other replica was forwarded"
        with fs.open("/alone", "w") as file:
            file.write(data, 0)
    cluster.up("--nodes", "2", "--targets-per-node", "1")  # waits until all replicas serve
    assert cluster.fsck() == []
    assert [way for way, _ in cluster.forwards(2)] == ["rdma", "rdma"]


def lonely_pairs() -> list[str]:
    """Connected queue pairs on this machine whose other end is no more."""
    text = subprocess.run(["rdma", "resource", "show", "qp"], check=True, text=True,
                          capture_output=True, timeout=LATEST_S).stdout
    pairs = {found[1]: found[2] for found in re.finditer(r"lqpn (\d+).* rqpn (\d+)", text)}
    return [f"{one} to {other}" for one, other in pairs.items() if other not in pairs]


def test_killed_clients_leave_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIOLE_TEST_TRANSPORT", "rdma")
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    killed_clients_leave_nothing(cluster, "rdma")
    deadline = time.monotonic() + LATEST_S
    while found := lonely_pairs():
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert {way for way, _ in cluster.forwards(2)} == {"rdma"}
    assert cluster.fsck() == []
