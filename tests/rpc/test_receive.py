"""Large payloads over TCP: who receives one is woken seldom, and always."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from luciole.rpc.stream import Due, Reader
from luciole.rpc.wire import BlockingWire

TICK_S = 2.0  # longer than any of these may take: then the kernel wakes a receiver anyway
LARGE = 3 << 20


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sending = socket.create_connection(listener.getsockname())
        receiving, _ = listener.accept()
    with sending, receiving:
        sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sending, receiving


def whole(room: memoryview, calls: list[int]) -> Reader[int]:
    done = 0
    while done < len(room):
        count = yield Due([room[done:]], len(room) - done)
        assert count
        calls.append(count)
        done += count
    return done


def there(receiving: socket.socket) -> int:
    """Bytes that came and were not taken."""
    return int(struct.unpack("i", fcntl.ioctl(receiving, termios.FIONREAD, b"\0" * 4))[0])


def wait_until(receiving: socket.socket, count: int) -> None:
    deadline = time.monotonic() + 5.0
    while there(receiving) != count:
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


@pytest.mark.parametrize(
    "first", [1, 65_535, 300_000, 511 << 10, 700_000, LARGE - 70_000, LARGE - 1])
@pytest.mark.parametrize("size", [100_000, 1 << 20, LARGE])
def test_no_receiver_waits_for_more_than_comes(
    pair: tuple[socket.socket, socket.socket], first: int, size: int
) -> None:
    """What is there is taken by a receiver that then waits; the rest comes only after that."""
    first = min(first, size - 1)
    sending, receiving = pair
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    data = bytes(range(251)) * (size // 251 + 1)
    room, calls = memoryview(bytearray(size)), list[int]()
    wire = BlockingWire(receiving, TICK_S)
    result: list[int] = []
    sending.sendall(data[:first])
    wait_until(receiving, first)
    began = time.monotonic()
    thread = threading.Thread(
        target=lambda: result.append(wire.pull(whole(room, calls), began + 10)), daemon=True)
    thread.start()
    wait_until(receiving, 0)
    sending.sendall(data[first:size])
    thread.join(10)
    assert result == [size]
    assert time.monotonic() - began < TICK_S / 2
    assert room == data[:size]


def test_a_connection_that_received_much_is_woken_by_a_byte(
    pair: tuple[socket.socket, socket.socket]
) -> None:
    sending, receiving = pair
    wire = BlockingWire(receiving, TICK_S)
    sender = threading.Thread(target=sending.sendall, args=(bytes(LARGE),), daemon=True)
    sender.start()
    calls: list[int] = []
    assert wire.pull(whole(memoryview(bytearray(LARGE)), calls), time.monotonic() + 10) == LARGE
    sender.join(5)
    assert receiving.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    room = memoryview(bytearray(100))
    sending.send(b"x")
    began = time.monotonic()
    assert wire.receive([room], began + 10) == 1
    assert time.monotonic() - began < TICK_S / 2


def test_the_end_of_a_stream_wakes_who_waits_for_more(
    pair: tuple[socket.socket, socket.socket]
) -> None:
    sending, receiving = pair
    wire = BlockingWire(receiving, TICK_S)
    room = memoryview(bytearray(LARGE))
    sending.sendall(b"abc")
    sending.shutdown(socket.SHUT_WR)
    began = time.monotonic()
    assert wire.receive(Due([room], LARGE), began + 10) == 3
    assert wire.receive(Due([room[3:]], LARGE - 3), began + 10) == 0
    assert time.monotonic() - began < TICK_S / 2
