"""Virtual time as a heap of events, and tasks that wait in it: no threads, no trio, no real time.

Layer: tests. A task is a generator that belongs to a machine and dies with it. It yields what it
waits for: a number (seconds of its machine's clock), a `Call` (the answer comes back, None if none
came in time), or a `Lock`. Everything happens in the order of the heap; ties in order of making.
Messages are delayed, lost, repeated and cut; a machine that is down hears nothing, and one that was
started anew nothing of what was sent to its earlier life, since connections do not outlive it.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

Waits = Generator[Any, Any, Any]
Handler = Callable[[Any], Waits]


@dataclass(slots=True)
class Call:
    """A request to a machine: the name of its handler, and what it is given."""

    receiver: int
    method: str
    body: Any
    timeout: float


@dataclass(slots=True)
class Lock:
    """The lock of a key on the task's machine."""

    key: object


@dataclass(slots=True, eq=False)
class Task:
    """A generator on a machine, in one of its lives."""

    machine: Machine
    life: int
    body: Waits
    waiting: int = 0  # raised by each wait, so that a late wake-up is known for one
    answer: Callable[[Any], None] | None = None


@dataclass
class Weather:
    """How bad the network is: seconds and probabilities."""

    delay: float = 0.001
    straggle: float = 0.0
    loss: float = 0.0
    repeat: float = 0.0
    cut: set[tuple[int, int]] = field(default_factory=set)


class Machine:
    """Something with a clock, locks and tasks that a crash ends."""

    def __init__(self, world: Heap, number: int, rate: float) -> None:
        self.world = world
        self.number = number
        self.rate = rate
        self.up = False
        self.life = 0
        self.handlers: dict[str, Handler] = {}
        self._locks: dict[object, deque[Task]] = {}

    def clock(self) -> float:
        """Seconds, as this machine counts them."""
        return self.world.now * self.rate

    def true_time(self, own: float) -> float:
        """When this machine's clock shows `own`."""
        return own / self.rate

    def start(self) -> None:
        """A new life."""
        self.life += 1
        self.up = True

    def crash(self) -> None:
        """Tasks and locks are gone."""
        self.up = False
        self.life += 1
        self._locks.clear()

    def spawn(self, body: Waits) -> None:
        """A task of this life."""
        self.world.step(Task(self, self.life, body), None)

    def lock(self, task: Task, key: object) -> bool:
        """Takes the lock, or queues."""
        queue = self._locks.get(key)
        if queue is None:
            self._locks[key] = deque()
            return True
        queue.append(task)
        return False

    def locked(self, key: object, body: Waits) -> Waits:
        """Runs `body` under a lock. (No `finally`: who dies loses its locks with its memory.)"""
        yield Lock(key)
        result = yield from body
        self._unlock(key)
        return result

    def _unlock(self, key: object) -> None:
        queue = self._locks[key]
        if queue:
            self.world.after(0.0, queue.popleft())
        else:
            del self._locks[key]


class Heap:
    """The events, the machines and the network between them."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self.events = 0
        self.digest = 0
        self.chance = chance
        self.weather = Weather()
        self.machines: dict[int, Machine] = {}
        self._heap: list[tuple[float, int, Task | Callable[[], None], int, Any]] = []
        self._made = 0

    def run(self, until: float) -> None:
        """Lets everything happen up to then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, made, what, waiting, value = heappop(heap)
            self.events += 1
            self.digest = zlib.crc32(b"%d %.9f" % (made, self.now), self.digest)
            if not isinstance(what, Task):
                what()
            elif what.waiting == waiting and what.machine.life == what.life:
                self.step(what, value)
        self.now = until

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Calls `what` after so many true seconds."""
        self._made += 1
        heappush(self._heap, (self.now + seconds, self._made, what, 0, None))

    def after(self, seconds: float, task: Task, value: Any = None) -> None:
        """Wakes a task after so many true seconds, unless something else has woken it by then."""
        self._made += 1
        heappush(self._heap, (self.now + seconds, self._made, task, task.waiting, value))

    def step(self, task: Task, value: Any) -> None:
        """Lets a task run to its next wait."""
        while True:
            try:
                wanted = task.body.send(value)
            except StopIteration as end:
                if task.answer is not None:
                    task.answer(end.value)
                return
            task.waiting += 1
            if type(wanted) is Call:
                self._send(task, wanted)
                return
            if type(wanted) is Lock:
                if not task.machine.lock(task, wanted.key):
                    return
                value = None
            else:
                self.after(wanted / task.machine.rate, task)
                return

    def _send(self, task: Task, call: Call) -> None:
        self.after(call.timeout / task.machine.rate, task)
        sender, receiver, waiting = task.machine.number, call.receiver, task.waiting

        def answer(value: Any) -> None:
            if value is not None:
                self._travel(receiver, sender, lambda: arrive(value))

        def arrive(value: Any) -> None:
            if task.waiting == waiting and task.machine.life == task.life:
                self.step(task, value)

        life = self.machines[receiver].life

        def deliver() -> None:
            machine = self.machines[receiver]
            if machine.up and machine.life == life:
                body = machine.handlers[call.method](call.body)
                self.step(Task(machine, machine.life, body, 0, answer), None)

        def again() -> None:
            # A link is given up together with a call between replicas.
            if call.method != "forward" or task.waiting == waiting:
                deliver()

        self._travel(sender, receiver, deliver)
        if self.weather.repeat and self.chance.random() < self.weather.repeat:
            self._travel(sender, receiver, again)

    def _travel(self, sender: int, receiver: int, arrive: Callable[[], None]) -> None:
        weather, chance = self.weather, self.chance
        if (sender, receiver) in weather.cut or chance.random() < weather.loss:
            return
        delay = weather.delay * (0.5 + chance.random())
        if weather.straggle and chance.random() < weather.straggle:
            delay += 2.0 * chance.random()
        self.at(delay, arrive)
