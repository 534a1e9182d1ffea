"""A manager's way to the key-value store, which can be cut, and what it may not do with it.

Layer: tests. A `StoreLink` is the world's store as one process reaches it. In the weather's cuts
the store is process 0. What goes into a cut waits until the way is open again, at most as long as
a transaction may live; then the process does not know what became of it: a commit whose answer was
cut off has happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from luciole.errors import FsError, Kind
from luciole.kv.interface import KeyValue, Transaction
from luciole.kv.retry import run_transaction
from luciole.kv.transaction import CommitRequest, OptimisticTransaction
from luciole.mgmtd import store as records
from luciole.proto import mgmtd_pb2
from luciole.tests.sim.disk import SimTransaction

if TYPE_CHECKING:
    from luciole.tests.sim.process import ManagerProcess

T = TypeVar("T")
STORE = 0  # its number in the weather's cuts
WAIT_SECONDS_MAX = 5.0
LOOK_S = 0.05


class StoreLink:
    """`KeyValueStore` of one manager."""

    def __init__(self, process: ManagerProcess) -> None:
        self._process = process
        self._world = process.world
        self._store = process.world.store

    def transaction(self) -> OptimisticTransaction:
        """Begins a transaction."""
        return _LinkedTransaction(self)

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """See KeyValueStore."""
        return await run_transaction(self._process.runtime, self.transaction, body)

    async def watch(self, key: bytes, seen: bytes | None, timeout: float) -> bytes | None:
        """See KeyValueStore. No manager watches, so cuts do not matter."""
        return await self._store.watch(key, seen, timeout)

    async def flush(self) -> None:
        """See KeyValueStore."""
        await self._store.flush()

    def close(self) -> None:
        """The store is the world's."""

    async def way(self, *, back: bool) -> None:
        """Passes one message to the store (or `back`). Raises FsError when it does not arrive."""
        number = self._process.number
        ends = (STORE, number) if back else (number, STORE)
        cut = self._world.wire.weather.cut
        deadline = trio.current_time() + WAIT_SECONDS_MAX
        while ends in cut:
            if trio.current_time() >= deadline:
                raise FsError(Kind.UNAVAILABLE, "the key-value store does not answer")
            await trio.sleep(LOOK_S)

    def submit(self, request: CommitRequest) -> None:
        """Commits, and sees that only the primary does, and that routing goes on."""
        world = self._world
        version = self._number(records.ROUTING_VERSION)
        self._store._commit(request)
        written = request.buffer.written(bytes(10))
        if any(not begin.startswith(records.PRIMARY) for begin, _ in written) and version:
            value = self._store.get(records.PRIMARY) or b"\0"
            lease = mgmtd_pb2.PrimaryLease.FromString(value[1:])
            if lease.released or lease.generation != self._process.primary._me.generation:
                world.violate(f"{self._process.name} commits, and node {lease.node_id} leads")
        after = self._number(records.ROUTING_VERSION)
        if after < version:
            world.violate(f"routing goes back from version {version} to {after}")

    def _number(self, key: bytes) -> int:
        return int.from_bytes(self._store.get(key) or b"", "little")


class _LinkedTransaction(SimTransaction):
    """Every step is a message there and an answer back."""

    def __init__(self, link: StoreLink) -> None:
        store = link._store
        super().__init__(store._runtime.clock, store._open_snapshot, link.submit)
        self._link = link

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """See Transaction."""
        await self._link.way(back=False)
        value = await super().get(key, snapshot=snapshot)
        await self._link.way(back=True)
        return value

    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """See Transaction."""
        await self._link.way(back=False)
        found = await super().get_range(
            begin, end, limit=limit, reverse=reverse, snapshot=snapshot)
        await self._link.way(back=True)
        return found

    async def commit(self) -> None:
        """See Transaction. Without an answer nobody knows what happened."""
        try:
            await self._link.way(back=False)
        except FsError as failure:
            raise FsError(Kind.KV_MAYBE_COMMITTED, "no answer; it was not") from failure
        await super().commit()
        try:
            await self._link.way(back=True)
        except FsError as failure:
            raise FsError(Kind.KV_MAYBE_COMMITTED, "no answer; it was") from failure
