"""Small files on two mounts of a cluster of real processes: their bytes lie beside their inodes."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import luciole
from luciole.tests.integration.cluster import Cluster, needs_fuse
from luciole.tests.model import appender

pytestmark = [pytest.mark.mount, needs_fuse]
RECORDS = 40
WAIT_S = 60.0
SOON_S = 5.0
FILES = 30


@pytest.fixture(scope="module")
def mounts(module_cluster: Cluster) -> list[Path]:
    return module_cluster.up_twice(nodes=2)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_size(path: Path, size: int) -> bool:
    return path.stat().st_size == size


def test_what_one_mount_saves_the_other_reads(mounts: list[Path]) -> None:
    """In place, over it by rename, by O_TRUNC, by a second name, and while it is open."""
    here, there = (mount / "saved" for mount in mounts)
    here.write_bytes(b"first")
    with there.open("rb", buffering=0) as reader:
        assert reader.read() == b"first"
        for number in range(10):
            content = b"%d" % number * (1 + 900 * number)
            here.write_bytes(content)
            assert there.read_bytes() == content
            until(partial(has_size, there, len(content)))
            assert here.stat().st_blocks * 512 in {-(-len(content) // 512) * 512, 65536}
        here.with_name("new").write_bytes(b"replaced")
        os.link(there, there.with_name("second"))
        os.rename(here.with_name("new"), here)
        until(lambda: there.read_bytes() == b"replaced")  # a name is told, not asked for
        assert os.pread(reader.fileno(), 10_000, 0) == content
        os.unlink(there.with_name("second"))
        assert os.pread(reader.fileno(), 10_000, 0) == content


def test_two_mounts_write_parts_of_one_small_file(mounts: list[Path]) -> None:
    here, there = (mount / "parts" for mount in mounts)
    here.write_bytes(bytes(8000))
    with here.open("r+b", buffering=0) as one, there.open("r+b", buffering=0) as two:
        for number in range(40):
            os.pwrite(one.fileno(), b"a" * 100, 200 * number)
            os.pwrite(two.fileno(), b"b" * 100, 200 * number + 100)
        os.fsync(one.fileno())
    assert here.read_bytes() == (b"a" * 100 + b"b" * 100) * 40
    assert there.read_bytes() == (b"a" * 100 + b"b" * 100) * 40


def test_appends_of_two_mounts_to_a_file_that_begins_small(mounts: list[Path]) -> None:
    here, there = (mount / "log" for mount in mounts)
    here.touch()
    writers = [appender.start(here, "a", RECORDS, 5), appender.start(there, "b", RECORDS, 0)]
    try:
        assert [writer.wait(WAIT_S) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    found = appender.records(there.read_bytes())
    assert sorted(found) == [(name, number) for name in "ab" for number in range(RECORDS)]


def test_mapped_and_copied_small_files(mounts: list[Path]) -> None:
    here, there = (mount / "mapped" for mount in mounts)
    here.write_bytes(b"." * 6000)
    with here.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[5000:5003] = b"map"
        memory.flush()
    assert there.read_bytes() == b"." * 5000 + b"map" + b"." * 997
    with there.open("rb") as source, here.with_name("copy").open("wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 1 << 20) == 6000
    assert there.with_name("copy").read_bytes() == here.read_bytes()


def test_programs_read_them_in_batches(mounts: list[Path], module_cluster: Cluster) -> None:
    folder = mounts[0] / "many"
    folder.mkdir()
    for number in range(FILES):
        (folder / str(number)).write_bytes(b"%03d" % number * 1000)
    with luciole.connect(module_cluster.directory.path) as filesystem:
        files = [filesystem.open(f"/many/{number}") for number in range(FILES)]
        views = [bytearray(4096) for _ in files]
        results = filesystem.read_many([
            (file, 0, view) for file, view in zip(files, views, strict=True)])
        assert results == [3000] * FILES
        assert [bytes(view[:3000]) for view in views] == [
            b"%03d" % number * 1000 for number in range(FILES)]
        with filesystem.ring(8) as ring:
            ring.read(files[7], 3, views[0], "tag")
            ring.submit()
            assert ring.wait(1, 30.0)[0] == ("tag", 2997)
        assert bytes(views[0][:2997]) == b"007" * 999


def test_nothing_is_amiss(mounts: list[Path], module_cluster: Cluster) -> None:
    assert module_cluster.fsck() == []
