"""Replicas around storage/core/replica.py: stage, pass on, commit, settle, bring up to date.

Layer: tests. The order of steps is that of storage/chain.py, resync.py and targets.py; the rules
that decide are the real ones. Each machine has one target, whose id is the machine's number. The
disk survives a crash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.routing import serving_targets, successor
from luciole.storage.core.replica import (
    EPOCH_SHIFT,
    Fate,
    Judgement,
    Links,
    carries_all,
    fate_of,
    holds_version,
    judge,
    needs_tail,
    next_version,
    reads_pending,
)
from luciole.storage.engine.interface import ChunkState, Tag, Version
from luciole.tests.sim.core.heap import Call, Heap, Machine, Waits
from luciole.tests.sim.core.judge import Judge, Operation
from luciole.tests.sim.core.managers import LEASE_S, Beat

HEARTBEAT_S = 0.7
RESYNC_S = 0.5
CALL_S = 0.6
DISK_S = 0.0002
WRITE, REPLACE = storage_pb2.WRITE, storage_pb2.REPLACE
SERVING, SYNCING = mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING
WRITTEN = {SERVING, SYNCING}


@dataclass(slots=True)
class Update:
    """An update under way down a chain."""

    chunk: int
    chain_version: int
    kind: int
    operation: Operation
    version: int = 0
    base: int = 0
    content: int = 0  # of a REPLACE: what the chunk becomes
    syncing: bool = False
    link: int = 0


@dataclass(slots=True)
class Disk:
    """What one replica holds of a chunk: the engine's state, and the contents."""

    state: ChunkState | None = None
    committed: int = 0
    pending: int = 0


