"""How a handler waits: the same coroutine on a plain thread, under trio and in the simulator.

A handler awaits only its ports and a `Runtime`. On `ThreadRuntime` every wait blocks the thread,
so the coroutine never waits suspended and `drive` runs it to its end at once: a hot server shell
is a thread per connection, and costs a few hundred nanoseconds over a plain call. Only where a
request has been sent it pauses (`sent`), for `together` to send another before it waits. On
`TrioRuntime` the same waits suspend the task; with trio's mock clock that is the simulator.

Locks and signals belong to the runtime that made them: one service uses one runtime throughout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Hashable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import coroutine
from typing import Any, Protocol, TypeVar

import trio

from luciole.clock import Clock, Entropy, SystemClock, SystemEntropy

T = TypeVar("T")


class Signal(Protocol):
    """A counter that can be waited for: no wake-up is lost between looking and waiting."""

    @property
    def count(self) -> int:
        """How often it was notified."""

    def notify(self) -> None:
        """Counts one up and wakes every waiter."""

    async def wait(self, seen: int, timeout: float) -> int:
        """Returns the count once it differs from `seen`, or after `timeout` seconds."""


class Runtime(Protocol):
    """Everything that handlers and loops may wait for beside their ports."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def entropy(self) -> Entropy:
        """Randomness."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""

    def lock(self, key: Hashable) -> AbstractAsyncContextManager[None]:
        """Mutual exclusion among holders of an equal key. Not re-entrant."""

    def signal(self) -> Signal:
        """A new signal."""

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Runs all calls side by side; returns results in order or raises the first failure."""

    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """As `gather`, for calls that mostly wait for others' work: no thread is taken for them.

        No call may wait for what another of them does or holds, such as a lock.
        """


# Replies of more than that are better received by a thread each: sockets do that side by side.
TOGETHER_BYTES_MAX = 1 << 20


def side_by_side(runtime: Runtime, size: int) -> Callable[
    [Sequence[Callable[[], Awaitable[T]]]], Awaitable[list[T]]
]:
    """How calls that move `size` bytes, all together, are best run side by side."""
    return runtime.together if size <= TOGETHER_BYTES_MAX else runtime.gather


_SENT = object()


