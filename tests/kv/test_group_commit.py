"""`GroupCommit` with a disk that stands still or breaks: nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from luciole.errors import FsError, Kind
from luciole.kv.buffer import WriteBuffer
from luciole.kv.group_commit import BATCH_BYTES_MAX, GroupCommit, Outcome
from luciole.kv.transaction import CommitRequest
from luciole.tests.conformance.kv_subject import raises, wait_until

WAIT = 0.2


class Disk:
    """Writes batches when it is told to go on."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.batches: list[list[int]] = []  # read versions name the requests
        self.breaks = False

    def write(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
        self.begun.release()
        assert self.go_on.acquire(timeout=30)
        if self.breaks:
            raise RuntimeError("a bug")
        self.batches.append([request.read_version for request in requests])
        return [None] * len(requests)


def request(number: int, size: int = 0) -> CommitRequest:
    return CommitRequest(number, [], WriteBuffer(), size)


class Committers:
    """Threads that each submit one request."""

    def __init__(self, commits: GroupCommit) -> None:
        self.commits = commits
        self.outcomes: dict[int, Kind | str] = {}
        self.threads: list[threading.Thread] = []

    def submit(self, number: int, size: int = 0) -> None:
        queued = len(self.commits._queue)

        def work() -> None:
            try:
                self.commits.submit(request(number, size))
                self.outcomes[number] = "committed"
            except FsError as failure:
                self.outcomes[number] = failure.kind
            except RuntimeError as failure:
                self.outcomes[number] = str(failure)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        if number > 0:  # the first leads and leaves the queue at once
            wait_until(lambda: len(self.commits._queue) > queued)

    def join(self, *numbers: int) -> None:
        for number in numbers:
            self.threads[number].join(30)
            assert not self.threads[number].is_alive()


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_queues_up_is_one_batch(disk: Disk) -> None:
    committers = Committers(GroupCommit(disk.write))
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    for number in range(1, 5):
        committers.submit(number)
    disk.go_on.release(2)
    committers.join(0, 1, 2, 3, 4)
    assert disk.batches == [[0], [1, 2, 3, 4]]
    assert set(committers.outcomes.values()) == {"committed"}


def test_a_batch_is_bounded_in_bytes(disk: Disk) -> None:
    committers = Committers(GroupCommit(disk.write))
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    for number in range(1, 4):
        committers.submit(number, BATCH_BYTES_MAX // 2)
    disk.go_on.release(3)
    committers.join(0, 1, 2, 3)
    assert disk.batches == [[0], [1, 2], [3]]


def test_waiting_in_the_queue_is_bounded(disk: Disk) -> None:
    committers = Committers(GroupCommit(disk.write, WAIT))
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    committers.submit(1)
    committers.join(1)
    assert committers.outcomes[1] == Kind.UNAVAILABLE
    disk.go_on.release()
    committers.join(0)
    assert disk.batches == [[0]], "what gave up is not written later"


def test_waiting_for_the_disk_is_bounded_and_unknown(disk: Disk) -> None:
    committers = Committers(GroupCommit(disk.write, WAIT))
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    committers.submit(1)
    committers.submit(2)
    disk.go_on.release()
    assert disk.begun.acquire(timeout=30)
    committers.join(2)
    assert committers.outcomes[2] == Kind.KV_MAYBE_COMMITTED
    disk.go_on.release()
    committers.join(0, 1)
    assert disk.batches == [[0], [1, 2]]


def test_a_leader_that_breaks_hands_over(disk: Disk) -> None:
    committers = Committers(GroupCommit(disk.write))
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    committers.submit(1)
    disk.breaks = True
    disk.go_on.release()
    committers.join(0)
    assert disk.begun.acquire(timeout=30)
    disk.breaks = False
    disk.go_on.release()
    committers.join(1)
    assert committers.outcomes == {0: "a bug", 1: "committed"}


def test_closing_waits_for_the_last_batch(disk: Disk) -> None:
    commits = GroupCommit(disk.write)
    committers = Committers(commits)
    committers.submit(0)
    assert disk.begun.acquire(timeout=30)
    closer = threading.Thread(target=commits.close)
    closer.start()
    disk.go_on.release()
    closer.join(30)
    assert disk.batches == [[0]]
    raises(Kind.UNAVAILABLE, lambda: commits.submit(request(1)))
    committers.join(0)
