"""Chunks read over RDMA: the service compares nothing, and what arrives is right or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from luciole.rpc import rdma_server
from luciole.rpc.memory import Region
from luciole.rpc.rdma_device import Settings
from luciole.runtime import drive
from luciole.tests.rdma.device import needs_device
from luciole.tests.storage.chain_fixture import CHUNK
from luciole.tests.storage.test_sent_files import (
    BLOCK,
    CHUNK_ID,
    DATA,
    FILE,
    Calls,
    ServedChain,
    flip,
    served,
)

pytestmark = needs_device


class Rotting(Calls):
    """Does something once, just before a file is read."""

    def read(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        if self.then is not None:
            then, self.then = self.then, None
            then(descriptor, position)
        return super().read(descriptor, views, position)


@pytest.fixture
def calls() -> list[Rotting]:
    return [Rotting(), Rotting()]


@pytest.fixture
def chain(calls: list[Rotting], tmp_path: Path) -> Iterator[ServedChain]:
    with served(calls, tmp_path, Settings()) as fixture:
        yield fixture


def read_into(chain: ServedChain, room: memoryview) -> None:
    """Both replicas, in turn, into memory that the card reaches."""
    for _ in chain.replicas:
        room[:] = b"?" * len(room)
        drive(chain.client.read(chain.inode(FILE), 0, room))
        assert bytes(room) == DATA.ljust(CHUNK, b"\0")[: len(room)]
    assert rdma_server.ends() >= len(chain.replicas)


@pytest.mark.parametrize("length", [len(DATA), BLOCK, CHUNK])
def test_the_service_reads_once_and_compares_nothing(
    chain: ServedChain, calls: list[Rotting], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verified(*_: object) -> None:
        pytest.fail("the client verifies it")

    for replica in chain.replicas:
        monkeypatch.setattr(replica.engine, "_read_version", verified)
    before = [own.reads for own in calls]
    read_into(chain, Region(CHUNK).view[:length])
    assert [own.reads for own in calls] == [count + 1 for count in before]


@pytest.mark.parametrize("victim", [0, 1])
def test_rot_is_noticed_by_its_replica_and_repaired(
    chain: ServedChain, calls: list[Rotting], victim: int
) -> None:
    calls[victim].then = flip
    room = Region(CHUNK).view[: len(DATA)]
    read_into(chain, room)
    assert calls[victim].then is None
    replica = chain.replicas[victim]
    assert drive(replica.repair.run_once()) == 1
    [report] = drive(replica.targets.reports())
    assert (report.damaged, report.repaired, report.unrepairable) == (1, 1, 0)
    read_into(chain, room)
    assert chain.read_from(replica.number, CHUNK_ID, CHUNK) == DATA
