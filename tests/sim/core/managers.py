"""The store and the managers, around core/lease.py and core/chain_table.py.

Layer: tests. As mgmtd/primary.py and mgmtd/service.py do it: a step of the election is one
transaction; a decision about chains commits only under the lease of its term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luciole.mgmtd.core.chain_table import next_chain
from luciole.mgmtd.core.lease import Step, Watch, after_step, decide, held_until, observe
from luciole.proto import mgmtd_pb2
from luciole.tests.sim.core.heap import Call, Heap, Machine, Waits
from luciole.tests.sim.core.judge import BrokenError

STORE = 0
LEASE_S = 4.0  # of nodes
PRIMARY_LEASE_S = 2.0
TICK_S = 0.3
Chains = dict[int, mgmtd_pb2.Chain]
Reports = dict[int, tuple[mgmtd_pb2.LocalState, int]]  # target -> local state, chain version


@dataclass(slots=True)
class Beat:
    """A heartbeat."""

    target: int
    state: mgmtd_pb2.LocalState
    chain_version: int
    known: int  # version of routing


class Store(Machine):
    """The key-value store: the lease and the chains. Never fails; the way to it does."""

    def __init__(self, world: Heap, chains: Chains) -> None:
        super().__init__(world, STORE, 1.0)
        self.lease: mgmtd_pb2.PrimaryLease | None = None
        self.chains = chains
        self.version = 1
        self.handlers = {"step": self._step, "commit": self._commit}
        self.start()

    def _step(
        self, body: tuple[mgmtd_pb2.PrimaryLease, Watch, float]
    ) -> Waits:
        yield from ()  # a generator that does not wait
        me, watch, began = body
        step = decide(me, self.lease, watch, began, PRIMARY_LEASE_S)
        if step is not Step.WAIT:
            self.lease = after_step(me, self.lease, step)
        return (step, self.lease, self.version, self.chains)

    def _commit(self, body: tuple[int, int, int, Sequence[mgmtd_pb2.Chain]]) -> Waits:
        """What was decided about a version of routing becomes the next, if the lease holds."""
        yield from ()  # a generator that does not wait
        generation, epoch, version, chains = body
        lease = self.lease
        if lease is None or (lease.generation, lease.epoch, self.version) != (
                generation, epoch, version):
            return False
        self.chains = self.chains | {chain.chain_id: chain for chain in chains}
        self.version += 1
        return (self.version, self.chains)


class ManagerMachine(Machine):
    """One manager."""

    def __init__(self, world: Heap, number: int, rate: float) -> None:
        super().__init__(world, number, rate)
        self.handlers = {"beat": self._beat}
        self.until = -math.inf

    def start(self) -> None:
        """Begins without memory."""
        super().start()
        self.me = mgmtd_pb2.PrimaryLease(
            node_id=self.number, generation=self.life, address=f"sim:{self.number}")
        self.me.generation = self.number * 1_000_000 + self.life
        self.watch = Watch()
        self.until = -math.inf
        self.epoch = 0
        self.version = 0
        self.chains: Chains = {}
        self.heard: dict[int, tuple[float, Beat]] = {}
        self.grown_up = math.inf
        self.deciding = False
        self.spawn(self._campaign())
        self.spawn(self._tick())

    @property
    def leads(self) -> bool:
        """Whether it believes that it is the primary."""
        return self.up and self.clock() < self.until

    def _campaign(self) -> Waits:
        while True:
            began = self.clock()
            led = self.leads
            reply = yield Call(STORE, "step", (self.me, self.watch, began), 1.0)
            if reply is not None:
                step, record, version, chains = reply
                self.watch = observe(self.watch, record, self.clock())
                if step is Step.WAIT:
                    self.until = -math.inf
                elif not self.deciding:
                    if not led or record.epoch != self.epoch:
                        self.epoch = record.epoch
                        self.version, self.chains = version, chains
                        self.heard = {}
                        self.grown_up = self.clock() + LEASE_S
                    self.until = held_until(began, PRIMARY_LEASE_S)
                    self._alone()
            yield PRIMARY_LEASE_S / 6

    def _alone(self) -> None:
        for other in self.world.machines.values():
            if isinstance(other, ManagerMachine) and other is not self \
                    and other.leads and self.leads:
                raise BrokenError(f"managers {self.number} and {other.number} both lead")

    def _beat(self, beat: Beat) -> Waits:
        yield from ()  # a generator that does not wait
        if not self.leads or self.deciding:
            return False
        self.heard[beat.target] = self.clock(), beat
        news = self.chains if beat.known != self.version else None
        return (self.version, news)

    def _tick(self) -> Waits:
        while True:
            yield TICK_S
            if not self.leads:
                continue
            version, epoch = self.version, self.epoch
            changed = [
                after for before in self.chains.values()
                if (after := next_chain(before, self._reports(before))) is not before]
            if not changed:
                continue
            # Until it is known what became of the decision, nobody's lease is prolonged and no
            # new term begins: mgmtd's lock. A repeat finds out, since it names the version.
            self.deciding = True
            reply = None
            while reply is None:
                body = self.me.generation, epoch, version, changed
                reply = yield Call(STORE, "commit", body, 1.0)
            self.deciding = False
            if reply and self.leads:
                self.version, self.chains = reply
            else:
                self.until = -math.inf  # the next term reads what is stored

    def _reports(self, chain: mgmtd_pb2.Chain) -> dict[int, mgmtd_pb2.LocalState]:
        now = self.clock()
        found = {}
        for member in chain.targets:
            heard = self.heard.get(member.target_id)
            if heard is None:
                part = member.state in {mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING}
                if now < self.grown_up and part:
                    found[member.target_id] = mgmtd_pb2.LOCAL_ONLINE
            elif now < heard[0] + LEASE_S:
                state = heard[1].state
                if state == mgmtd_pb2.LOCAL_UP_TO_DATE \
                        and heard[1].chain_version != chain.version:
                    state = mgmtd_pb2.LOCAL_ONLINE
                found[member.target_id] = state
        return found
