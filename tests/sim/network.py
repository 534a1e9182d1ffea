"""The simulated network: calls between nodes that lose, delay and repeat messages on command.

Layer: tests. A `Link` is the `Caller` from one node to another. What happens to a call is asked of
`Network.fault`, which a test replaces by a rule and a random test by a seeded one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import trio
from google.protobuf.message import Message

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc.dispatch import Services
from luciole.rpc.inprocess import InProcessCaller
from luciole.runtime import Runtime


class Loss(Enum):
    """Which message of a call is lost."""

    NONE = "none"
    REQUEST = "the handler never runs"
    REPLY = "the handler runs and nobody hears of it"


@dataclass(frozen=True)
class Fault:
    """What becomes of one call. Delays are in seconds."""

    loss: Loss = Loss.NONE
    delay: float = 0.0  # before the handler
    reply_delay: float = 0.0  # behind it
    # The request arrives once more, so much later, unless its sender was answered meanwhile: a
    # connection carries one call at a time.
    repeat_after: float | None = None


SOUND = Fault()
Rule = Callable[[int, int, str, Message], Fault]  # sender, receiver, method, request


def sound(sender: int, receiver: int, method: str, request: Message) -> Fault:
    """Every message arrives once and at once."""
    return SOUND


class Network:
    """Who is up, and the rule of faults. Node 0 and negative numbers are clients."""

    def __init__(self, runtime: Runtime, nursery: trio.Nursery) -> None:
        self.runtime = runtime
        self.nursery = nursery
        self.rule: Rule = sound
        self.log: list[tuple[int, int, str]] = []
        self._servers: dict[int, InProcessCaller] = {}
        self._running: dict[int, set[trio.CancelScope]] = {}

    def serve(self, node: int, services: Services) -> None:
        """The node's process is up."""
        self._servers[node] = InProcessCaller(services, clock=self.runtime.clock)
        self._running[node] = set()

    def kill(self, node: int) -> None:
        """The process dies, with every handler that runs in it."""
        self._servers.pop(node, None)
        for scope in self._running.pop(node, set()):
            scope.cancel()

    def up(self, node: int) -> bool:
        """Whether the node's process runs."""
        return node in self._servers

    def link(self, sender: int, receiver: int) -> Link:
        """The way from one node to another."""
        return Link(self, sender, receiver)

    async def deliver(
        self, receiver: int, method: Method[RequestT, ReplyT], request: RequestT, *,
        timeout: float | None, payload: Sequence[Buffer],
        sink: Callable[[ReplyT], Sequence[memoryview]] | None,
    ) -> ReplyT:
        """Runs the handler, unless the process dies under it."""
        server = self._servers.get(receiver)
        if server is None:
            raise FsError(Kind.UNAVAILABLE, "the node is down", str(receiver))
        running = self._running[receiver]
        with trio.CancelScope() as scope:
            running.add(scope)
            try:
                return await server.call(
                    method, request, timeout=timeout, payload=payload, sink=sink)
            finally:
                running.discard(scope)
        raise FsError(Kind.CONNECTION_LOST, "the node died", str(receiver))


class Link:
    """A `Caller`."""

    def __init__(self, network: Network, sender: int, receiver: int) -> None:
        self._network = network
        self._sender = sender
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
        """As `Caller.call`, with what the rule says."""
        network = self._network
        fault = network.rule(self._sender, self._receiver, method.handler, request)
        network.log.append((self._sender, self._receiver, method.handler))
        copy = type(request).FromString(request.SerializeToString())
        held = [bytes(buffer) for buffer in payload]
        over = trio.Event()
        if fault.repeat_after is not None:
            network.nursery.start_soon(partial(
                self._repeat, method, copy, held, timeout=timeout, after=fault.repeat_after,
                over=over))
        await network.runtime.sleep(fault.delay)
        if fault.loss is Loss.REQUEST:
            raise FsError(Kind.CONNECTION_LOST, "the request was lost", method.path)
        reply = await network.deliver(
            self._receiver, method, copy, timeout=timeout, payload=held, sink=sink)
        await network.runtime.sleep(fault.reply_delay)
        if fault.loss is Loss.REPLY:
            raise FsError(Kind.CONNECTION_LOST, "the reply was lost", method.path)
        over.set()
        return reply

    async def _repeat(
        self, method: Method[RequestT, ReplyT], request: RequestT, payload: Sequence[Buffer], *,
        timeout: float | None, after: float, over: trio.Event,
    ) -> None:
        await self._network.runtime.sleep(after)
        if over.is_set():
            return
        try:
            await self._network.deliver(
                self._receiver, method, request, timeout=timeout, payload=payload,
                sink=_into_nothing)
        except FsError:
            return  # nobody waits for this answer


def _into_nothing(reply: Message) -> list[memoryview]:
    results = getattr(reply, "results", ())
    return [memoryview(bytearray(result.length)) for result in results]
