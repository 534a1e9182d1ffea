"""Blocks of the KV cache as files of a mount: real processes, the kernel, each binding."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.kvcache.store import Namespace, Store
from luciole.tests.fuse.mounted import BINDINGS
from luciole.tests.integration.cluster import Cluster, needs_fuse
from luciole.tests.kvcache.volumes import content, key

pytestmark = [needs_fuse, pytest.mark.mount, pytest.mark.slow]
SIZE = 300_000
NAMES = [key(number) for number in range(24)]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def store(module_cluster: Cluster) -> Iterator[Store]:
    """A cluster that is mounted through each binding, with blocks in one namespace."""
    cluster, where = module_cluster, ("--dir", str(module_cluster.directory.path))
    cluster.up("--nodes", "2", "--replicas", "1", "--targets-per-node", "1",
               "--kv-capacity", "200M")
    for place, binding in zip(cluster.mounts, BINDINGS, strict=True):
        if binding == "pyfuse3":
            pytest.importorskip("pyfuse3")
        cluster.luciole("mount", str(place), "--fuse", binding, *where)
    assert os.listdir(cluster.mounts[0] / ".luciole/kv") == []
    cluster.luciole("kv", "create", "model", *where)
    with Store(cluster.directory.client_config()) as opened:
        namespace = opened.namespace("model")
        until(lambda: all(outcome.ok for outcome in namespace.put(
            NAMES, [content(name, SIZE) for name in NAMES])), "the volumes learn of the namespace")
        yield opened


@pytest.fixture
def namespace(store: Store) -> Namespace:
    return store.namespace("model")


@pytest.fixture(params=BINDINGS)
def root(module_cluster: Cluster, store: Store, request: pytest.FixtureRequest) -> Path:
    """The root of a mount whose client knows of the namespace."""
    place = module_cluster.mounts[BINDINGS.index(request.param)]
    until(lambda: os.listdir(place / ".luciole/kv") == ["model"], "the mount learns of it")
    return place


def file_of(root: Path, name: bytes) -> Path:
    return root / ".luciole/kv/model" / name[:1].hex() / name.hex()


def refusal(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError, match=r"Errno") as caught:
        call()
    return caught.value.errno


def test_blocks_are_files_that_programs_read(root: Path) -> None:
    found = subprocess.run(
        ["find", str(root / ".luciole/kv"), "-type", "f", "-printf", "%f %s\n"],
        check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")[:-1]
    assert sorted(found) == sorted(f"{name.hex()} {SIZE}" for name in NAMES)
    for name in NAMES[:4]:
        file = file_of(root, name)
        assert file.read_bytes() == content(name, SIZE)
        status = file.stat()
        assert (status.st_size, status.st_mode & 0o7777) == (SIZE, 0o400)
        assert abs(status.st_mtime - time.time()) < 120
    copied = root / "copy"
    subprocess.run(["cp", "-r", str(file_of(root, NAMES[5]).parent), str(copied)],
                   check=True, timeout=60)
    assert (copied / NAMES[5].hex()).read_bytes() == content(NAMES[5], SIZE)
    copied.chmod(0o700)
    subprocess.run(["rm", "-r", str(copied)], check=True, timeout=60)


def test_who_walks_the_root_does_not_fall_into_it(root: Path) -> None:
    (root / "ordinary").touch()
    assert os.listdir(root) == ["ordinary"]
    assert [entry.name for entry in os.scandir(root)] == ["ordinary"]
    found = subprocess.run(["find", str(root)], check=True, capture_output=True, text=True,
                           timeout=60).stdout.splitlines()
    assert found == [str(root), str(root / "ordinary")]
    (root / "ordinary").unlink()
    # The name is special in the root alone.
    (root / "sub").mkdir()
    (root / "sub/.luciole").write_text("mine")
    assert os.listdir(root / "sub") == [".luciole"]
    (root / "sub/.luciole").unlink()
    (root / "sub").rmdir()


def test_nothing_can_be_changed(root: Path) -> None:
    block = file_of(root, NAMES[0])
    directory, top = block.parent, root / ".luciole"
    (root / "mine").write_text("x")
    changes: list[Callable[[], object]] = [
        lambda: block.open("r+b"), lambda: block.open("wb"), block.unlink,
        lambda: block.chmod(0o600), lambda: os.utime(block), lambda: os.truncate(block, 1),
        lambda: os.setxattr(block, "user.a", b"1"), lambda: os.chown(block, 1, 1),
        (directory / "new").touch, (directory / "new").mkdir,
        lambda: os.mkfifo(directory / "new"), lambda: (directory / "new").symlink_to("x"),
        directory.rmdir, top.rmdir, lambda: top.rename(root / "other"),
        lambda: block.rename(root / "out"), lambda: (root / "mine").rename(directory / "in"),
        lambda: os.link(block, root / "out"), lambda: os.link(root / "mine", directory / "in"),
        lambda: top.chmod(0o777), (top / "kv/other").mkdir]
    assert [refusal(change) for change in changes] == [errno.EROFS] * len(changes)
    assert refusal(top.mkdir) == errno.EEXIST
    assert refusal(block.readlink) == errno.EINVAL
    assert os.listxattr(block) == []
    (root / "mine").unlink()
    assert block.read_bytes() == content(NAMES[0], SIZE)


def test_blocks_that_come_are_seen_and_those_that_go_are_stale(
    root: Path, namespace: Namespace
) -> None:
    late = key(1000)
    file = file_of(root, late)
    assert refusal(file.stat) == errno.ENOENT
    namespace.put([late], [content(late, SIZE)])
    with file.open("rb", buffering=0) as opened:
        assert opened.read(4096) == content(late, 4096)
        assert os.lseek(opened.fileno(), 0, os.SEEK_HOLE) == SIZE
        namespace.delete([late])
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert refusal(lambda: os.pread(opened.fileno(), 4096, 280_000)) == errno.ESTALE
    assert refusal(lambda: file.open("rb")) == errno.ENOENT
    assert late.hex() not in os.listdir(file.parent)


def test_the_filesystem_behind_it_is_the_mount(root: Path) -> None:
    inside, outside = os.statvfs(file_of(root, NAMES[0])), os.statvfs(root)
    assert (inside.f_blocks, inside.f_bsize) == (outside.f_blocks, outside.f_bsize)
    assert file_of(root, NAMES[0]).stat().st_dev == root.stat().st_dev
    assert (root / ".luciole/kv/..").samefile(root / ".luciole")
    assert (root / ".luciole/..").samefile(root)


def test_reading_is_a_use_and_looking_is_none(root: Path, module_cluster: Cluster) -> None:
    def hits() -> int:
        found = json.loads(module_cluster.luciole(
            "kv", "stat", "model", "--dir", str(module_cluster.directory.path), "--json"))
        return int(found["total"]["hits"])

    before = hits()
    subprocess.run(["find", str(root / ".luciole"), "-size", "+1", "-newermt", "2020-01-01"],
                   check=True, capture_output=True, timeout=60)
    assert hits() == before
    file_of(root, NAMES[20]).read_bytes()
    assert hits() > before
