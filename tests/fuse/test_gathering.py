"""Reads that are left to others: they travel together, and are never left to one that stalls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from luciole.client.fuse.direct import gathering
from luciole.client.fuse.direct.gathering import QUEUE_MAX, Gathering
from luciole.client.fuse.direct.messages import Request
from luciole.client.fuse.direct.protocol import IN_HEADER

WAIT_S = 5.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call becomes stale while a busy machine gets round to it."""
    monkeypatch.setattr(gathering, "STALE_S", 1000.0)


@pytest.fixture
def stale_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """Calls become stale, and not while a busy machine gets round to the next step."""
    monkeypatch.setattr(gathering, "STALE_S", 0.5)
    return 0.5


def request(unique: int) -> Request:
    return Request(memoryview(IN_HEADER.pack(IN_HEADER.size, 15, unique, 1, 0, 0, 0, 0, 0)))


def no_rescue(stuck: Request) -> bool:
    raise AssertionError(f"{stuck.unique} was left to no stale call")


def elsewhere(call: Callable[[], bool]) -> bool:
    """What a call gives on another thread."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(WAIT_S)
    return found[0]


def test_a_read_alone_goes_at_once_and_others_travel_together(patient: None) -> None:
    reads = Gathering(lambda stuck: True)
    assert not reads.put_down(request(1)), "nobody asks yet"
    while not elsewhere(lambda: reads.put_down(request(2))):
        raise AssertionError("one is being asked for")
    assert elsewhere(lambda: reads.put_down(request(3)))
    assert [found.unique for found in reads.others()] == [2, 3]
    assert reads.others() == []
    assert not reads.put_down(request(4)), "nobody asks any more"


def test_the_queue_has_a_bound(patient: None) -> None:
    reads = Gathering(lambda stuck: False)
    assert not reads.put_down(request(0))
    put_down = 0
    while elsewhere(lambda: reads.put_down(request(1))):
        put_down += 1
        reads._asking[threading.get_ident()] = time.monotonic()
    assert put_down == QUEUE_MAX


def test_what_was_left_to_a_call_that_stalls_is_called_for(stale_s: float) -> None:
    rescued: list[int] = []
    done = threading.Event()

    def rescue(stuck: Request) -> bool:
        rescued.append(stuck.unique)
        done.set()
        return True

    reads = Gathering(rescue)
    assert not reads.put_down(request(1))
    assert elsewhere(lambda: reads.put_down(request(2)))
    assert done.wait(WAIT_S), "its call never ended"
    assert rescued == [2]
    time.sleep(stale_s)
    assert not elsewhere(lambda: reads.put_down(request(3))), "that call is too old to wait for"
    assert reads.others() == []


def test_what_no_thread_is_left_for_stays_put_down(stale_s: float) -> None:
    tried = threading.Semaphore(0)

    def rescue(stuck: Request) -> bool:
        tried.release()
        return False

    reads = Gathering(rescue)
    assert not reads.put_down(request(1))
    assert elsewhere(lambda: reads.put_down(request(2)))
    for _ in range(2):
        assert tried.acquire(timeout=WAIT_S), "it is tried again"
    deadline = time.monotonic() + WAIT_S
    found: list[Request] = []
    while not found and time.monotonic() < deadline:  # not while it is being tried
        found = reads.others()
        reads._asking.setdefault(threading.get_ident(), 0.0)
    assert [one.unique for one in found] == [2]