@coroutine
def sent() -> Generator[object, None, None]:
    """What a port that blocks awaits between sending a request and waiting for the reply.

    Whoever runs several such calls (`Runtime.together`) lets the others send theirs now.
    """
    yield _SENT


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine whose waits all block. Raises what it raises."""
    try:
        while work.send(None) is _SENT:
            pass
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError(f"{work!r} suspended on a thread: a port of it does not block")


class _ThreadSignal:
    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def notify(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    async def wait(self, seen: int, timeout: float) -> int:
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout)
            return self._count


class _ThreadLock(AbstractAsyncContextManager[None]):
    """One use of a lock of `ThreadRuntime`; `guard` is over `locks`."""

    __slots__ = ("_entry", "_guard", "_key", "_locks")

    def __init__(
        self, guard: threading.Lock, locks: dict[Hashable, list[Any]], key: Hashable
    ) -> None:
        self._guard = guard
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        with self._guard:
            entry = self._locks.get(self._key)
            if entry is None:
                entry = self._locks[self._key] = [threading.Lock(), 0]
            entry[1] += 1
        self._entry = entry
        try:
            entry[0].acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, kind: object, failure: object, trace: object) -> None:
        self._entry[0].release()
        self._leave()

    def _leave(self) -> None:
        with self._guard:
            self._entry[1] -= 1
            if self._entry[1] == 0:
                del self._locks[self._key]


class ThreadRuntime:
    """Waits block the calling thread."""

    def __init__(self, clock: Clock | None = None, entropy: Entropy | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.entropy: Entropy = entropy or SystemEntropy()
        self._guard = threading.Lock()
        self._locks: dict[Hashable, list[Any]] = {}  # key -> [lock, number of users]

    async def sleep(self, seconds: float) -> None:
        """Blocks the thread for `seconds`."""
        time.sleep(max(0.0, seconds))

    def lock(self, key: Hashable) -> AbstractAsyncContextManager[None]:
        """Holds the lock of `key`; the entry goes with its last user."""
        return _ThreadLock(self._guard, self._locks, key)

    def signal(self) -> Signal:
        """A new signal for threads."""
        return _ThreadSignal()

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Runs the first call here and every other on a thread of trio's cache."""
        if len(calls) == 1:
            return [await calls[0]()]
        results: list[Any] = [None] * len(calls)
        failures: list[BaseException] = []
        ended = threading.Semaphore(0)

        def run(index: int) -> None:
            async def body() -> T:
                return await calls[index]()

            try:
                results[index] = drive(body())
            except BaseException as failure:
                failures.append(failure)

        def end(_: object) -> None:
            ended.release()

        for index in range(1, len(calls)):
            trio.lowlevel.start_thread_soon(partial(run, index), end)
        if calls:
            run(0)
        for _ in range(1, len(calls)):
            ended.acquire()
        if failures:
            raise failures[0]
        return results

    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Runs all calls on this thread, each in turn until its next request is on the wire.

        So others work on all requests while replies are awaited one by one. A call that fails
        does not stop the others, as with `gather`; what is no Exception ends them.
        """
        if len(calls) == 1:
            return [await calls[0]()]
        results: list[Any] = [None] * len(calls)
        failures: list[Exception] = []
        running = [(index, call().__await__()) for index, call in enumerate(calls)]
        try:
            while running:
                running = [(index, steps) for index, steps in running
                           if _goes_on(index, steps, results, failures)]
        finally:
            for _, steps in running:
                steps.close()  # a call whose reply is outstanding gives its connection up
        if failures:
            raise failures[0]
        return results


def _goes_on(
    index: int, steps: Generator[object, None, object], results: list[Any],
    failures: list[Exception],
) -> bool:
    """Runs a call until it has sent its next request; False: it has ended, well or not."""
    try:
        if steps.send(None) is _SENT:
            return True
    except StopIteration as stop:
        results[index] = stop.value
        return False
    except Exception as failure:
        failures.append(failure)
        return False
    raise RuntimeError(f"call {index} suspended on a thread: a port of it does not block")


class _TrioSignal:
    def __init__(self) -> None:
        self._count = 0
        self._event = trio.Event()

    @property
    def count(self) -> int:
        return self._count

    def notify(self) -> None:
        self._count += 1
        self._event.set()
        self._event = trio.Event()

    async def wait(self, seen: int, timeout: float) -> int:
        with trio.move_on_after(timeout):
            while self._count == seen:
                await self._event.wait()
        return self._count


class TrioClock:
    """trio's clock, which a test may replace by a mock; wall time starts where it is told."""

    def __init__(self, wall_start_ns: int | None = None) -> None:
        self._start_ns = time.time_ns() if wall_start_ns is None else wall_start_ns
        self._start = trio.current_time()

    def now(self) -> float:
        """trio's seconds."""
        return trio.current_time()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self._start_ns + int((trio.current_time() - self._start) * 1e9)


class TrioRuntime:
    """Waits suspend the trio task."""

    def __init__(self, clock: Clock | None = None, entropy: Entropy | None = None) -> None:
        self.clock: Clock = clock or TrioClock()
        self.entropy: Entropy = entropy or SystemEntropy()
        self._locks: dict[Hashable, list[Any]] = {}

    async def sleep(self, seconds: float) -> None:
        """Suspends for `seconds`."""
        await trio.sleep(max(0.0, seconds))

    @asynccontextmanager
    async def lock(self, key: Hashable) -> AsyncIterator[None]:
        """Holds the lock of `key`; the entry goes with its last user."""
        entry = self._locks.setdefault(key, [trio.Lock(), 0])
        entry[1] += 1
        try:
            async with entry[0]:
                yield
        finally:
            entry[1] -= 1
            if entry[1] == 0:
                del self._locks[key]

    def signal(self) -> Signal:
        """A new signal for trio tasks."""
        return _TrioSignal()

    async def gather(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Runs every call in a task; the first failure cancels the others."""
        if len(calls) == 1:
            return [await calls[0]()]
        results: list[Any] = [None] * len(calls)

        async def run(index: int) -> None:
            results[index] = await calls[index]()

        try:
            async with trio.open_nursery() as nursery:
                for index in range(len(calls)):
                    nursery.start_soon(run, index)
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None
        return results

    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """As `gather`: a task takes no thread."""
        return await self.gather(calls)


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that matters: a real one rather than the cancellations it caused."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        item = pending.pop(0)
        if isinstance(item, BaseExceptionGroup):
            pending.extend(item.exceptions)
        else:
            leaves.append(item)
    real = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    return (real or leaves)[0]
