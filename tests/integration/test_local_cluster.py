"""A whole cluster of real processes, from `luciole up` to `luciole down`, through crashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from luciole.deploy import mounts, processes
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.interface import Transaction
from luciole.kv.lmdb_saved import NAME, SavedFile, saved_in
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.integration.cluster import COMMAND_SECONDS, Cluster, needs_fuse


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_tree(root: Path) -> dict[str, str]:
    """Some files of all sizes; returns the digest of each by relative path."""
    (root / "a" / "b").mkdir(parents=True)
    digests = {}
    for name, size in (("empty", 0), ("a/small", 100), ("a/b/large", 9 * (1 << 20) + 17)):
        content = os.urandom(size)
        (root / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    os.link(root / "a" / "small", root / "linked")
    os.symlink("a/small", root / "pointer")
    with (root / "a" / "b" / "large").open("rb") as file:
        os.fsync(file.fileno())
    return digests


def is_whole(root: Path, digests: dict[str, str]) -> bool:
    return all(digest(root / name) == expected for name, expected in digests.items())


@pytest.mark.mount
@needs_fuse
def test_from_up_to_down_and_up_again(cluster: Cluster) -> None:
    first, second = cluster.mounts
    made = cluster.up("--nodes", "3", "--replicas", "2", "--mount", str(first))
    assert made["healthy"] is True
    assert made["chains"] == 6
    status = json.loads(cluster.luciole("status", str(cluster.directory.path), "--json"))
    assert status["healthy"] is True
    assert status["problems"] == []
    assert {node["kind"] for node in status["nodes"]} == {"meta", "storage"}
    assert all(node["pid"] for node in status["nodes"])
    digests = write_tree(first)
    cluster.luciole(
        "mount", str(second), "--dir", str(cluster.directory.path), "--fuse", "pyfuse3")
    assert is_whole(second, digests)
    assert (second / "pointer").read_bytes() == (first / "linked").read_bytes()
    before = sorted(record.pid for record in cluster.records())
    cluster.up("--mount", str(first))  # nothing to do
    assert sorted(record.pid for record in cluster.records()) == before

    with (second / "a" / "small").open("rb"):
        text = cluster.luciole("umount", str(second), expect=1)
        assert "--lazy" in text
        assert "lsof" in text
    cluster.luciole("umount", str(second))
    assert "no luciole is mounted" in cluster.luciole("umount", str(second), expect=1)
    cluster.down()
    assert cluster.records() == []
    assert list(cluster.directory.run.iterdir()) == []
    assert not any(map(mounts.is_mounted, cluster.mounts))
    cluster.down()  # nothing to do
    assert "does not run" in cluster.luciole("status", str(cluster.directory.path), expect=3)

    cluster.up("--mount", str(first))
    assert is_whole(first, digests)
    assert cluster.fsck() == []


@pytest.mark.mount
@needs_fuse
def test_everything_killed(cluster: Cluster) -> None:
    place = cluster.mounts[0]
    cluster.up("--mount", str(place))
    digests = write_tree(place)
    cluster.kill_all()
    assert mounts.is_stale(place)
    cluster.luciole("status", str(cluster.directory.path), expect=3)
    cluster.up("--mount", str(place))
    assert is_whole(place, digests)
    assert cluster.fsck() == []


@pytest.mark.mount
@needs_fuse
def test_a_disk_that_was_emptied_serves_nothing_before_it_has_synced(cluster: Cluster) -> None:
    """Its process is back within the lease, with the targets that the manager knows."""
    place = cluster.mounts[0]
    cluster.up("--nodes", "3", "--replicas", "2", "--mount", str(place))
    digests = write_tree(place)
    cluster.kill("storage-1")
    shutil.rmtree(cluster.directory.path / "storage-1" / "disk0")
    cluster.up("--mount", str(place))
    fresh = cluster.mounts[1]
    cluster.luciole("mount", str(fresh), "--dir", str(cluster.directory.path))
    assert is_whole(fresh, digests)
    assert cluster.fsck() == []


@pytest.mark.mount
@needs_fuse
def test_mount_in_use_does_not_hold_up_down(cluster: Cluster) -> None:
    place = cluster.mounts[1]
    cluster.up("--nodes", "1", "--replicas", "1", "--targets-per-node", "1",
               "--mount", str(place))
    (place / "a").write_text("kept")
    opened = os.open(place / "a", os.O_RDONLY)
    try:
        text = subprocess.run(
            processes.luciole_command("down", str(cluster.directory.path)),
            capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True).stderr
    finally:
        with contextlib.suppress(OSError):  # the file system under it is gone
            os.close(opened)
    assert "was in use" in text
    assert "killed" not in text
    assert cluster.records() == []
    assert not mounts.is_mounted(place)


def test_service_that_cannot_start_is_quoted_and_nothing_stays(cluster: Cluster) -> None:
    cluster.up("--nodes", "2", "--replicas", "1", "--targets-per-node", "1")
    text = cluster.luciole("mount", "/proc", "--dir", str(cluster.directory.path), expect=1)
    assert "type proc" in text
    cluster.down()
    disks = [cluster.directory.path / f"storage-{number}" for number in (1, 2)]
    for source, target in ((disks[0], "aside"), (disks[1], disks[0].name), ("aside", "storage-2")):
        (cluster.directory.path / source).rename(cluster.directory.path / target)
    # Disks in each other's place: new empty targets must not be served for the old ones.
    for path in (disks[0] / "disk0" / "targets", disks[1] / "disk0" / "targets"):
        found = next(path.iterdir())
        found.rename(path / ("10100000" if found.name == "10200000" else "10200000"))
    text = cluster.luciole("up", str(cluster.directory.path), "--timeout", "30", expect=1)
    assert "this is target" in text
    assert cluster.records() == []


def test_configuration_through_the_manager_and_what_fsck_finds(
    cluster: Cluster, tmp_path: Path
) -> None:
    where = ["--dir", str(cluster.directory.path)]
    cluster.up("--nodes", "1", "--replicas", "1", "--targets-per-node", "1")
    assert cluster.luciole("config", "get", "meta", *where) == ""
    new = tmp_path / "meta.toml"
    new.write_text("gc_grace_seconds = 5.0\n")
    cluster.luciole("config", "set", "meta", str(new), *where)
    assert cluster.luciole("config", "get", "meta", *where) == new.read_text()
    new.write_text("colour = 5.0\n")
    assert "colour" in cluster.luciole("config", "set", "meta", str(new), *where, expect=1)
    cluster.down()

    from luciole.meta.core import schema  # noqa: PLC0415

    store = EmbeddedStore(cluster.directory.path / "kv", ThreadRuntime())

    async def damage(txn: Transaction) -> None:
        txn.set(schema.dentry_key(1, b"ghost"), schema.encode_dentry(77, 1))
        txn.add(schema.subdirectories_key(1), 3)

    drive(store.run(damage))
    store.close()
    cluster.up()
    assert sorted(cluster.fsck(expect=4)) == ["dentry-without-inode", "directory-link-count"]


def move_to_another_boot(kv: Path) -> None:
    """The store's checkpoint, as if the machine had been started again since."""
    saved = saved_in(str(kv))
    assert saved is not None
    (kv / NAME).unlink()
    file = SavedFile(str(kv))
    file.save(saved._replace(boot_id="the boot before"))
    file.close()


@pytest.mark.mount
@needs_fuse
def test_what_was_synced_is_there_after_a_restart_of_the_machine(cluster: Cluster) -> None:
    """All processes are killed; then the metadata store finds that the machine was restarted."""
    mount = cluster.mounts[0]
    cluster.up("--nodes", "2", "--replicas", "2", "--targets-per-node", "1", "--mount", str(mount))
    digests = write_tree(mount)
    descriptor = os.open(mount / "a", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    cluster.kill_all()
    move_to_another_boot(cluster.directory.path / "kv")
    cluster.up("--mount", str(mount))
    assert is_whole(mount, digests)
    (mount / "after").write_bytes(b"after")
    assert cluster.fsck() == []
