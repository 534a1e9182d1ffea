"""O_APPEND by processes on two mounts of one filesystem: nothing is torn, lost or overwritten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.mount import start_server
from luciole.client.sends import Sends
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import CHUNK, MemoryCluster
from luciole.tests.fuse.mounted import needs_fuse
from luciole.tests.model import appender

pytestmark = [pytest.mark.mount, needs_fuse]
RECORDS = 1000
WAIT_S = 60.0


@pytest.fixture
def places() -> Iterator[list[Path]]:
    """Two mounts, each a client of its own."""
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    with ExitStack() as stack:
        found = []
        for name in (b"the first client", b"a second client."):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luciole-test-")))
            server = start_server(
                cluster.client(name, Sends(4).spawn), place, allow_other=False,
                attribute_seconds=1.0, entry_seconds=1.0)
            stack.callback(server.wait_finished, WAIT_S)
            stack.callback(mounting.detach, place)
            found.append(place)
        yield found


def test_two_mounts_append_to_one_file(places: list[Path]) -> None:
    for place in places:
        place.joinpath("log").touch()
    writers = [appender.start(places[0] / "log", "a", RECORDS, 7),
               appender.start(places[1] / "log", "b", RECORDS, 0)]
    try:
        assert [writer.wait(WAIT_S) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    for place in places:
        found = appender.records((place / "log").read_bytes())
        for name in "ab":
            own = [number for writer, number in found if writer == name]
            assert own == list(range(RECORDS)), "in the order in which each wrote"


def test_an_append_is_read_and_seen_at_once_where_it_was_made(places: list[Path]) -> None:
    path = places[0] / "file"
    path.write_bytes(b"begin")
    file = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        assert os.pwrite(file, b" one", 0) == 4
        assert os.fstat(file).st_size == 9
        assert path.read_bytes() == b"begin one"
        with (places[1] / "file").open("ab") as other:
            other.write(b" two")
        os.write(file, b" three" * CHUNK)
        os.fsync(file)
    finally:
        os.close(file)
    assert (places[1] / "file").read_bytes() == b"begin one two" + b" three" * CHUNK
    assert path.stat().st_size == 13 + 6 * CHUNK
