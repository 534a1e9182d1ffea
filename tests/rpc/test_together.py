"""Several calls of one thread: all requests leave first, and none spoils another's connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import STORAGE, Call, StorageStub
from luciole.rpc.memory import PAGE, Region, place_of
from luciole.rpc.tcp_client import BlockingCaller
from luciole.rpc.tcp_server import FramedServer
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.rpc import CLUSTER

SOON_S = 5.0
SHORT_S = 0.3


class Service:
    """Fills what it is asked for with its letter, once it may."""

    def __init__(self, letter: bytes) -> None:
        self.letter = letter
        self.asked = threading.Semaphore(0)
        self.filled = threading.Semaphore(0)
        self.may_answer: Callable[[], object] = lambda: None
        self.refuses = False

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        """Fills the room that it is given."""
        self.asked.release()
        self.may_answer()
        if self.refuses:
            raise FsError(Kind.NOT_SERVING, "not now")
        length = request.ios[0].length
        (room,) = call.rooms([length])
        room[:] = self.letter * length
        self.filled.release()
        call.reply_payload([room])
        return storage_pb2.ReadReply(results=[storage_pb2.ReadResult(length=length)])


class Place:
    """A service, who calls it, and a page of its own for the answers."""

    def __init__(self, letter: bytes) -> None:
        self.service = Service(letter)
        name = f"\0luciole-together-{os.getpid()}-{id(self)}"
        self.server = FramedServer(name, [(STORAGE, self.service)], cluster_id=CLUSTER, name="s")
        self.server.start()
        self.caller = BlockingCaller(name, cluster_id=CLUSTER)
        self.region = Region(PAGE)
        self.room = self.region.view

    async def read(self, timeout: float = SOON_S) -> int:
        """Reads a page; how many bytes of it are right."""
        request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(length=PAGE)])
        await StorageStub(self.caller).read(
            request, sink=lambda reply: [self.room], into=[self.room], timeout=timeout
        )
        return bytes(self.room).count(self.service.letter)

    def connect(self) -> None:
        """Has a connection that knows the region."""
        assert drive(self.read()) == PAGE
        assert self.service.asked.acquire(timeout=SOON_S)
        assert self.service.filled.acquire(timeout=SOON_S)


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    pair = Place(b"a"), Place(b"b")
    for place in pair:
        place.connect()
    yield pair
    for place in pair:
        place.caller.close()
        place.server.stop(2.0)
        place.region.close()


def together(*calls: Callable[[], Awaitable[int]]) -> list[int]:
    return drive(ThreadRuntime().together(calls))


def test_all_requests_are_sent_before_a_reply_is_waited_for(places: tuple[Place, Place]) -> None:
    both_asked = threading.Barrier(2)
    threads = set()

    async def twice(place: Place) -> int:
        threads.add(threading.get_ident())
        return await place.read() + await place.read()

    for place in places:
        place.service.may_answer = lambda: both_asked.wait(SOON_S)
    # Each service answers only while the other is asked, too: also the second time.
    assert together(lambda: twice(places[0]), lambda: twice(places[1])) == [2 * PAGE] * 2
    assert threads == {threading.get_ident()}
    assert [place.server.connection_count for place in places] == [1, 1]


def test_one_that_fails_leaves_the_others_alone(places: tuple[Place, Place]) -> None:
    first, second = places
    second_went_on = []

    async def goes_on() -> int:
        count = await second.read()
        second_went_on.append(count)
        return count

    first.service.refuses = True
    with pytest.raises(FsError) as caught:
        together(first.read, goes_on)
    assert caught.value.kind == Kind.NOT_SERVING
    assert second_went_on == [PAGE]
    first.service.refuses = False
    assert together(first.read, second.read) == [PAGE, PAGE]
    assert [place.server.connection_count for place in places] == [1, 1]


def test_an_interrupt_takes_back_what_others_lent(places: tuple[Place, Place]) -> None:
    first, second = places
    held = threading.Event()
    first.service.may_answer = lambda: held.wait(SOON_S)

    async def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(first.read, interrupted, second.read)
    assert first.service.asked.acquire(timeout=SOON_S)
    assert not second.service.asked.acquire(blocking=False)
    # The late answer goes nowhere: not into the memory, and not to the next call.
    assert place_of(first.room) is None
    first.room[:] = b"z" * PAGE
    held.set()
    assert first.service.filled.acquire(timeout=SOON_S)
    first.service.letter = b"c"
    first.service.may_answer = lambda: None
    assert bytes(first.room) == b"z" * PAGE
    assert together(first.read, second.read) == [PAGE, PAGE]


@pytest.mark.parametrize("hanging", [0, 1])
def test_a_node_that_hangs_costs_the_other_nothing(
    places: tuple[Place, Place], hanging: int
) -> None:
    held = threading.Event()
    hangs, answers = places[hanging], places[1 - hanging]
    hangs.service.may_answer = lambda: held.wait(SOON_S)
    found = []

    async def noted() -> int:
        found.append(await answers.read(timeout=SHORT_S))  # over when its turn comes, if second
        return found[0]

    calls: list[Callable[[], Awaitable[int]]] = [noted, noted]
    calls[hanging] = lambda: hangs.read(timeout=SHORT_S)
    with pytest.raises(FsError) as caught:
        together(*calls)
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    assert found == [PAGE]
    assert place_of(answers.room) is not None
    assert place_of(hangs.room) is None
    held.set()


def test_nodes_that_hang_are_waited_for_at_the_same_time(places: tuple[Place, Place]) -> None:
    held = threading.Event()
    for place in places:
        place.service.may_answer = lambda: held.wait(SOON_S)
    began = time.monotonic()
    with pytest.raises(FsError) as caught:
        together(*[lambda place=place: place.read(timeout=SHORT_S) for place in places])
    assert caught.value.kind == Kind.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 2 * SHORT_S
    assert [place_of(place.room) for place in places] == [None, None]
    held.set()
