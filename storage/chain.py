"""One replica's part in a chain: stage, pass on, commit.

Layer: shell around the rules of core/replica.py. Every update of a chunk runs under that chunk's
lock on each replica. An update that this replica staged and could not see committed downstream
(a crash, a deadline) stays *pending*; whoever comes next to the chunk as its writer first
*settles* it by sending its whole content down again, so that no version is ever given twice to
different contents that might have been committed.

A punch of all that a chunk holds becomes a removal. What would change nothing (of a chunk that is
not there) is noted as done by its channel, so that a message of it that comes late does nothing
either.

An update lives and dies with the chain version under which it came. When the chain changes under
it, this replica may have another place: a head that lost its own could otherwise find no successor
and acknowledge alone. So it gives up, the client tries again, and the new head settles.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from luciole.errors import FsError, Kind, Retry
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.services import Call, StorageStub
from luciole.routing import WRITTEN, RoutingTable, serving_targets, successor, versioned
from luciole.runtime import Runtime
from luciole.storage.core.replica import (
    EPOCH_SHIFT,
    Fate,
    Judgement,
    carries_all,
    fate_of,
    holds_version,
    judge,
    next_version,
)
from luciole.storage.engine.interface import (
    CHUNK_SIZE_MAX,
    Applied,
    ChunkState,
    Tag,
    Update,
    Version,
)
from luciole.storage.merging import merge
from luciole.storage.ports import Peers, Routing
from luciole.storage.targets import Target

RETRY_PAUSE_S = 0.05
HEAD_TIMEOUT_S = 1.0


def tag_of(io: storage_pb2.WriteIO) -> Tag | None:
    """The update's identity, if the sender gave one."""
    if not io.tag.client_id:
        return None
    return Tag(io.tag.client_id, io.tag.channel, io.tag.sequence)


def tag_to_proto(tag: Tag | None) -> storage_pb2.UpdateTag | None:
    """The form that travels."""
    if tag is None:
        return None
    return storage_pb2.UpdateTag(
        client_id=tag.client_id, channel=tag.channel, sequence=tag.sequence)


def update_of(io: storage_pb2.WriteIO) -> Update:
    """The engine's form of an update."""
    return Update(io.kind, io.offset, io.length, io.chunk_size, tuple(io.checksums), tag_of(io))


@dataclass(frozen=True)
class Staged:
    """An update that this replica has staged and must pass on."""

    io: storage_pb2.WriteIO  # with the chain version under which it came
    version: int
    base: int
    data: memoryview


class Written(NamedTuple):
    """What an update has made of a chunk."""

    version: Version
    length_before: int


