"""Resync: brings a syncing successor to what this replica has, while writes go on.

Layer: shell. The last serving target of a chain owns the work for the syncing target behind it.
Both chunk lists are walked in order, in pages; what differs is sent whole under the chunk's lock,
what only the successor has is removed there. Writes that arrive meanwhile are passed on whole
(storage/chain.py), so one walk is enough.

A broken walk goes on with the page that it broke in, as long as chain version and the successor's
process are the same: what that process acknowledged, it has. A chunk that rotted here does not
hold up the others; the walk ends when the last such chunk was repaired, or is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.services import StorageStub
from luciole.routing import RoutingTable, serving_targets, successor, versioned
from luciole.rpc.interface import ServerCall
from luciole.runtime import Runtime
from luciole.storage.chain import ChainReplica, Staged
from luciole.storage.core.replica import next_version
from luciole.storage.engine.interface import CHUNK_SIZE_MAX, ChunkState
from luciole.storage.pace import Pace
from luciole.storage.ports import Peers, Routing
from luciole.storage.service import chunk_info
from luciole.storage.targets import Target, Targets

log = get_logger("storage.resync")
PAGE = 512
CALL_TIMEOUT_S = 30.0
AGAIN_S = 10.0
END = b"\xff" * 17
WALKS_MAX = 4  # chains at a time


@dataclass
class Walk:
    """How far the comparison with a successor has come."""

    chain_version: int
    follower: int
    begun_at: float
    incarnation: int = 0  # of the successor's process; 0: not known yet
    begin: bytes = b""
    done: int = 0
    damaged: set[bytes] = field(default_factory=set)
    told: str = ""  # why it was interrupted last


class Resync:
    """Runs the walks that are this process's to run."""

    def __init__(
        self,
        runtime: Runtime,
        targets: Targets,
        routing: Routing,
        peers: Peers,
        replica: ChainReplica,
        *,
        bytes_per_second: int = 0,
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._routing = routing
        self._peers = peers
        self._replica = replica
        self._pace = Pace(runtime, bytes_per_second)
        self._walks: dict[int, Walk] = {}  # chain id -> the walk under way
        self._finished: dict[int, tuple[int, float]] = {}  # chain id -> (version walked, when)

    async def run_once(self) -> int:
        """Walks every chain that needs it now, some at a time; returns how many walks ended."""
        table = self._routing.current()
        due = list(self._due(table))

        async def work() -> int:
            ended = 0
            while due:
                ended += await self._try(table, *due.pop())
            return ended

        return sum(await self._runtime.gather([work] * min(WALKS_MAX, len(due))))

    async def _try(
        self, table: RoutingTable, target: Target, chain: mgmtd_pb2.Chain, follower: int
    ) -> bool:
        """Begins or goes on with a chain's walk; returns whether it ended well."""
        walk = self._walks.get(chain.chain_id)
        if walk is None or (walk.chain_version, walk.follower) != (chain.version, follower):
            walk = Walk(chain.version, follower, self._runtime.clock.now())
            self._walks[chain.chain_id] = walk
        try:
            await self._walk(table, target, chain, walk)
        except FsError as failure:
            if walk.told != str(failure):
                walk.told = str(failure)
                log.info("resync_interrupted", chain=chain.chain_id, error=walk.told)
            return False
        self._finished[chain.chain_id] = (chain.version, self._runtime.clock.now())
        del self._walks[chain.chain_id]
        log.info("resync_done", chain=chain.chain_id, target=follower, chunks=target.resync_done)
        return True

    def _due(self, table: RoutingTable) -> Iterator[tuple[Target, mgmtd_pb2.Chain, int]]:
        for target in self._targets.all():
            if not target.chain_id or not target.trusted:
                continue
            chain = table.chain(target.chain_id)
            serving = serving_targets(chain)
            if not serving or serving[-1] != target.target_id:
                continue
            follower = successor(chain, target.target_id)
            if follower is not None and not self._walked(chain):
                yield target, chain, follower[0]

    def _walked(self, chain: mgmtd_pb2.Chain) -> bool:
        """Whether the manager is about to hear of a finished walk.

        A target that restarts before it could tell has forgotten it, and needs another.
        """
        version, ended_at = self._finished.get(chain.chain_id, (0, 0.0))
        return version == chain.version and self._runtime.clock.now() < ended_at + AGAIN_S

    async def _walk(
        self, table: RoutingTable, target: Target, chain: mgmtd_pb2.Chain, walk: Walk
    ) -> None:
        stub = self._peers.storage(table.node_of(walk.follower))
        target.resync_done = walk.done
        target.resync_total = (await target.engine.space()).chunks
        while walk.begin != END:
            if self._routing.current().chain(chain.chain_id).version != chain.version:
                raise FsError(Kind.CHAIN_VERSION_MISMATCH, "the chain changed during resync",
                              f"chain {chain.chain_id}")
            await self._page(target, chain, stub, walk)
            self._estimate(target, walk)
        for chunk_id in sorted(walk.damaged):
            await self._send(target, chain, stub, chunk_id)
            walk.damaged.discard(chunk_id)
        wanted = versioned(chain)
        try:
            await self._tell_applied(target, wanted, stub, walk)
            await stub.sync_done(
                storage_pb2.SyncDoneRequest(chain=wanted, incarnation=walk.incarnation),
                timeout=CALL_TIMEOUT_S)
        except FsError as failure:
            if failure.kind == Kind.NOT_SERVING:
                _start_over(walk)
            raise

    async def _tell_applied(
        self, target: Target, chain: storage_pb2.VersionedChain, stub: StorageStub, walk: Walk
    ) -> None:
        """Tells which updates are done: a chunk shows its last one only, and the successor may be
        the head when a client repeats an earlier one. Later ones it hears of itself.
        """
        after, more = None, True
        while more:
            known, more = await target.engine.list_applied(after, PAGE)
            request = storage_pb2.SyncAppliedRequest(chain=chain, incarnation=walk.incarnation)
            for (client_id, channel), applied in known:
                request.records.add(
                    client_id=client_id, channel=channel, sequence=applied.sequence,
                    chunk_id=applied.chunk_id, version=applied.version, length=applied.length,
                    length_before=applied.length_before)
                after = client_id, channel
            await stub.sync_applied(request, timeout=CALL_TIMEOUT_S)

    def _estimate(self, target: Target, walk: Walk) -> None:
        """Tells how long the rest takes at the speed so far, breaks included."""
        left = max(0, target.resync_total - walk.done)
        elapsed = self._runtime.clock.now() - walk.begun_at
        target.resync_seconds_left = round(left * elapsed / walk.done) if walk.done else 0

    async def _page(
        self, target: Target, chain: mgmtd_pb2.Chain, stub: StorageStub, walk: Walk
    ) -> None:
        """Compares one page and moves the walk behind it."""
        mine, more = await target.engine.list(walk.begin, None, PAGE)
        end = mine[-1].chunk_id + b"\0" if more else END
        theirs = await self._remote_chunks(stub, walk, end)
        own = {state.chunk_id for state in mine}
        differing = [
            state.chunk_id for state in mine
            if state.pending or not _same(chunk_info(state), theirs.get(state.chunk_id))]
        for chunk_id in differing + [chunk_id for chunk_id in theirs if chunk_id not in own]:
            try:
                await self._send(target, chain, stub, chunk_id)
            except FsError as failure:
                if failure.kind != Kind.CHECKSUM_MISMATCH:
                    raise
                walk.damaged.add(chunk_id)
        walk.begin = end
        walk.done += len(mine)
        target.resync_done = walk.done

    async def _remote_chunks(
        self, stub: StorageStub, walk: Walk, end: bytes
    ) -> dict[bytes, storage_pb2.ChunkInfo]:
        """What the successor has of a page. Raises FsError when it is another process now."""
        found: dict[bytes, storage_pb2.ChunkInfo] = {}
        begin = walk.begin
        while True:
            reply = await stub.list_chunks(
                storage_pb2.ListChunksRequest(
                    target_id=walk.follower, begin=begin, end=end, limit=PAGE),
                timeout=CALL_TIMEOUT_S)
            if walk.incarnation not in {0, reply.incarnation}:
                _start_over(walk)
                raise FsError(Kind.UNAVAILABLE, "the successor started anew during resync",
                              f"target {walk.follower}")
            walk.incarnation = reply.incarnation
            found.update((chunk.chunk_id, chunk) for chunk in reply.chunks)
            if not reply.more:
                return found
            begin = reply.chunks[-1].chunk_id + b"\0"

    async def _send(
        self, target: Target, chain: mgmtd_pb2.Chain, stub: StorageStub, chunk_id: bytes
    ) -> None:
        """Sends one chunk as it is now; a chunk that is gone here is removed there."""
        call = ServerCall(self._runtime.clock.now() + CALL_TIMEOUT_S)
        async with self._runtime.lock(self._replica.lock_key(target, chunk_id)):
            state = await target.engine.state(chunk_id)
            wanted = versioned(chain)
            self._replica.check_chain(target, wanted)
            if state is not None and state.pending is not None:
                state = await self._replica.judge_pending(target, chain, state)
            if state is not None and state.pending is not None:
                await self._replica.check_before(target, chain, state)
                state = await self._replica.settle(target, state, wanted, call)
            staged = await self._whole(target, state, chunk_id, wanted)
            await self._replica.send_whole(stub, staged, call)
        await self._pace.spend(len(staged.data))

    async def _whole(
        self, target: Target, state: ChunkState | None, chunk_id: bytes,
        chain: storage_pb2.VersionedChain,
    ) -> Staged:
        if state is None or state.committed is None:
            io = storage_pb2.WriteIO(
                chain=chain, chunk_id=chunk_id, chunk_size=CHUNK_SIZE_MAX,
                kind=storage_pb2.REMOVE)
            return Staged(io, next_version(0, 0, chain.version), 0, memoryview(b""))
        io, data = await self._replica.whole_chunk(target, state, pending=False)
        io.chain.CopyFrom(chain)
        return Staged(io, state.committed.number, 0, data)


def _start_over(walk: Walk) -> None:
    walk.incarnation, walk.begin, walk.done = 0, b"", 0
    walk.damaged.clear()


def _same(mine: storage_pb2.ChunkInfo, theirs: storage_pb2.ChunkInfo | None) -> bool:
    return (
        theirs is not None
        and theirs.committed_version == mine.committed_version
        and theirs.checksum == mine.checksum
        and theirs.length == mine.length
        and not theirs.pending_version
    )
