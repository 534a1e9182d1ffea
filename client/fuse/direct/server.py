"""Threads that serve the device: each reads a request, answers it, and reads the next.

Layer: shell. A handler blocks its thread until the cluster has answered, so there is always another
thread that reads: the last one to find a request starts one more, up to `threads_max`. Beyond that
requests wait in the kernel, where a killed process can still take its own back. Threads that would
wait beside `IDLE_MAX` others end, since the kernel wakes them in turn: many that wait for little
work only cool each other's caches.

Requests about locks wait for as long as somebody else likes, so they have threads beside these, and
a bound of their own: else sixty-four of them would stop the mount.

The lock guards the two counts.
"""

from __future__ import annotations

import errno
import threading
from functools import partial

import trio

from luciole.client.fuse.direct.background import Background
from luciole.client.fuse.direct.channel import Channel
from luciole.client.fuse.direct.dispatch import DETACHED, SEVERAL_WAYS, Data, Dispatcher
from luciole.client.fuse.direct.files import small_read
from luciole.client.fuse.direct.gathering import Gathering
from luciole.client.fuse.direct.killed import Killed
from luciole.client.fuse.direct.memory import Buffer, Pool
from luciole.client.fuse.direct.messages import RefusedError, Request
from luciole.client.fuse.direct.negotiation import REQUEST_BYTES_MAX
from luciole.client.fuse.direct.protocol import INTERRUPT_IN, READ_IN, Opcode
from luciole.log import get_logger

log = get_logger("fuse")
THREADS_MAX = 64
IDLE_MAX = 8
LOCKS_MAX = 1024  # requests about locks at once
INTERRUPT = int(Opcode.INTERRUPT)


# Below that, reads one by one cost less than a message for all of them.
TOGETHER_MIN = 4


class Server:
    """All threads of one mount."""

    def __init__(
        self, channel: Channel, dispatcher: Dispatcher, *, threads_max: int = THREADS_MAX
    ) -> None:
        self.channel = channel
        self.dispatcher = dispatcher
        self.context = dispatcher.context
        self._threads_max = threads_max
        self._pool = Pool(REQUEST_BYTES_MAX)
        self.background = Background()
        self._gathering = Gathering(self._rescue)
        self._rescues_left = threading.Semaphore(threads_max)
        self._killed = Killed(partial(channel.answer_error, number=errno.EINTR))
        self._guard = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._locks_left = threading.Semaphore(LOCKS_MAX)
        self._unmounted = threading.Event()
        self._finished = threading.Event()

    def start(self) -> None:
        """Begins to serve, and returns."""
        with self._guard:
            self._add_thread()

    def wait_unmounted(self, seconds: float | None = None) -> bool:
        """Waits until the kernel has ended the mount; returns whether it has."""
        return self._unmounted.wait(seconds)

    def wait_finished(self, seconds: float) -> bool:
        """Waits until, after that, every request has been answered; returns whether it has."""
        return self._finished.wait(seconds)

    def _add_thread(self) -> None:
        self._threads += 1
        self._idle += 1
        # A daemon, since it may wait for a request for ever when the process is told to end.
        threading.Thread(target=self._run, name="fuse", daemon=True).start()

    def _run(self) -> None:
        try:
            self._serve()
        except OSError:
            log.exception("device_failed")
            self._unmounted.set()
        finally:
            with self._guard:
                self._threads -= 1
                if self._threads == 0:
                    self._unmounted.set()
                    self._finished.set()

    def _serve(self) -> None:
        buffer = self._pool.take()
        while True:
            length = self.channel.read(buffer.whole)
            if length == 0:
                self._unmounted.set()
                return
            with self._guard:
                self._idle -= 1
                if self._idle == 0 and self._threads < self._threads_max:
                    self._add_thread()
            if self._handle(buffer, length):
                # The bytes of a large write may still be on their way.
                buffer = self._pool.take()
            with self._guard:
                if self._idle >= IDLE_MAX:
                    return
                self._idle += 1

    def _handle(self, buffer: Buffer, length: int) -> bool:
        """Answers one request; returns whether its memory may still be looked at."""
        try:
            request = Request(buffer.whole[:length], buffer.payload)
        except RefusedError:
            log.error("request_dropped", length=length)  # without a number there is no reply
            return False
        if request.opcode not in SEVERAL_WAYS:
            self._answer(request)
            return request.lent
        if self.dispatcher.detached(request):
            if self._locks_left.acquire(blocking=False):
                own = Request(memoryview(bytes(buffer.whole[:length])))
                trio.lowlevel.start_thread_soon(partial(self._answer, own), self._detached_ended)
                return False
            if request.opcode in DETACHED:
                self.channel.answer_error(request.unique, errno.ENOLCK)
                return False
        if request.opcode == Opcode.READ and len(request.body) >= READ_IN.size:
            self.background.read(request.fields(READ_IN)[2])
        if not small_read(request):
            self._answer(request)
            return request.lent
        self._killed.begin(request)  # it may be put down for a while
        if self._gathering.put_down(request):
            return True
        try:
            self._answer(request)
        finally:
            while others := self._gathering.others():
                self._answer_reads(others)
        return False

    def _answer_reads(self, requests: list[Request]) -> None:
        if len(requests) < TOGETHER_MIN:
            for request in requests:
                self._answer(request)
            return
        for request, answer in zip(requests, self.dispatcher.answer_reads(requests), strict=True):
            self._killed.end(request)
            self._reply(request, answer)

    def _rescue(self, request: Request) -> bool:
        """Answers a read on a thread beside the others; False: there are too many."""
        if not self._rescues_left.acquire(blocking=False):
            return False
        trio.lowlevel.start_thread_soon(partial(self._answer, request), self._rescued)
        return True

    def _rescued(self, _: object) -> None:
        self._rescues_left.release()

    def _detached_ended(self, _: object) -> None:
        self._locks_left.release()

    def _answer(self, request: Request) -> None:
        if request.opcode == INTERRUPT and len(request.body) >= INTERRUPT_IN.size:
            self._killed.announced(request.fields(INTERRUPT_IN)[0])
        self._killed.begin(request)
        answer = self.dispatcher.answer(request)
        self._killed.end(request)
        self._reply(request, answer)

    def _reply(self, request: Request, answer: Data | int | None) -> None:
        unique = request.unique
        if answer is None:
            return
        try:
            if isinstance(answer, int):
                self.channel.answer_error(unique, answer)
            elif not self.channel.answer(unique, answer):
                self.dispatcher.unwanted(request, answer)
        except OSError:
            log.exception("reply_refused", operation=request.opcode)
            self.channel.answer_error(unique, errno.EIO)