class ChainReplica:
    """Applies updates to local targets and passes them on."""

    def __init__(self, runtime: Runtime, routing: Routing, peers: Peers) -> None:
        self._runtime = runtime
        self._routing = routing
        self._peers = peers
        self._link = Link(runtime.clock.wall_ns())

    def lock_key(self, target: Target, chunk_id: bytes) -> tuple[int, bytes]:
        """The key of the chunk's lock."""
        return target.target_id, bytes(chunk_id)

    async def write(
        self, target: Target, io: storage_pb2.WriteIO, data: memoryview, call: Call
    ) -> Written:
        """The head's part: orders the update, once."""
        tag = tag_of(io)
        async with self._runtime.lock(self.lock_key(target, io.chunk_id)):
            known = await self._outcome(target, tag)
            if known is not None:
                return known
            self.check_chain(target, io.chain)
            state = await target.engine.state(io.chunk_id)
            if state is not None and state.pending is not None:
                state = await self.settle(target, state, io.chain, call)
                known = await self._outcome(target, tag)
                if known is not None:
                    return known
            before = state.committed.length if state and state.committed else 0
            if state is None and io.kind in {storage_pb2.REMOVE, storage_pb2.PUNCH}:
                await self._note_done(target, io, tag)
                return Written(Version(0, 0, removed=True), before)
            committed = state.committed if state else None
            if io.kind == storage_pb2.TRUNCATE and not _cuts(io, committed):
                return Written(committed or Version(0, 0), before)
            if _takes_all(io, committed):
                io.kind = storage_pb2.REMOVE
            if io.kind == storage_pb2.MERGE:
                with target.damage.noticing(io.chunk_id):
                    data = await merge(target.engine, io, data, before)
            base = committed.number if committed else 0
            staged = Staged(io, self._next(target, base, io.chain), base, data)
            return Written(await self._apply(target, staged, call), before)

    @staticmethod
    async def _note_done(target: Target, io: storage_pb2.WriteIO, tag: Tag | None) -> None:
        if tag is not None:
            await target.engine.adopt_applied([(
                (tag.client_id, tag.channel), Applied(tag.sequence, bytes(io.chunk_id), 0, 0, 0))])

    @staticmethod
    def _next(target: Target, base: int, chain: storage_pb2.VersionedChain) -> int:
        return next_version(base, target.engine.removed_up_to, chain.version)

    async def remove(
        self, target: Target, chunk_id: bytes, versions: Collection[int],
        chain: storage_pb2.VersionedChain, call: Call,
    ) -> bool:
        """The head's part in a removal of listed versions; returns whether the chunk is gone.

        A chunk that was written or made again after it was listed stays: whoever asked for the
        removal may have given up long ago.
        """
        async with self._runtime.lock(self.lock_key(target, chunk_id)):
            self.check_chain(target, chain)
            state = await target.engine.state(chunk_id)
            if state is not None and state.pending is not None:
                state = await self.settle(target, state, chain, call)
            if state is None or state.committed is None:
                return True
            number = state.committed.number
            if number not in versions:
                return False
            io = storage_pb2.WriteIO(
                chain=chain, chunk_id=chunk_id, chunk_size=CHUNK_SIZE_MAX,
                kind=storage_pb2.REMOVE)
            staged = Staged(io, self._next(target, number, chain), number, memoryview(b""))
            await self._apply(target, staged, call)
            return True

    async def _outcome(self, target: Target, tag: Tag | None) -> Written | None:
        """The result of an update that was committed before. Raises FsError STALE_UPDATE."""
        if tag is None:
            return None
        applied = await target.engine.applied(tag.client_id, tag.channel)
        if applied is None or applied.sequence < tag.sequence:
            return None
        if applied.sequence > tag.sequence:
            raise FsError(Kind.STALE_UPDATE, f"channel {tag.channel} is at {applied.sequence}, "
                          f"the request at {tag.sequence}")
        return Written(Version(applied.version, applied.length), applied.length_before)

    async def accept(
        self, target: Target, request: storage_pb2.ForwardRequest, data: memoryview, call: Call
    ) -> Version:
        """A successor's part. Raises FsError MISSING_UPDATE when the replicas disagree."""
        io = request.io
        tag = tag_of(io)
        async with self._runtime.lock(self.lock_key(target, io.chunk_id)):
            self.check_chain(target, io.chain)
            if target.links.overtaken(io.chain.version, request.link):
                # While it waited for the lock: if its sender still waits too, it sends it anew.
                raise FsError(Kind.BUSY, "the sender has given up a call of this link",
                              f"chunk {io.chunk_id.hex()}")
            state = await target.engine.state(io.chunk_id)
            committed = state.committed if state else None
            judgement = judge(state, request, tag)
            if judgement is Judgement.DISAGREE:
                has = committed.number if committed else 0
                raise FsError(Kind.MISSING_UPDATE, f"version {request.version} cannot follow "
                              f"version {has}", f"chunk {io.chunk_id.hex()}")
            if judgement is Judgement.DONE:
                return committed or Version(request.version, 0, removed=True)
            staged = Staged(io, request.version, request.base_version, data)
            return await self._apply(target, staged, call)

    async def _apply(self, target: Target, staged: Staged, call: Call) -> Version:
        chunk_id = staged.io.chunk_id
        with target.damage.noticing(chunk_id):
            await target.engine.stage(chunk_id, staged.version, update_of(staged.io), staged.data)
        try:
            await self._pass_on(target, staged, call)
        except FsError:
            target.unsettled.add(bytes(chunk_id))  # nobody may ever come back to it
            raise
        return await target.engine.commit(chunk_id, staged.version)

    async def judge_pending(
        self, target: Target, chain: mgmtd_pb2.Chain, state: ChunkState
    ) -> ChunkState | None:
        """Ends a pending version whose fate the head of now tells (core/replica.py: `fate_of`);
        returns the state after.
        """
        assert state.pending is not None
        number = state.pending.number
        first = serving_targets(chain)[0]
        if first == target.target_id or number >> EPOCH_SHIFT >= chain.version:
            return state
        # A head that does not know this chain yet may still be sent the update.
        head = await self._state_at(first, state.chunk_id, versioned(chain))
        fate = fate_of(number, head, chain.version, removal=state.pending.removed)
        if fate is Fate.DONE:
            await target.engine.commit(state.chunk_id, number)
        elif fate is Fate.VOID:
            await target.engine.abandon(state.chunk_id)
        return await target.engine.state(state.chunk_id)

    async def check_before(
        self, target: Target, chain: mgmtd_pb2.Chain, state: ChunkState
    ) -> None:
        """Raises FsError BUSY unless all replicas before this one have its pending version.

        For a tail, of what came under an earlier chain version: members have changed places since,
        and one that is now before it may lack what it holds itself. The head is known to have it,
        and will send it down the chain.
        """
        assert state.pending is not None
        number = state.pending.number
        if number >> EPOCH_SHIFT >= chain.version:
            return  # it came through all of them
        serving = serving_targets(chain)
        for member in serving[1 : serving.index(target.target_id)]:
            held = await self._state_at(member, state.chunk_id)
            if held is None or not holds_version(held, number):
                raise FsError(Kind.BUSY, f"target {member} does not have version {number} yet",
                              f"chunk {state.chunk_id.hex()}")

    async def _state_at(
        self, member: int, chunk_id: bytes, chain: storage_pb2.VersionedChain | None = None
    ) -> ChunkState | None:
        """What another target knows of a chunk, or None; refused if it knows another `chain`."""
        stub = self._peers.storage(self._routing.current().node_of(member))
        reply = await stub.list_chunks(
            storage_pb2.ListChunksRequest(
                chain=chain, target_id=member, begin=chunk_id, end=chunk_id + b"\0", limit=1),
            timeout=HEAD_TIMEOUT_S)
        return state_of(reply.chunks[0]) if reply.chunks else None

    async def settle(
        self, target: Target, state: ChunkState, chain: storage_pb2.VersionedChain, call: Call
    ) -> ChunkState | None:
        """Brings a pending version of unknown fate to its end; returns the state after."""
        assert state.pending is not None
        io, data = await self.whole_chunk(target, state, pending=True)
        io.chain.CopyFrom(chain)
        await self._pass_on(target, Staged(io, state.pending.number, 0, data), call)
        await target.engine.commit(state.chunk_id, state.pending.number)
        return await target.engine.state(state.chunk_id)

    async def whole_chunk(
        self, target: Target, state: ChunkState, *, pending: bool
    ) -> tuple[storage_pb2.WriteIO, memoryview]:
        """A version as one update that carries everything: REPLACE, or REMOVE."""
        version = state.pending if pending else state.committed
        assert version is not None
        io = storage_pb2.WriteIO(
            chunk_id=state.chunk_id, chunk_size=CHUNK_SIZE_MAX, tag=tag_to_proto(version.tag))
        if version.removed:
            io.kind = storage_pb2.REMOVE
            return io, memoryview(b"")
        data = memoryview(b"")
        if version.length:
            data = self._peers.memory(version.length)
            with target.damage.noticing(state.chunk_id):
                outcome = await target.engine.read(state.chunk_id, 0, data, pending=pending)
            io.checksums.extend(outcome.checksums)
        io.kind, io.length = storage_pb2.REPLACE, version.length
        return io, data

    async def _pass_on(self, target: Target, staged: Staged, call: Call) -> None:
        """Sends a staged update to the successor until it has it, or the deadline, or the chain
        changes.
        """
        while True:
            table = self.check_chain(target, staged.io.chain)
            follower = successor(table.chain(target.chain_id), target.target_id)
            if follower is None:
                return
            try:
                await self._forward(table, follower, target, staged, call)
            except FsError as failure:
                if failure.facts.retry is Retry.NEVER:
                    raise
                remaining = call.deadline - self._runtime.clock.now()
                if remaining <= RETRY_PAUSE_S:
                    raise
                await self._routing.newer_than(table.version, min(RETRY_PAUSE_S, remaining))
            else:
                return

    def check_chain(
        self, target: Target, wanted: storage_pb2.VersionedChain
    ) -> RoutingTable:
        """The routing, if it has the chain in the wanted version and this target writes in it.

        Raises FsError CHAIN_VERSION_MISMATCH.
        """
        table = self._routing.current()
        chain = table.chain(wanted.chain_id)
        writes = any(member.target_id == target.target_id and member.state in WRITTEN
                     for member in chain.targets)
        if chain.version != wanted.version or not writes:
            raise FsError(Kind.CHAIN_VERSION_MISMATCH, f"the chain is at version {chain.version}, "
                          f"the update came for {wanted.version}", f"chain {wanted.chain_id}")
        return table

    async def _forward(
        self, table: RoutingTable, follower: tuple[int, bool], target: Target, staged: Staged,
        call: Call,
    ) -> None:
        """One attempt. A successor that syncs or disagrees gets the whole chunk."""
        follower_id, syncing = follower
        stub = self._peers.storage(table.node_of(follower_id))
        message = storage_pb2.ForwardRequest(
            io=staged.io, version=staged.version, base_version=staged.base, syncing=syncing)
        data, whole = staged.data, carries_all(staged.io.kind)
        if syncing and not whole:
            message, data = await self._whole_message(target, message)
            whole = True
        result = await self._send(stub, message, data, call)
        if result.error.kind == Kind.MISSING_UPDATE and not whole:
            message, data = await self._whole_message(target, message)
            result = await self._send(stub, message, data, call)
        if result.HasField("error"):
            raise FsError.from_proto(result.error)

    async def _whole_message(
        self, target: Target, message: storage_pb2.ForwardRequest
    ) -> tuple[storage_pb2.ForwardRequest, memoryview]:
        state = await target.engine.state(message.io.chunk_id)
        assert state is not None
        io, data = await self.whole_chunk(target, state, pending=state.pending is not None)
        io.chain.CopyFrom(message.io.chain)
        return storage_pb2.ForwardRequest(
            io=io, version=message.version, syncing=message.syncing), data

    async def send_whole(self, stub: StorageStub, staged: Staged, call: Call) -> None:
        """Resync: makes a syncing successor hold exactly this. Raises FsError."""
        message = storage_pb2.ForwardRequest(io=staged.io, version=staged.version, syncing=True)
        result = await self._send(stub, message, staged.data, call)
        if result.HasField("error"):
            raise FsError.from_proto(result.error)

    async def _send(
        self, stub: StorageStub, message: storage_pb2.ForwardRequest, data: memoryview, call: Call
    ) -> storage_pb2.WriteResult:
        while True:
            remaining = max(0.001, call.deadline - self._runtime.clock.now())
            message.link = self._link.current
            try:
                reply = await stub.forward(
                    message, timeout=remaining, payload=[data] if len(data) else [])
            except FsError:
                self._link.give_up()  # it may be on its way still
                raise
            if not reply.link:
                return reply.result
            # Another call was given up while this one was under way.
            self._link.overtake(reply.link)


