"""The simulated network between processes: letters that are delayed, lost, repeated or cut off.

Layer: tests. As on a real wire, a handler goes on when its caller has given up, and a caller
learns of a dead peer when its connection breaks. A lost letter is a broken connection (both ends
hear soon) or silence (the caller waits for its deadline). A letter is for the process that ran when
it was sent: connections do not outlive it. Half of the letters carry only where their bytes lie, as
on one machine: when their sender has given up it uses that memory again, and a receiver that comes
to it then finds something else there. Updates of chunks are sometimes delivered twice, those
between replicas only while the sender waits, for it gives up its link together with the call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from google.protobuf.message import Message

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import frame
from luciole.rpc.dispatch import failure
from luciole.rpc.interface import TIMEOUT_DEFAULT_S, ServerCall, parts_bytes, scatter
from luciole.tests.sim.disk import SimRange

if TYPE_CHECKING:
    from luciole.tests.sim.process import Process
    from luciole.tests.sim.trace import Trace

REPEATED = {"write", "forward"}
QUIET = {"heartbeat", "probe", "get_routing", "extend_client_session", "list_client_sessions"}
LONG_DELAY_S = 2.0


@dataclass
class Weather:
    """How the network is now. Delays are in seconds, the rest are probabilities."""

    delay: float = 0.002
    loss: float = 0.0
    repeat: float = 0.0
    files: float = 0.0  # seconds, at most, until a reply has left that has parts of files
    straggle: float = 0.0  # a letter takes up to two seconds
    cut: set[tuple[int, int]] = field(default_factory=set)  # (from, to)
    slow: dict[int, float] = field(default_factory=dict)  # process -> seconds more each way


@dataclass
class Letter:
    """One call under way."""

    number: int
    sender: int
    receiver: int
    method: Method[Any, Any]
    message: bytes
    data: bytes
    seconds: float
    answered: trio.Event = field(default_factory=trio.Event)
    over: bool = False  # nobody waits for it any more
    reply: bytes = b""
    reply_data: bytes = b""
    error: FsError | None = None

    def settle(
        self, *, reply: bytes = b"", data: bytes = b"", error: FsError | None = None
    ) -> None:
        """The first answer counts."""
        if not self.answered.is_set():
            self.reply, self.reply_data, self.error = reply, data, error
            self.answered.set()


    def content(self) -> bytes:
        """The bytes that a receiver finds when it begins with it."""
        lent = self.number % 2 == 1
        return b"?" * len(self.data) if lent and self.over else self.data


class Wire:
    """Carries letters between processes."""

    def __init__(self, nursery: trio.Nursery, chance: random.Random, trace: Trace) -> None:
        self.weather = Weather()
        self.processes: dict[int, Process] = {}  # those that are up
        self.answer_checks: list[Callable[[Process, str, Message], None]] = []
        self.calls = 0
        self.files_sent = 0
        self._nursery = nursery
        self._chance = chance
        self._trace = trace
        self._handled: dict[int, dict[int, Letter]] = {}

    def _tell(self, letter: Letter, text: str) -> None:
        if letter.method.handler not in QUIET:
            self._trace.note("call", f"#{letter.number} {letter.sender}->{letter.receiver} "
                             f"{letter.method.handler} {text}")

    def up(self, process: Process) -> None:
        """The process takes letters from now on."""
        self.processes[process.number] = process
        self._handled[process.number] = {}

    def down(self, process: Process) -> None:
        """The process is dead: whoever waits for it hears of it, unless cut off."""
        if self.processes.get(process.number) is process:
            del self.processes[process.number]
            for letter in self._handled.pop(process.number).values():
                self._answer(letter, error=FsError(Kind.CONNECTION_LOST, "the peer died"))

    async def send(self, letter: Letter) -> None:
        """Sends, and waits for the answer until the letter's deadline. Raises FsError."""
        self.calls += 1
        fate = self._chance.random()
        weather = self.weather
        if (letter.sender, letter.receiver) in weather.cut:
            self._tell(letter, "goes into a cut")
        elif fate < weather.loss:
            self._lose(letter, "request")
        else:
            copies = 1 + (letter.method.handler in REPEATED
                          and self._chance.random() < weather.repeat)
            for copy in range(copies):
                delay = self._delay(letter.sender, letter.receiver) + copy * self._chance.random()
                self._tell(letter, "sent again" if copy else "sent")
                self._nursery.start_soon(
                    self._deliver, letter, delay, self.processes.get(letter.receiver), copy > 0)
        try:
            with trio.move_on_after(letter.seconds):
                await letter.answered.wait()
        finally:
            letter.over = True
        if not letter.answered.is_set():
            raise FsError(Kind.DEADLINE_EXCEEDED, f"no answer within {letter.seconds:.3f} s",
                          letter.method.path)
        if letter.error is not None:
            raise FsError(letter.error.kind, letter.error.message, letter.error.subject)

    def _lose(self, letter: Letter, what: str) -> None:
        self._tell(letter, f"{what} lost")
        if self._chance.random() < 0.7:
            letter.settle(error=FsError(Kind.CONNECTION_LOST, f"the {what} was lost"))

    def _delay(self, sender: int, receiver: int) -> float:
        weather = self.weather
        delay = self._chance.random() * weather.delay
        if self._chance.random() < weather.straggle:
            delay += self._chance.random() * LONG_DELAY_S
        return delay + weather.slow.get(sender, 0.0) + weather.slow.get(receiver, 0.0)

    async def _deliver(
        self, letter: Letter, delay: float, connected: Process | None, again: bool
    ) -> None:
        generation = connected.generation if connected else 0
        await trio.sleep(delay)
        process = self.processes.get(letter.receiver)
        if again and letter.method.handler == "forward" and letter.answered.is_set():
            return
        if process is None or connected is None:
            self._answer(letter, error=FsError(Kind.UNAVAILABLE, "nobody listens"))
        elif process is not connected or process.generation != generation:
            self._answer(letter, error=FsError(Kind.CONNECTION_LOST, "the peer started anew"))
        else:
            process.spawn(lambda: self._handle(process, letter))

    async def _handle(self, process: Process, letter: Letter) -> None:
        handled = self._handled[process.number]
        handled[letter.number] = letter
        method, now = letter.method, process.runtime.clock.now()
        call = ServerCall(
            now + letter.seconds, memoryview(letter.content()).toreadonly(), letter.number,
            takes_files=True)
        try:
            endpoint = process.endpoints.find(method.service_id, method.method_id)
            reply = await endpoint.answer(endpoint.parse(letter.message), call, now)
        except Exception as error:  # as every binding does: the peer is told of any failure
            told = frame.portable(failure(error, letter.number, method.path))
            self._tell(letter, f"refused: {FsError.from_proto(told)}")
            self._answer(letter, error=FsError.from_proto(told))
        else:
            for check in self.answer_checks:
                check(process, method.handler, reply)
            data = b"".join(call.response)
            if call.with_files:
                # Files are read while they are sent: what they hold may have changed by then.
                await trio.sleep(self._chance.random() * self.weather.files)
                data = b"".join(part.content() if isinstance(part, SimRange) else bytes(part)
                                for part in call.with_files)
                self.files_sent += 1
                if len(data) < parts_bytes(call.with_files):
                    self._answer(letter, error=FsError(Kind.CONNECTION_LOST, "a file is short"))
                    return
            self._answer(letter, reply=reply.SerializeToString(), data=data)
        finally:
            handled.pop(letter.number, None)

    def _answer(
        self, letter: Letter, *, reply: bytes = b"", data: bytes = b"",
        error: FsError | None = None,
    ) -> None:
        if (letter.receiver, letter.sender) in self.weather.cut:
            return
        if self._chance.random() < self.weather.loss:
            self._lose(letter, "reply")
            return
        delay = self._delay(letter.receiver, letter.sender)

        async def arrive() -> None:
            await trio.sleep(delay)
            letter.settle(reply=reply, data=data, error=error)

        self._nursery.start_soon(arrive)


class Line:
    """A `Caller` from one process to one address."""

    def __init__(self, wire: Wire, sender: Process, receiver: int, generation: int) -> None:
        self._wire = wire
        self._sender = sender
        self._generation = generation
        self._receiver = receiver

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout: float | None = None,
        payload: Sequence[Buffer] = (),
        sink: Callable[[ReplyT], Sequence[memoryview]] | None = None,
        into: Sequence[memoryview] = (),
    ) -> ReplyT:
        """As `Caller.call`."""
        seconds = frame.call_seconds(timeout, TIMEOUT_DEFAULT_S, method.path)
        if not self._sender.up or self._sender.generation != self._generation:
            # Only a workload gets here, which outlives the client whose calls it makes.
            raise FsError(Kind.CONNECTION_LOST, "this process is dead")
        letter = Letter(
            self._wire.calls, self._sender.number, self._receiver, method,
            request.SerializeToString(), b"".join(payload), seconds / self._sender.rate)
        began = self._sender.runtime.clock.now()
        await self._wire.send(letter)
        self._sender.heard(method.handler, letter, began)
        reply = method.reply.FromString(letter.reply)
        if sink is not None:
            scatter(memoryview(letter.reply_data), sink(reply))
        return reply
