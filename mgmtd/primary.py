"""This manager's part in the election of the primary, and the proof of it in every transaction.

Layer: shell around core/lease.py. `step` runs in a loop several times within the lease time.
A `Term` is a time of leading without a break: whoever keeps something in memory for a term starts
anew with the next, also when this manager lost touch with the store and came back.

State is written by the loop alone and read by all threads; each field is replaced whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luciole.errors import FsError, Kind
from luciole.kv.interface import KeyValueStore, Transaction
from luciole.log import get_logger
from luciole.mgmtd import store
from luciole.mgmtd.core.lease import Step, Watch, after_step, decide, held_until, observe
from luciole.proto import mgmtd_pb2
from luciole.runtime import Runtime

log = get_logger("mgmtd")


@dataclass(frozen=True, eq=False)
class Term:
    """A time of leading without a break."""

    epoch: int
    cold: bool  # nobody was seen to lead just before


class Primary:
    """Whether this process is the primary manager."""

    def __init__(
        self, kv: KeyValueStore, runtime: Runtime, *, node_id: int, lease_seconds: float,
        address: str = "",
    ) -> None:
        self._kv = kv
        self._runtime = runtime
        self._lease = lease_seconds
        self._me = mgmtd_pb2.PrimaryLease(
            node_id=node_id, address=address,
            generation=int.from_bytes(runtime.entropy.token(7), "little"))
        self._watch = Watch()
        self._until = -math.inf
        self._rests_until = -math.inf
        self._term: Term | None = None

    def listens_at(self, address: str) -> None:
        """Names the "host:port" at which this process listens, before the first step."""
        self._me.address = address

    @property
    def record(self) -> mgmtd_pb2.PrimaryLease:
        """The lease as it was seen last."""
        return self._watch.record or mgmtd_pb2.PrimaryLease()

    @property
    def term(self) -> Term | None:
        """The term while this manager may act as the primary, otherwise None."""
        return self._term if self._runtime.clock.now() < self._until else None

    def refusal(self) -> FsError:
        """The answer to everybody while another leads; its subject is where that one listens."""
        record = self.record
        other = "" if record.generation == self._me.generation or record.released \
            else record.address
        told = "ask the one named here" if other else "none is elected yet: try again"
        return FsError(Kind.NOT_PRIMARY, f"this manager is not the primary; {told}", other)

    async def step(self) -> None:
        """Looks at the lease, and renews or takes it. Raises FsError of the store."""
        began = self._runtime.clock.now()
        if began < self._rests_until:
            return
        watch = self._watch

        async def body(
            txn: Transaction,
        ) -> tuple[Step, mgmtd_pb2.PrimaryLease | None]:
            record = await store.get_primary(txn)
            step = decide(self._me, record, watch, began, self._lease)
            if step is not Step.WAIT:
                record = after_step(self._me, record, step)
                store.put_primary(txn, record)
            return step, record

        step, record = await self._kv.run(body)
        led = self.term
        self._watch = observe(watch, record, self._runtime.clock.now())
        if step is Step.WAIT:
            self._until = -math.inf
            return
        if led is None or led.epoch != self.record.epoch:
            self._term = Term(self.record.epoch, cold=step is Step.CLAIM)
            log.info("primary", epoch=self.record.epoch, how=step.value)
        self._until = held_until(began, self._lease)

    async def validate(self, txn: Transaction, term: Term) -> None:
        """Ties a transaction to the lease: it commits only if it still is that term's.

        Raises FsError NOT_PRIMARY.
        """
        record = await store.get_primary(txn)
        if record is None or record.released or record.generation != self._me.generation \
                or record.epoch != term.epoch:
            raise self.refusal()

    async def step_aside(self) -> None:
        """Gives the lease up and lets the others be first: one that nobody reaches is no use."""
        await self.release()
        self._rests_until = self._runtime.clock.now() + self._lease

    async def release(self) -> None:
        """Gives the lease up, so that another need not wait for its end."""
        self._until = -math.inf

        async def body(txn: Transaction) -> None:
            record = await store.get_primary(txn)
            if record is not None and record.generation == self._me.generation:
                record.released = True
                store.put_primary(txn, record)

        await self._kv.run(body)
