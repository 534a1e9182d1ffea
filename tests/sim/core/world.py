"""A world of cores, and what goes wrong in it: a pure function of a seed.

Layer: tests. Three managers, six replicas in two chains (placement.py), clients that write and
read; crashes, cuts, loss, repeats and stragglers come from the seed. When the faults are over,
every target must serve again and all replicas of a chain must hold the same.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from luciole.mgmtd.core.placement import place_chains
from luciole.proto import mgmtd_pb2
from luciole.routing import serving_targets
from luciole.tests.sim.core.heap import Call, Heap, Machine, Waits, Weather
from luciole.tests.sim.core.judge import BrokenError, Judge
from luciole.tests.sim.core.managers import STORE, ManagerMachine, Store
from luciole.tests.sim.core.replicas import REPLACE, WRITE, ReplicaMachine, Update

MANAGERS = [1, 2, 3]
NODES = 6
REPLICAS = 3
CHUNKS = 4  # of each chain
CLIENTS = 6
FAULTS_S = 60.0
HEAL_S = 90.0
ATTEMPTS = 25  # clients are patient: repeats that outlive a change of the head find most
CALL_S = 1.0


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    failure: str = ""
    digest: str = ""
    events: int = 0
    acknowledged: int = 0
    reads: int = 0
    seconds: float = 0.0


class ClientMachine(Machine):
    """Writes and reads chunks, one thing at a time."""

    def __init__(self, core: CoreWorld, number: int) -> None:
        super().__init__(core.heap, number, 1.0)
        self._core = core
        self._sequence = 0
        self.chance = random.Random(core.heap.chance.random())

    def start(self) -> None:
        """Begins."""
        super().start()
        self.spawn(self._work())

    def _work(self) -> Waits:
        chance = self.chance
        while True:
            chunk = chance.randrange(len(self._core.chain_of))
            if chance.random() < 0.5:
                kind = WRITE if chance.random() < 0.8 else REPLACE
                yield from self.write(chunk, kind, ATTEMPTS)
            else:
                yield from self._read(chunk)
            yield 0.005 * chance.random()

    def write(self, chunk: int, kind: int, attempts: int) -> Waits:
        """One update, tried again until it is answered or the client gives up."""
        self._sequence += 1
        operation = self.number, self._sequence
        for _ in range(attempts):
            chain = self._core.chain(chunk)
            serving = serving_targets(chain)
            if serving:
                update = Update(chunk, chain.version, kind, operation)
                reply = yield Call(serving[0], "write", update, CALL_S)
                if reply is not None:
                    self._core.judge.acknowledge(chunk, reply[0], operation)
                    self._core.check_chain(chain.chain_id)
                    return True
            yield 0.1
        return False

    def _read(self, chunk: int) -> Waits:
        floor = self._core.judge.floor[chunk]
        chain = self._core.chain(chunk)
        serving = serving_targets(chain)
        if serving:
            target = self.chance.choice(serving)
            reply = yield Call(target, "read", (chunk, chain.version), CALL_S)
            if reply is not None:
                self._core.judge.read(chunk, reply[0], floor)


class CoreWorld:
    """The machines, their chains and the judge."""

    def __init__(self, seed: int) -> None:
        self.heap = Heap(random.Random(seed))
        chance = self.heap.chance
        nodes = range(10, 10 + NODES)
        placed = place_chains(
            {node: [node] for node in nodes}, REPLICAS, allow_shared_nodes=False)
        chains = {chain.chain_id: chain for chain in placed}
        self.chain_of = [chain.chain_id for chain in placed for _ in range(CHUNKS)]
        self.judge = Judge(len(self.chain_of))
        self.store = Store(self.heap, chains)
        self.managers = [
            ManagerMachine(self.heap, number, chance.uniform(0.95, 1.05)) for number in MANAGERS]
        self.replicas: dict[int, ReplicaMachine] = {}
        for chain in placed:
            own = [chunk for chunk, of in enumerate(self.chain_of) if of == chain.chain_id]
            for target in chain.preferred_order:
                self.replicas[target] = ReplicaMachine(
                    self.heap, target, chance.uniform(0.95, 1.05), judge=self.judge, chain=chain,
                    chunks=own, managers=MANAGERS)
        self.clients = [ClientMachine(self, 50 + number) for number in range(CLIENTS)]
        everybody: list[Machine] = [
            self.store, *self.managers, *self.replicas.values(), *self.clients]
        self.heap.machines = {machine.number: machine for machine in everybody}
        self._known: dict[int, mgmtd_pb2.Chain] = dict(chains)

    def chain(self, chunk: int) -> mgmtd_pb2.Chain:
        """The chunk's chain, as it is stored now: a client would ask until it knew."""
        return self.store.chains[self.chain_of[chunk]]

    def check_chain(self, chain_id: int) -> None:
        """A serving target has every acknowledged update; at least one may go on."""
        chain = self.store.chains[chain_id]
        states = {member.state for member in chain.targets}
        if not states & {mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING}:
            raise BrokenError(f"nobody of chain {chain_id} may serve again: {chain}")
        for member in chain.targets:
            if member.state not in {mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING}:
                continue
            for chunk, disk in self.replicas[member.target_id].disk.items():
                floor = self.judge.floor[chunk]
                held = [disk.committed, *([disk.pending] if disk.pending else [])]
                if not any(self.judge.covers(content, floor) for content in held):
                    raise BrokenError(f"target {member.target_id} serves and lacks content "
                                      f"{floor} of chunk {chunk}, it has {held}")

    def check_fences(self) -> None:
        """Who lost its part in a chain answers nobody any more that does not know of it."""
        for chain_id, chain in self.store.chains.items():
            before = self._known[chain_id]
            if before is chain:
                continue
            self.check_chain(chain_id)
            served = set(serving_targets(before)) - set(serving_targets(chain))
            for target in served:
                machine = self.replicas[target]
                if machine.up and not machine.fenced() and machine.part() == mgmtd_pb2.SERVING:
                    raise BrokenError(f"target {target} was replaced in chain {chain_id} and "
                                      f"answers until {machine.fenced_at:.3f} of its clock")
            self._known[chain_id] = chain

    def nemesis(self) -> None:
        """One fault, and when the next comes."""
        heap, chance = self.heap, self.heap.chance
        what = chance.choice(["kill", "kill", "manager", "cut", "one-way", "store"])
        pause = chance.choice([0.2, 1.0, 3.0, 8.0]) * (0.5 + chance.random())
        machines: list[Machine] = [*self.managers, *self.replicas.values()]
        if what in {"kill", "manager"}:
            pool: list[Machine] = (
                list(self.replicas.values()) if what == "kill" else list(self.managers))
            self._kill(chance.choice(pool), pause)
        else:
            number = chance.choice(machines).number
            others = [STORE] if what == "store" else [
                machine.number for machine in [*machines, *self.clients]
                if machine.number != number and chance.random() < 0.6]
            ways = {(number, other) for other in others}
            if what != "one-way":
                ways |= {(other, number) for other in others}
            heap.weather.cut |= ways
            heap.at(pause, lambda: heap.weather.cut.difference_update(ways))
        if heap.now < FAULTS_S:
            heap.at(chance.expovariate(0.7), self.nemesis)

    def _kill(self, machine: Machine, pause: float) -> None:
        if machine.up:
            machine.crash()
            self.heap.at(pause, lambda: None if machine.up else machine.start())

    def run(self) -> None:
        """From the first event to the last check. Raises BrokenError."""
        heap = self.heap
        for machine in heap.machines.values():
            if not machine.up:
                machine.start()
        heap.run(8.0)
        heap.weather = Weather(straggle=0.01, loss=0.02, repeat=0.02)
        heap.at(0.0, self.nemesis)
        while heap.now < FAULTS_S:
            heap.run(heap.now + 0.05)
            self.check_fences()
        heap.weather = Weather()
        for machine in heap.machines.values():
            if not machine.up:
                machine.start()
        self._heal()

    def _heal(self) -> None:
        heap = self.heap
        for client in self.clients:
            client.crash()
        deadline = heap.now + HEAL_S
        while not self._all_serve():
            if heap.now > deadline:
                raise BrokenError(f"the chains do not heal: {self.store.chains}")
            heap.run(heap.now + 0.5)
            self.check_fences()
        last = self.clients[0]
        last.up = True
        written: list[bool] = []

        def write_all() -> Waits:
            for chunk in range(len(self.chain_of)):
                written.append((yield from last.write(chunk, WRITE, 50)))

        last.spawn(write_all())
        heap.run(heap.now + HEAL_S)
        if len(written) != len(self.chain_of) or not all(written):
            raise BrokenError("chunks of a healed world cannot be written")
        self._compare()

    def _all_serve(self) -> bool:
        return all(
            member.state == mgmtd_pb2.SERVING
            for chain in self.store.chains.values() for member in chain.targets)

    def _compare(self) -> None:
        """All replicas are alike."""
        for chunk, chain_id in enumerate(self.chain_of):
            members = [member.target_id for member in self.store.chains[chain_id].targets]
            held = [self.replicas[target].disk[chunk] for target in members]
            if any(disk.state != held[0].state or disk.committed != held[0].committed
                   or disk.state is None or disk.state.pending is not None for disk in held):
                raise BrokenError(f"chunk {chunk} differs among {members}: {held}")


def run_core(seed: int) -> Outcome:
    """Runs a seed. Never raises for what happens within."""
    outcome = Outcome(seed)
    began = time.monotonic()
    world = CoreWorld(seed)
    try:
        world.run()
    except AssertionError as failure:
        outcome.failure = f"at {world.heap.now:.4f}: {failure or failure!r}"
    outcome.digest = f"{world.heap.digest:08x}"
    outcome.events = world.heap.events
    outcome.acknowledged, outcome.reads = world.judge.acknowledged, world.judge.reads
    outcome.seconds = time.monotonic() - began
    return outcome
