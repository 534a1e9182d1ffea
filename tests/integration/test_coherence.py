"""Two mounts of one cluster: what one changes, the other has to see although it caches."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from luciole.config import ClientConfig
from luciole.tests.integration.cluster import Cluster, needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]
# Far less than the kernel may believe what it was told, so it is the feed that tells.
SOON_S = 4.0
Mounts = tuple[Path, Path]


@pytest.fixture(scope="module")
def mounts(module_cluster: Cluster) -> Mounts:
    assert ClientConfig().entry_cache_seconds > 2 * SOON_S
    first, second = module_cluster.up_twice(nodes=3)
    return first, second


def soon(what: Callable[[], bool]) -> bool:
    """Whether something comes true within `SOON_S`; the bound, not a pause, is what is promised."""
    end = time.monotonic() + SOON_S
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_attributes(mounts: Mounts) -> None:
    first, second = mounts
    (first / "a").write_bytes(b"1")
    assert (second / "a").stat().st_mode & 0o777 == 0o644
    (first / "a").chmod(0o600)
    assert soon(lambda: (second / "a").stat().st_mode & 0o777 == 0o600)
    os.truncate(first / "a", 1000)
    assert soon(lambda: (second / "a").stat().st_size == 1000)


def test_names_that_come_and_go(mounts: Mounts) -> None:
    first, second = mounts
    assert not (second / "new").exists()  # the kernel remembers that, too
    (first / "new").mkdir()
    assert soon((second / "new").exists)
    (first / "new" / "file").write_bytes(b"x")
    assert soon((second / "new" / "file").exists)
    (first / "new").rename(first / "newer")
    assert soon(lambda: not (second / "new").exists())
    assert (second / "newer" / "file").read_bytes() == b"x"
    (first / "newer" / "file").unlink()
    assert soon(lambda: not (second / "newer" / "file").exists())
    assert soon(lambda: os.listdir(second / "newer") == [])


def test_content_of_a_file_that_stays_open(mounts: Mounts) -> None:
    first, second = mounts
    (first / "data").write_bytes(b"old" * 100_000)
    with (second / "data").open("rb", buffering=0) as reader:
        assert os.pread(reader.fileno(), 3, 150_000) == b"old"
        with (first / "data").open("r+b") as writer:
            writer.seek(150_000)
            writer.write(b"new")
        assert soon(lambda: os.pread(reader.fileno(), 3, 150_000) == b"new")


def test_a_file_that_is_replaced_is_whole_at_every_moment(mounts: Mounts) -> None:
    """No ESTALE, no mixture, no going back, while another mount replaces it by rename."""
    first, second = mounts
    size = 200_000
    (first / "whole").write_bytes(bytes([0]) * size)
    seen = 0
    for number in range(1, 60):
        (first / "next").write_bytes(bytes([number]) * size)
        (first / "next").rename(first / "whole")
        content = (second / "whole").read_bytes()
        assert len(content) == size
        assert set(content) == {content[0]}
        assert seen <= content[0] <= number
        seen = content[0]
    assert soon(lambda: (second / "whole").read_bytes()[0] == 59)


def test_what_is_fetched_around_small_reads_is_as_new_as_the_open(mounts: Mounts) -> None:
    """Reads at random, of which regions are fetched, while another mount writes the file anew."""
    first, second = mounts
    pages, size = 768, 4096
    published = 0
    ended = threading.Event()

    def write() -> None:
        nonlocal published
        while not ended.is_set():
            version = published + 1
            with (first / "rewritten").open("r+b", buffering=0) as writer:
                writer.write(version.to_bytes(8, "little") * (pages * size // 8))
            published = version

    (first / "rewritten").write_bytes(bytes(pages * size))
    writes = threading.Thread(target=write)
    writes.start()
    try:
        pick = random.Random(1)
        end = time.monotonic() + 8.0
        while time.monotonic() < end:
            least = published
            with (second / "rewritten").open("rb", buffering=0) as reader:
                for _ in range(40):
                    found = os.pread(reader.fileno(), 8, pick.randrange(pages) * size)
                    assert int.from_bytes(found, "little") >= least
    finally:
        ended.set()
        writes.join(30.0)
    assert published > 10
