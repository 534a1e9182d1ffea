"""`luciole rm`, `du` and `quota` on a cluster of real processes, and what a mount makes of them."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from luciole.tests.integration.cluster import Cluster, needs_fuse

MIB = 1 << 20


def ask(cluster: Cluster, *arguments: str, expect: int = 0) -> dict[str, object]:
    text = cluster.luciole(
        *arguments, "--dir", str(cluster.directory.path), "--json", expect=expect)
    found: dict[str, object] = json.loads(text) if not expect else {"error": text}
    return found


def listed(cluster: Cluster, *arguments: str) -> list[dict[str, object]]:
    [rows] = ask(cluster, *arguments).values()
    assert isinstance(rows, list)
    return rows


def write(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        while size:
            size -= file.write(bytes(min(size, 128 * 1024)))


@pytest.mark.mount
@needs_fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets quotas")
def test_quota_and_removal(cluster: Cluster) -> None:
    place = cluster.mounts[0]
    cluster.up("--nodes", "1", "--replicas", "1", "--metas", "2", "--mount", str(place))
    top = place / "q"
    (top / "below").mkdir(parents=True)
    for index in range(50):
        (top / "below" / str(index)).write_bytes(bytes(1000))
    assert ask(cluster, "du", "/q") == {
        "path": "/q", "bytes": 50_000, "inodes": 52, "accounted": False}
    shown = ask(cluster, "quota", "set", "/q", "--bytes", "4M", "--inodes", "60", "--wait")
    assert (shown["bytes_used"], shown["inodes_used"], shown["pending"]) == (50_000, 52, False)
    assert ask(cluster, "du", "/q")["accounted"] is True
    space = os.statvfs(top / "below")
    assert (space.f_blocks * space.f_frsize, space.f_files, space.f_ffree) == (4 * MIB, 60, 8)
    assert os.statvfs(place).f_files != 60
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)) as caught:
        write(top / "large", 8 * MIB)
    assert caught.value.errno == errno.EDQUOT
    assert 2 * MIB < (top / "large").stat().st_size <= 4 * MIB
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        (top / "below").rename(place / "moved")
    for index in range(7):
        (top / f"n{index}").touch()
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        (top / "one too many").touch()
    assert ask(cluster, "quota", "get", "/q/below")["inodes_used"] == 60
    assert cluster.fsck() == []
    assert "the root" in str(ask(cluster, "rm", "-r", "/", expect=1)["error"])
    ask(cluster, "trash", "enable", "/q/below", "--keep", "7d")
    (top / "below" / "0").unlink()
    [item] = listed(cluster, "trash", "list", "/q/below")
    assert (item["path"], item["bytes"], item["removed_by"]) == ("/q/below/0", 1000, 0)
    assert ask(cluster, "trash", "status", "/q/below")["keep_seconds"] == 7 * 86400
    assert cluster.fsck() == []
    ask(cluster, "trash", "restore", "/q/below", str(item["item"]), "--to", "/q/below/back")
    assert (top / "below" / "back").read_bytes() == bytes(1000)
    (top / "below" / "back").unlink()
    assert ask(cluster, "trash", "empty", "/q/below") == {"removed": 1}
    ask(cluster, "trash", "disable", "/q/below")
    assert cluster.fsck() == []
    began = time.monotonic()
    ask(cluster, "rm", "-r", "/q")
    deadline = began + 10
    while top.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert os.listdir(place) == []
    assert cluster.fsck() == []
    [gone] = listed(cluster, "quota", "list")
    assert str(gone["path"]).startswith("<inode")
