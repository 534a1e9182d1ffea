"""Resync: goes on where it broke, spares what is damaged, keeps its rate and tells its progress."""

from __future__ import annotations

import pytest

from luciole.client.core.layout import chunk_id
from luciole.clock import SystemClock
from luciole.proto import mgmtd_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.storage import resync
from luciole.storage.engine.memory import MemoryEngine
from luciole.storage.pace import Pace
from luciole.tests.conformance.engine_model import pattern
from luciole.tests.storage.chain_fixture import SERVING, SYNCING, ChainFixture

DATA = pattern(1, 300_000)
FILES = 10
UP_TO_DATE = mgmtd_pb2.LOCAL_UP_TO_DATE


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> ChainFixture:
    """The second replica missed everything and has begun to sync."""
    monkeypatch.setattr(resync, "PAGE", 2)
    fixture = ChainFixture([MemoryEngine(), MemoryEngine()])
    fixture.route([SERVING, mgmtd_pb2.OFFLINE])
    for number in range(1, FILES + 1):
        fixture.write(number, 0, DATA)
    fixture.route([SERVING, SYNCING])
    fixture.calls.clear()
    return fixture


def walk(chain: ChainFixture) -> int:
    return drive(chain.replicas[0].resync.run_once())


def held(chain: ChainFixture) -> list[int]:
    states, _ = drive(chain.replicas[1].engine.list(b"", None, 100))
    return [int.from_bytes(state.chunk_id[4:12], "big") for state in states]


def progress(chain: ChainFixture) -> tuple[int, int]:
    [report] = drive(chain.replicas[0].targets.reports())
    return report.resync_done, report.resync_total


def test_a_broken_walk_goes_on_with_its_page(chain: ChainFixture) -> None:
    chain.broken_after = (2, "Forward", 7)
    assert walk(chain) == 0
    assert held(chain) == [1, 2, 3, 4, 5, 6, 7]
    assert progress(chain) == (6, FILES)
    chain.broken_after = (0, "", 0)
    lists = chain.calls[2, "ListChunks"]
    assert walk(chain) == 1
    assert held(chain) == list(range(1, FILES + 1))
    assert chain.calls[2, "Forward"] == FILES  # none was sent twice
    assert chain.calls[2, "ListChunks"] == lists + 2
    assert chain.replicas[1].target.local_state == UP_TO_DATE
    assert walk(chain) == 0  # nothing is left to do


def test_a_replica_learns_which_updates_are_done(chain: ChainFixture) -> None:
    """One was overwritten since; its client, which heard no answer, repeats it to the new head."""
    first = chain.tagged_write(1, b"first", channel=7, sequence=1)
    chain.tagged_write(1, b"second", channel=8, sequence=1)
    assert walk(chain) == 1
    chain.route([mgmtd_pb2.OFFLINE, SERVING])
    again = chain.tagged_write(1, b"first", channel=7, sequence=1)
    assert again.version == first.version
    assert chain.read_from(2, chunk_id(1, 0), 6) == b"second"


def test_a_new_chain_version_starts_over(chain: ChainFixture) -> None:
    chain.broken_after = (2, "Forward", 7)
    assert walk(chain) == 0
    drive(chain.replicas[1].engine.remove_range(b"", b"\xff" * 16, 3))
    chain.broken_after = (0, "", 0)
    chain.route([SERVING, SYNCING])
    assert walk(chain) == 1
    assert held(chain) == list(range(1, FILES + 1))


@pytest.mark.parametrize("call", ["Forward", "SyncDone"])
def test_a_successor_that_started_anew_is_compared_anew(chain: ChainFixture, call: str) -> None:
    """It may have lost what it had acknowledged, if its machine lost power."""
    chain.broken_after = (2, call, 7 if call == "Forward" else 0)
    assert walk(chain) == 0
    drive(chain.replicas[1].engine.remove_range(b"", b"\xff" * 16, 3))
    chain.restart(2)
    chain.broken_after = (0, "", 0)
    assert walk(chain) == 0
    assert chain.replicas[1].target.local_state != UP_TO_DATE
    assert walk(chain) == 1
    assert held(chain) == list(range(1, FILES + 1))
    assert chain.replicas[1].target.local_state == UP_TO_DATE


def test_a_damaged_chunk_does_not_hold_up_the_others(chain: ChainFixture) -> None:
    engine = chain.replicas[0].engine
    assert isinstance(engine, MemoryEngine)
    engine.corrupt(chunk_id(2, 0), 0)
    assert walk(chain) == 0
    assert held(chain) == [1, *range(3, FILES + 1)]
    assert chain.replicas[1].target.local_state != UP_TO_DATE
    drive(chain.replicas[0].repair.run_once())
    [report] = drive(chain.replicas[0].targets.reports())
    assert report.unrepairable == 1
    # Written anew, it goes along, and the walk ends.
    chain.write(2, 0, DATA)
    assert walk(chain) == 1
    assert held(chain) == list(range(1, FILES + 1))
    assert chain.replicas[1].target.local_state == UP_TO_DATE


class SteppedRuntime(ThreadRuntime):
    """Time passes only by sleeping."""

    class Clock(SystemClock):
        seconds = 100.0

        def now(self) -> float:
            return self.seconds

    def __init__(self) -> None:
        self.stepped = SteppedRuntime.Clock()
        super().__init__(self.stepped)

    async def sleep(self, seconds: float) -> None:
        self.stepped.seconds += seconds


def test_the_rate_is_kept_and_the_time_left_told() -> None:
    runtime = SteppedRuntime()
    pace = Pace(runtime, 1000)
    for _ in range(11):
        drive(pace.spend(500))
    assert runtime.stepped.seconds == pytest.approx(105.0)
    runtime.stepped.seconds += 50  # what was not used is not saved up
    drive(pace.spend(500))
    drive(pace.spend(500))
    assert runtime.stepped.seconds == pytest.approx(155.5)
    unbounded = Pace(runtime, 0)
    drive(unbounded.spend(1 << 40))
    assert runtime.stepped.seconds == pytest.approx(155.5)


def test_progress_and_time_left_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "PAGE", 2)
    runtime = SteppedRuntime()
    chain = ChainFixture([MemoryEngine(), MemoryEngine()], runtime)
    chain.route([SERVING, mgmtd_pb2.OFFLINE])
    for number in range(1, FILES + 1):
        chain.write(number, 0, DATA)
    chain.route([SERVING, SYNCING])
    first = chain.replicas[0]
    slow = resync.Resync(
        runtime, first.targets, chain.routing, chain.connections, first.service.replica,
        bytes_per_second=len(DATA))
    chain.broken_after = (2, "Forward", 6)
    assert drive(slow.run_once()) == 0
    [report] = drive(first.targets.reports())
    assert (report.resync_done, report.resync_total) == (6, FILES)
    assert 2 <= report.resync_seconds_left <= 5  # a chunk a second, four are left
    chain.broken_after = (0, "", 0)
    assert drive(slow.run_once()) == 1
    [report] = drive(first.targets.reports())
    assert report.resync_seconds_left == 0
