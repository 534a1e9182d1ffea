"""Write-behind: order, coalescing, failures that surface, bounded memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.client.write_buffer import WriteBuffer
from luciole.clock import SeededEntropy
from luciole.errors import FsError, Kind
from luciole.runtime import Signal, ThreadRuntime, TrioRuntime, drive

CHUNK = 16


class Disk:
    """Takes what the buffer sends, slowly, and watches the rules."""

    def __init__(self, delay: float = 1.0) -> None:
        self.content = bytearray()
        self.sent: list[tuple[int, int]] = []
        self.flying: dict[int, int] = {}
        self.most = 0
        self.fail: FsError | None = None
        self._delay = delay

    async def send(self, offset: int, data: memoryview) -> None:
        chunk = offset // CHUNK
        assert (offset + len(data) - 1) // CHUNK == chunk, "a send lies within one chunk"
        assert chunk not in self.flying, "two sends of one chunk"
        self.flying[chunk] = len(data)
        self.most = max(self.most, sum(self.flying.values()))
        await trio.sleep(self._delay)
        del self.flying[chunk]
        if self.fail is not None:
            raise self.fail
        self.sent.append((offset, len(data)))
        self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
        self.content[offset : offset + len(data)] = data


def run(
    body: Callable[[WriteBuffer, Disk], Awaitable[None]], *, limit: int = 4 * CHUNK,
    background: bool = True,
) -> Disk:
    disk = Disk()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            buffer = WriteBuffer(
                TrioRuntime(entropy=SeededEntropy(1)), disk.send, chunk_size=CHUNK, limit=limit,
                spawn=nursery.start_soon if background else None)
            with trio.fail_after(1000):
                await body(buffer, disk)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return disk


def test_neighbouring_writes_leave_as_whole_chunks() -> None:
    async def body(buffer: WriteBuffer, disk: Disk) -> None:
        for offset in range(0, 40, 4):
            await buffer.write(offset, memoryview(b"%04d" % offset))
        assert not buffer.idle
        await buffer.drain()
        assert buffer.idle

    disk = run(body)
    assert sorted(disk.sent) == [(0, 16), (16, 16), (32, 8)]
    assert bytes(disk.content) == b"".join(b"%04d" % n for n in range(0, 40, 4))


def test_what_is_in_flight_is_bounded_and_runs_side_by_side() -> None:
    async def body(buffer: WriteBuffer, disk: Disk) -> None:
        await buffer.write(0, memoryview(bytes(8 * CHUNK)))
        assert trio.current_time() == pytest.approx(1.0), "the second half waits for the first"
        await buffer.drain()
        assert trio.current_time() == pytest.approx(2.0)

    assert run(body).most == 4 * CHUNK


def test_a_failed_send_surfaces_once_at_the_next_wait() -> None:
    async def body(buffer: WriteBuffer, disk: Disk) -> None:
        disk.fail = FsError(Kind.NO_SPACE, "full")
        await buffer.write(0, memoryview(bytes(CHUNK)))
        with pytest.raises(FsError) as caught:
            await buffer.drain()
        assert caught.value.kind == Kind.NO_SPACE
        disk.fail = None
        await buffer.write(0, memoryview(bytes(CHUNK)))
        await buffer.drain()

    run(body)


def test_the_caller_s_memory_may_change_after_a_write() -> None:
    async def body(buffer: WriteBuffer, disk: Disk) -> None:
        mine = bytearray(b"x" * CHUNK)
        await buffer.write(0, memoryview(mine))
        mine[:] = b"y" * CHUNK
        await buffer.drain()

    assert run(body).content == b"x" * CHUNK


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), max_size=12), st.booleans(),
    st.sampled_from([1, CHUNK, 3 * CHUNK]))
@settings(deadline=None, max_examples=100)
def test_any_writes_arrive_in_order(
    writes: list[tuple[int, int]], background: bool, limit: int
) -> None:
    expected = bytearray()

    async def body(buffer: WriteBuffer, disk: Disk) -> None:
        for number, (offset, length) in enumerate(writes):
            data = bytes([number + 1]) * length
            if length:
                expected.extend(bytes(max(0, offset + length - len(expected))))
                expected[offset : offset + length] = data
            await buffer.write(offset, memoryview(data))
        await buffer.drain()

    disk = run(body, limit=limit, background=background)
    assert disk.content == expected
    assert disk.most <= max(limit, CHUNK)


class EagerSignal:
    """A signal under which everything in flight ends just as a waiter looks at the count."""

    def __init__(self, signal: Signal, finish: Callable[[], None]) -> None:
        self._signal = signal
        self._finish = finish

    @property
    def count(self) -> int:
        self._finish()
        return self._signal.count

    def notify(self) -> None:
        self._signal.notify()

    async def wait(self, seen: int, timeout: float) -> int:
        assert seen != self._signal.count, "would sleep although everything is done"
        return self._signal.count


class EagerRuntime(ThreadRuntime):
    """Threads of the worst timing."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Callable[[], Awaitable[None]]] = []

    def finish(self) -> None:
        while self.running:
            run = self.running.pop()

            async def body(run: Callable[[], Awaitable[None]] = run) -> None:
                await run()

            drive(body())

    def signal(self) -> Signal:
        return EagerSignal(super().signal(), self.finish)


def test_no_wake_up_is_lost_between_looking_and_waiting() -> None:
    runtime = EagerRuntime()

    async def send(offset: int, data: memoryview) -> None:
        return

    async def body() -> None:
        buffer = WriteBuffer(
            runtime, send, chunk_size=CHUNK, limit=CHUNK, spawn=runtime.running.append)
        await buffer.write(0, memoryview(bytes(CHUNK)))
        await buffer.drain()

    drive(body())
