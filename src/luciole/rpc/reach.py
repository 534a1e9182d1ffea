"""Which transport reaches a node: shared memory if it is on this machine, else TCP, and why.

Layer: shell. Decided at the first call to a node and kept: a node that starts anew is announced
under another name, and gets a caller of its own. Best first; what a better one lacked is told by
`luciole doctor`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from luciole.errors import FsError, Kind
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc.tcp_client import BlockingCaller

Transport = Literal["auto", "shm", "tcp"]


class Choice(NamedTuple):
    """The transport to a node."""

    transport: Literal["shm", "tcp"]
    why: str  # not a better one; empty: there is none


class NodeCaller:
    """Calls one node from any thread; its coroutines never suspend (runtime.drive).

    Args:
        address: of the node, over TCP.
        local: its abstract Unix socket, as the routing tells it; empty: it has none.
        transport: "auto": the best; "shm" or "tcp": this one or an error.
        cluster_id, name: as for `BlockingCaller`.
        make: what makes the callers under it.
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
    ) -> None:
        self._tcp = make(address, cluster_id=cluster_id, name=name)
        self._shared = make("\0" + local, cluster_id=cluster_id, name=name) if local else None
        self._wanted = transport
        self._guard = threading.Lock()
        self._choice: Choice | None = None
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
            caller = self._shared if self.choose().transport == "shm" else self._tcp
            assert caller is not None
            self._chosen = caller
        return await caller.call(
            method, request, timeout=timeout, payload=payload, sink=sink, into=into
        )

    def choose(self) -> Choice:
        """Tries what there is. Raises FsError when only shared memory will do and it does not."""
        with self._guard:
            if self._choice is None:
                self._choice = self._try_shared()
            return self._choice

    def _try_shared(self) -> Choice:
        if self._wanted == "tcp":
            return Choice("tcp", "the configuration says transport = tcp")
        why = "the node announces no socket for callers on its machine"
        if self._shared is not None:
            try:
                self._shared.probe()
            except FsError as failure:
                why = f"not on this machine, or out of reach here: {failure.message}"
            else:
                return Choice("shm", "")
        if self._wanted == "shm":
            raise FsError(
                Kind.UNAVAILABLE, f"{why}; the configuration says transport = shm", str(self._tcp)
            )
        return Choice("tcp", why)

    def probe(self) -> Choice:
        """Connects by the transport of its choice. Raises FsError when the node is not reached."""
        choice = self.choose()
        if choice.transport == "tcp":
            self._tcp.probe()
        return choice

    def sever(self) -> None:
        """Makes calls under way fail now (CONNECTION_LOST): the peer is known to be dead."""
        self._tcp.sever()
        if self._shared is not None:
            self._shared.sever()

    def close(self) -> None:
        """Closes idle connections now, and others when their call ends."""
        self._tcp.close()
        if self._shared is not None:
            self._shared.close()
