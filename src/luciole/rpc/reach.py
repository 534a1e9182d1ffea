"""Which transport reaches a node, and why not a better one: shared memory, RDMA, TCP.

Layer: shell. Decided at the first call that reaches a node and kept: a node that starts anew is
announced under another name, and gets a caller of its own. Best first: shared memory if the node is
on this machine, then RDMA if both ends have a device and a message goes between them. What a better
one lacked is told by `luciole doctor`. A node that answers in no way at all (it stands still, it is
not up yet) says nothing about which is best, so that is found out again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from luciole.config import Transport
from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc.rdma_device import Settings
from luciole.rpc.ring import SOUND
from luciole.rpc.ring_client import Ask, RingCaller
from luciole.rpc.tcp_client import BlockingCaller, Fetched


class Choice(NamedTuple):
    """The transport to a node."""

    transport: Literal["shm", "rdma", "tcp"]
    why: str  # not a better one; empty: there is none


class NodeCaller:
    """Calls one node from any thread; its coroutines never suspend (runtime.drive).

    Args:
        address: of the node, over TCP.
        local: its abstract Unix socket, as the routing tells it; empty: it has none.
        transport: "auto": the best; "shm", "rdma" or "tcp": this one or an error.
        cluster_id, name: as for `BlockingCaller`.
        make: what makes the callers under it.
        rdma: which device.
    """

    def __init__(
        self,
        address: tuple[str, int],
        local: str,
        transport: Transport,
        *,
        cluster_id: str,
        name: str,
        make: type[BlockingCaller] = BlockingCaller,
        rdma: Settings | None = None,
    ) -> None:
        self._tcp = make(address, cluster_id=cluster_id, name=name)
        self._callers = {"tcp": self._tcp}
        if local:
            self._callers["shm"] = make("\0" + local, cluster_id=cluster_id, name=name)
        if transport in {"auto", "rdma"}:
            self._callers["rdma"] = make(
                address, cluster_id=cluster_id, name=name, rdma=rdma or Settings())
        self._rings: RingCaller | None = None
        self._have_rings = False
        self._no_rings = "" if SOUND else "this processor or interpreter knows none"
        if local and SOUND:
            self._rings = RingCaller("\0" + local, cluster_id=cluster_id, name=name)
        self._wanted = transport
        self._guard = threading.Lock()
        self._choice: Choice | None = None
        self._failed: tuple[float, FsError] | None = None  # when all were tried in vain
        self._chosen: BlockingCaller | None = None

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
        """As `Caller.call`. Blocks the thread."""
        caller = self._chosen
        if caller is None:
            caller = self._chosen = self._callers[self.choose().transport]
        return await caller.call(
            method, request, timeout=timeout, payload=payload, sink=sink, into=into
        )

    def fetch(
        self, method: Method[RequestT, ReplyT], message: bytes, room: memoryview,
        reply_bytes: int, timeout: float,
    ) -> Fetched | None:
        """As `BlockingCaller.fetch`; None also before the first call."""
        caller = self._chosen
        return None if caller is None else caller.fetch(
            method, message, room, reply_bytes, timeout)

    async def call_many(
        self,
        method: Method[RequestT, ReplyT],
        asks: Sequence[Ask[RequestT, ReplyT]],
        *,
        timeout: float | None = None,
    ) -> list[ReplyT | FsError]:
        """As `RingCaller.call_many`, where `why_no_rings` says nothing."""
        assert self._rings is not None, "asked for before it was called"
        return await self._rings.call_many(method, asks, timeout=timeout)

    @property
    def reaches_memory(self) -> bool:
        """Whether the node is known to read and write our memory itself: it is on this machine."""
        return self._choice is not None and self._choice.transport == "shm"

    def why_no_rings(self) -> str:
        """Why the node does not take many requests at once; empty: it does."""
        if self._have_rings:
            return ""
        if not self.reaches_memory:
            return "not over shared memory"
        if self._rings is None or self._no_rings:
            return self._no_rings
        try:
            self._rings.probe()
            self._have_rings = True
        except FsError as failure:
            if failure.kind == Kind.UNAVAILABLE:  # that is the node, and not its rings
                return failure.message
            self._no_rings = failure.message
        return self._no_rings

    @property
    def choice(self) -> Choice | None:
        """What was found to be best; None: nothing yet."""
        return self._choice

    def choose(self) -> Choice:
        """Tries what there is. Raises FsError if the node is not reached."""
        began = time.monotonic()
        with self._guard:
            if self._choice is not None:
                return self._choice
            if self._failed is not None and self._failed[0] > began:
                # Others tried in vain while this thread waited: it need not do so after them.
                failure = self._failed[1]
                raise FsError(failure.kind, failure.message, failure.subject)
            try:
                self._choice = self._try_all()
            except FsError as failure:
                self._failed = time.monotonic(), failure
                raise
            return self._choice

    def _try_all(self) -> Choice:
        if self._wanted == "tcp":
            return Choice("tcp", "the configuration says transport = tcp")
        reasons = []
        if self._wanted != "rdma":
            why = self._try("shm", "not on this machine, or out of reach here")
            if not why:
                return Choice("shm", "")
            reasons.append(why)
        if self._wanted != "shm":
            why = self._try("rdma", "")
            if not why:
                reasons = reasons or ["the configuration says so"]
                if self._callers["rdma"].managed:
                    reasons.append("connected by rdma_cm")
                return Choice("rdma", "; ".join(reasons))
            reasons.append(why)
        if self._wanted != "auto":
            raise FsError(
                Kind.UNAVAILABLE,
                f"{reasons[0]}; the configuration says transport = {self._wanted}", str(self._tcp))
        self._tcp.probe()  # else it is the node that fails, and no transport
        return Choice("tcp", "; ".join(reasons))

    def _try(self, transport: Literal["shm", "rdma"], means: str) -> str:
        """Why a transport does not reach the node; empty: it does."""
        caller = self._callers.get(transport)
        if caller is None:
            return "the node announces no socket for callers on its machine"
        try:
            caller.probe()
        except FsError as failure:
            return f"{means}: {failure.message}" if means else failure.message
        return ""

    def probe(self) -> Choice:
        """Connects by the transport of its choice. Raises FsError when the node is not reached."""
        choice = self.choose()
        if choice.transport == "tcp":
            self._tcp.probe()
        return choice

    def sever(self) -> None:
        """Makes calls under way fail now (CONNECTION_LOST): the peer is known to be dead."""
        for caller in self._all():
            caller.sever()

    def close(self) -> None:
        """Closes idle connections now, and others when their call ends."""
        for caller in self._all():
            caller.close()

    def _all(self) -> list[BlockingCaller]:
        rings = [self._rings] if self._rings is not None else []
        return [*self._callers.values(), *rings]