class ReplicaMachine(Machine):
    """A storage machine with one target."""

    tells_tags = True  # which updates it knows, to whom it brings up to date

    def __init__(
        self, world: Heap, number: int, rate: float, *, judge: Judge, chain: mgmtd_pb2.Chain,
        chunks: list[int], managers: list[int],
    ) -> None:
        super().__init__(world, number, rate)
        self.judge = judge
        self.chain = chain
        self.managers = managers
        self.disk = {chunk: Disk() for chunk in chunks}
        self.applied: dict[int, tuple[int, int]] = {}  # client -> sequence, content
        self.fenced_at = -math.inf
        self.handlers = {
            "write": self._write, "forward": self._forward, "read": self._read,
            "query": self._query, "pending": self._pending, "synced": self._synced}

    def start(self) -> None:
        """Comes up with its disk, and with the routing that it saw last."""
        super().start()
        self.fenced_at = -math.inf
        self.version = 0
        self.local = mgmtd_pb2.LOCAL_ONLINE
        self.links = Links()
        self.link = int(self.clock() * 1e6)
        self.chain = mgmtd_pb2.Chain(chain_id=self.chain.chain_id)
        self.spawn(self._heartbeat())
        self.spawn(self._resync())

    def fenced(self) -> bool:
        """Whether it may not answer."""
        return self.clock() >= self.fenced_at

    def part(self) -> mgmtd_pb2.PublicState:
        """Its public state, as far as it knows."""
        for member in self.chain.targets:
            if member.target_id == self.number:
                return member.state
        return mgmtd_pb2.OFFLINE

    def _heartbeat(self) -> Waits:
        turn = 0
        while True:
            sent = self.clock()
            beat = Beat(self.number, self.local, self.chain.version, self.version)
            receiver = self.managers[turn % len(self.managers)]
            reply = yield Call(receiver, "beat", beat, CALL_S)
            if reply:
                self.fenced_at = max(self.fenced_at, sent + LEASE_S / 2)
                version, chains = reply
                if chains is not None and version > self.version:
                    self.version = version
                    self._observe(chains[self.chain.chain_id])
                    continue  # what follows from it, the manager hears at once
                yield HEARTBEAT_S
            else:
                turn += 1
                yield 0.05

    def _observe(self, chain: mgmtd_pb2.Chain) -> None:
        news = chain.version != self.chain.version
        self.chain = chain
        state = self.part()
        if state in {SERVING, mgmtd_pb2.LAST_SERVING}:
            self.local = mgmtd_pb2.LOCAL_UP_TO_DATE
        elif state != SYNCING or news:
            self.local = mgmtd_pb2.LOCAL_ONLINE

    def _current(self, chain_version: int) -> bool:
        return self.chain.version == chain_version and self.part() in WRITTEN

    # Writes.

    def _write(self, update: Update) -> Waits:
        """The head's part. Returns the content that the operation is in, None without an answer."""
        answer = yield from self.locked(update.chunk, self._ordered(update))
        return None if self.fenced() else answer

    def _ordered(self, update: Update) -> Waits:
        disk = self.disk[update.chunk]
        serving = serving_targets(self.chain)
        if self.fenced() or not self._current(update.chain_version) \
                or serving[:1] != [self.number]:
            return None
        if disk.state is not None and disk.state.pending is not None:
            settled = yield from self._settle(update.chunk)
            if not settled:
                return None
        client, sequence = update.operation
        known = self.applied.get(client)
        if known is not None and known[0] >= sequence:
            return (known[1],) if known[0] == sequence else None
        committed = disk.state.committed if disk.state else None
        update.base = committed.number if committed else 0
        update.version = next_version(update.base, 0, self.chain.version)
        update.content = self.judge.content(disk.committed, update.operation)
        done = yield from self._apply(update)
        return (self.disk[update.chunk].committed,) if done else None

    def _settle(self, chunk: int) -> Waits:
        """Sends a pending version of unknown fate down again, whole."""
        disk = self.disk[chunk]
        assert disk.state is not None
        assert disk.state.pending is not None
        tag = disk.state.pending.tag
        assert tag is not None
        update = Update(
            chunk, self.chain.version, REPLACE, (tag.channel, tag.sequence),
            disk.state.pending.number, 0, disk.pending)
        passed = yield from self._pass_on(update)
        if passed:
            self._commit(chunk, update.version)
        return passed

    def _apply(self, update: Update) -> Waits:
        disk = self.disk[update.chunk]
        yield DISK_S
        if not self._current(update.chain_version):
            return False
        client, sequence = update.operation
        pending = Version(update.version, 1, tag=Tag(b"c", client, sequence))
        committed = disk.state.committed if disk.state else None
        disk.state = ChunkState(b"", committed, pending)
        disk.pending = update.content
        passed = yield from self._pass_on(update)
        if passed:
            yield DISK_S
            self._commit(update.chunk, update.version)
        return passed

    def _commit(self, chunk: int, number: int) -> None:
        disk = self.disk[chunk]
        assert disk.state is not None
        pending = disk.state.pending
        if pending is None or pending.number != number:
            return
        self.judge.committed(chunk, number, disk.pending)
        disk.state = ChunkState(b"", pending, None)
        disk.committed = disk.pending
        assert pending.tag is not None
        known = self.applied.get(pending.tag.channel)
        if known is None or known[0] <= pending.tag.sequence:
            self.applied[pending.tag.channel] = pending.tag.sequence, disk.committed

    def _pass_on(self, update: Update) -> Waits:
        """Until the successor has it, or the chain changes, or time is up."""
        deadline = self.clock() + 3 * CALL_S
        while self._current(update.chain_version) and self.clock() < deadline:
            follower = successor(self.chain, self.number)
            if follower is None:
                return True
            target, syncing = follower
            kind = REPLACE if syncing else update.kind
            while True:
                message = Update(
                    update.chunk, update.chain_version, kind, update.operation, update.version,
                    update.base, update.content, syncing)
                reply = yield from self._send(target, message)
                if reply != "disagree" or kind == REPLACE:
                    break
                kind = REPLACE
            if reply == "done" and self._current(update.chain_version):
                return True
            yield 0.05
        return False

    def _send(self, target: int, message: Update) -> Waits:
        """One message; without an answer its link is given up."""
        message.link = self.link
        reply = yield Call(target, "forward", message, CALL_S)
        if reply is None:
            self.link = max(self.link, message.link + 1)
        elif isinstance(reply, int):
            self.link = max(self.link, reply + 1)
            return None
        return reply

    def _forward(self, update: Update) -> Waits:
        """A successor's part."""
        if self._current(update.chain_version):
            self.links = self.links.seen(update.chain_version, update.link)
            if self.links.overtaken(update.chain_version, update.link):
                return self.links.newest
        return (yield from self.locked(update.chunk, self._accept(update)))

    def _accept(self, update: Update) -> Waits:
        if not self._current(update.chain_version) \
                or self.links.overtaken(update.chain_version, update.link):
            return None
        disk = self.disk[update.chunk]
        request = storage_pb2.ForwardRequest(
            io=storage_pb2.WriteIO(kind=update.kind), version=update.version,  # type: ignore[arg-type]
            base_version=update.base, syncing=update.syncing)
        client, sequence = update.operation
        judgement = judge(disk.state, request, Tag(b"c", client, sequence))
        if judgement is Judgement.DISAGREE:
            return "disagree"
        if judgement is Judgement.APPLY:
            if not carries_all(update.kind):
                update.content = self.judge.content(disk.committed, update.operation)
            done = yield from self._apply(update)
            if not done:
                return None
        return "done"

    # Reads.

    def _read(self, body: tuple[int, int]) -> Waits:
        chunk, chain_version = body
        if self.fenced() or self.chain.version != chain_version or self.part() != SERVING:
            return None
        disk = self.disk[chunk]
        state, content = disk.state, disk.committed
        if state is not None and state.pending is not None:
            content = yield from self._resolve(chunk, state)
            if content is None:
                return None
        yield DISK_S
        return None if self.fenced() else (content,)

    def _resolve(self, chunk: int, state: ChunkState) -> Waits:
        """CRAQ's dirty read: the tail knows which version is committed."""
        disk = self.disk[chunk]
        committed, pending = disk.committed, disk.pending
        tail = serving_targets(self.chain)[-1]
        if not needs_tail(state, tail == self.number):
            return committed if self.chain.version == 0 else (yield from self._settle_tail(chunk))
        number = yield Call(tail, "query", (chunk, self.chain.version), CALL_S)
        if number is None:
            return None
        if reads_pending(state, number[0]):
            return pending
        older = state.committed.number if state.committed else 0
        return committed if older == number[0] else None

    def _query(self, body: tuple[int, int]) -> Waits:
        chunk, chain_version = body
        if self.fenced() or self.chain.version != chain_version \
                or serving_targets(self.chain)[-1:] != [self.number]:
            return None
        state = self.disk[chunk].state
        if state is not None and state.pending is not None:
            settled = yield from self._settle_tail(chunk)
            if settled is None:
                return None
        state = self.disk[chunk].state
        number = state.committed.number if state and state.committed else 0
        return None if self.fenced() else (number,)

    def _settle_tail(self, chunk: int) -> Waits:
        """A tail commits what it staged before it was one, if the head has it as well."""
        chain = self.chain
        pending = self.disk[chunk].state.pending  # type: ignore[union-attr]
        if pending is None:
            return self.disk[chunk].committed
        if successor(chain, self.number) and pending.number >> EPOCH_SHIFT >= chain.version:
            return self.disk[chunk].committed  # nobody has seen it: its writer is at it
        return (yield from self.locked(chunk, self._settle_as_tail(chunk, chain)))

    def _settle_as_tail(self, chunk: int, chain: mgmtd_pb2.Chain) -> Waits:
        disk = self.disk[chunk]
        if not self._current(chain.version):
            return None
        pending = disk.state.pending if disk.state else None
        if pending is None:
            return disk.committed
        head = serving_targets(chain)[0]
        if head != self.number and pending.number >> EPOCH_SHIFT < chain.version:
            known = yield Call(head, "pending", (chunk, chain.version), CALL_S)
            if known is None or not self._current(chain.version):
                return None
            if fate_of(pending.number, known[0], chain.version) is Fate.VOID:
                return disk.committed
            complete = yield from self._all_before_have(chunk, chain, pending.number)
            if not complete or not self._current(chain.version):
                return None
        if successor(chain, self.number) is None:
            self._commit(chunk, pending.number)
        else:
            settled = yield from self._settle(chunk)
            if not settled:
                return None
        return disk.committed

    def _all_before_have(self, chunk: int, chain: mgmtd_pb2.Chain, number: int) -> Waits:
        """Members have changed places: one before the tail may lack what it holds."""
        serving = serving_targets(chain)
        for member in serving[1 : serving.index(self.number)]:
            known = yield Call(member, "pending", (chunk, chain.version), CALL_S)
            if known is None or known[0] is None or not holds_version(known[0], number):
                return False
        return True

    def _pending(self, body: tuple[int, int]) -> Waits:
        """What it has of a chunk, as the head of that chain: another may still be sent updates."""
        yield from ()  # a generator that does not wait
        if self.chain.version != body[1]:
            return None
        return (self.disk[body[0]].state,)

    # Bringing others up to date.

    def _resync(self) -> Waits:
        """The last serving target sends all that it has to the syncing one; a head settles."""
        while True:
            yield RESYNC_S
            chain = self.chain
            serving = serving_targets(chain)
            if self.number in serving:
                yield from self._sweep(chain.version)
            syncing = [member.target_id for member in chain.targets if member.state == SYNCING]
            if serving[-1:] == [self.number] and syncing and not self.fenced():
                yield from self._walk(chain.version, syncing[0])

    def _sweep(self, chain_version: int) -> Waits:
        for chunk, disk in self.disk.items():
            if disk.state is not None and disk.state.pending is not None:
                yield from self.locked(chunk, self._sweep_one(chunk, chain_version))

    def _sweep_one(self, chunk: int, chain_version: int) -> Waits:
        """As storage/settling.py: the head settles, others ask it what became of the update."""
        disk = self.disk[chunk]
        if not self._current(chain_version) or disk.state is None or disk.state.pending is None:
            return
        head = serving_targets(self.chain)[0]
        if head == self.number:
            yield from self._settle(chunk)
            return
        number = disk.state.pending.number
        known = yield Call(head, "pending", (chunk, chain_version), CALL_S)
        if known is None or not self._current(chain_version):
            return
        fate = fate_of(number, known[0], chain_version)
        if fate is Fate.DONE:
            self._commit(chunk, number)
        elif fate is Fate.VOID:
            disk.state = ChunkState(b"", disk.state.committed, None)

    def _walk(self, chain_version: int, follower: int) -> Waits:
        life = None
        for chunk in self.disk:
            sent = yield from self.locked(chunk, self._send_one(chunk, chain_version, follower))
            if not sent:
                return
            now = self.world.machines[follower].life
            if life not in {None, now}:
                return  # it started anew: what it was sent before may be of another life
            life = now
        tags = self.applied if self.tells_tags else {}
        yield Call(follower, "synced", (chain_version, life, tags), CALL_S)

    def _send_one(self, chunk: int, chain_version: int, follower: int) -> Waits:
        disk = self.disk[chunk]
        if not self._current(chain_version):
            return False
        if disk.state is not None and disk.state.pending is not None:
            settled = yield from self._settle_as_tail(chunk, self.chain)
            if settled is None:
                return False
        if disk.state is None or disk.state.committed is None:
            return True
        tag = disk.state.committed.tag
        assert tag is not None
        message = Update(
            chunk, chain_version, REPLACE, (tag.channel, tag.sequence),
            disk.state.committed.number, 0, disk.committed, True)
        reply = yield from self._send(follower, message)
        return reply == "done"

    def _synced(
        self, body: tuple[int, int | None, dict[int, tuple[int, int]]]
    ) -> Waits:
        yield from ()  # a generator that does not wait
        chain_version, life, tags = body
        if self.chain.version == chain_version and self.part() == SYNCING \
                and life in {None, self.life}:
            self.local = mgmtd_pb2.LOCAL_UP_TO_DATE
            for client, known in tags.items():
                self.applied[client] = max(known, self.applied.get(client, known))
            return True
        return None