class Link:
    """The link number of this process (core/replica.py: `Links`), shared by all its calls.

    It starts at the clock, so that a process is ahead of the one that it replaces; if the clock
    was set back, the first refusal puts that right.
    """

    def __init__(self, start: int) -> None:
        self._guard = threading.Lock()
        self.current = start

    def give_up(self) -> None:
        """A call ended without an answer."""
        with self._guard:
            self.current += 1

    def overtake(self, seen: int) -> None:
        """A successor refused all up to below `seen`."""
        with self._guard:
            if self.current < seen:
                self.current = seen + 1


def state_of(chunk: storage_pb2.ChunkInfo) -> ChunkState:
    """What another replica says that it has of a chunk."""
    def version(number: int, length: int) -> Version | None:
        return Version(number, length) if number else None

    return ChunkState(
        chunk.chunk_id, version(chunk.committed_version, chunk.length),
        version(chunk.pending_version, 0))


def _cuts(io: storage_pb2.WriteIO, committed: Version | None) -> bool:
    """Whether a truncation changes anything; what was written since it was decided stays."""
    if committed is None or committed.length <= io.length:
        return False
    return not io.if_versions or committed.number in io.if_versions


def _takes_all(io: storage_pb2.WriteIO, committed: Version | None) -> bool:
    """Whether an update is a punch that leaves nothing."""
    length = committed.length if committed else 0
    return io.kind == storage_pb2.PUNCH and not io.offset and io.length >= length
