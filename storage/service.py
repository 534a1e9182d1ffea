"""The storage service: checks where a request belongs, then lets the chain or the engine do it.

Layer: shell. Concurrency: handlers run on a thread per connection; two that touch one chunk meet
in that chunk's lock (storage/chain.py), reads take none unless they find a pending version at the
tail. Nothing else is shared but the routing, which is replaced whole.

The fence is checked before a request and again before its answer: while the handler waited for a
lock or a successor, the manager may have given this target's place away.
"""

from __future__ import annotations

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, mgmtd_pb2, storage_pb2
from luciole.proto.packed import NOT_READ, READ, pack_numbers
from luciole.proto.services import Buffer, Call, FileRange
from luciole.routing import WRITTEN, serving_targets, successor, versioned
from luciole.rpc.interface import ServerCall
from luciole.runtime import Runtime
from luciole.storage.chain import ChainReplica
from luciole.storage.copying import Fetcher
from luciole.storage.core.replica import EPOCH_SHIFT, needs_tail, reads_pending
from luciole.storage.engine.interface import (
    CHUNK_ID_SIZE,
    CHUNK_SIZE_MAX,
    Applied,
    ChunkState,
    ReadOutcome,
)
from luciole.storage.merging import runs_problem
from luciole.storage.ports import Fence, Peers, Routing
from luciole.storage.single_reads import SingleReads
from luciole.storage.targets import Target, Targets

LIST_MAX = 4096
READ_BYTES_MAX = 64 * 1024 * 1024
DIRTY_READ_ATTEMPTS = 8
ROUTING_WAIT_S = 1.0
SETTLE_S = 1.0


class StorageService:
    """Handler of the service Storage."""

    def __init__(
        self, runtime: Runtime, targets: Targets, routing: Routing, peers: Peers, fence: Fence
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._routing = routing
        self._peers = peers
        self._fence = fence
        self._incarnation = int.from_bytes(runtime.entropy.token(8), "little") or 1
        self.replica = ChainReplica(runtime, routing, peers)
        self._fetcher = Fetcher(runtime, routing, peers)
        self.read_packed_at_once = SingleReads(targets, routing, fence, READ_BYTES_MAX).answer

    async def _member(
        self, wanted: storage_pb2.VersionedChain
    ) -> tuple[Target, mgmtd_pb2.Chain, mgmtd_pb2.PublicState]:
        """Our target of a chain that sender and receiver know alike.

        A sender that is ahead is believed: newer routing is waited for. Raises FsError
        CHAIN_VERSION_MISMATCH or NOT_SERVING.
        """
        self._fence.check()
        table = self._routing.current()
        chain = table.chain(wanted.chain_id)
        if chain.version < wanted.version:
            table = await self._routing.newer_than(table.version, ROUTING_WAIT_S)
            chain = table.chain(wanted.chain_id)
        if chain.version != wanted.version:
            raise FsError(Kind.CHAIN_VERSION_MISMATCH, f"the sender knows version "
                          f"{wanted.version}, this node {chain.version}",
                          f"chain {wanted.chain_id}")
        target, state = self._targets.of_chain(chain)
        _need_trust(target)
        return target, chain, state

    async def _serving(
        self, wanted: storage_pb2.VersionedChain
    ) -> tuple[Target, mgmtd_pb2.Chain]:
        target, chain, state = await self._member(wanted)
        if state != mgmtd_pb2.SERVING:
            raise FsError(Kind.NOT_SERVING, "the target does not serve now",
                          f"target {target.target_id}")
        return target, chain

    async def _written(self, wanted: storage_pb2.VersionedChain) -> Target:
        """A target that writes reach: it serves, or catches up."""
        target, _, state = await self._member(wanted)
        if state not in WRITTEN:
            raise FsError(Kind.NOT_SERVING, "the target takes no writes now",
                          f"target {target.target_id}")
        return target

    async def _head(self, wanted: storage_pb2.VersionedChain) -> Target:
        target, chain = await self._serving(wanted)
        if serving_targets(chain)[0] != target.target_id:
            raise FsError(Kind.NOT_SERVING, "writes go to the head of the chain",
                          f"target {target.target_id}")
        return target

    # Writing.

    async def write(self, request: storage_pb2.WriteRequest, call: Call) -> storage_pb2.WriteReply:
        """Takes updates as the head; each io has a result of its own."""
        reply = storage_pb2.WriteReply()
        position = 0
        for io in request.ios:
            size = io.length if carries_bytes(io) else 0
            data = call.payload[position : position + size]
            position += size
            reply.results.append(await self._write_one(io, data, call))
        return reply

    async def _write_one(
        self, io: storage_pb2.WriteIO, data: memoryview, call: Call
    ) -> storage_pb2.WriteResult:
        try:
            check_update(io, data)
            target = await self._head(io.chain)
            if io.kind == storage_pb2.COPY:
                data = await self._fetcher.resolve(io, call)
            version, before = await self.replica.write(target, io, data, call)
            self._fence.check()
        except FsError as failure:
            return storage_pb2.WriteResult(error=failure.to_proto())
        return storage_pb2.WriteResult(
            version=version.number, length=version.length, length_before=before)

    async def forward(
        self, request: storage_pb2.ForwardRequest, call: Call
    ) -> storage_pb2.ForwardReply:
        """Takes an update from the predecessor."""
        try:
            check_update(request.io, call.payload)
            target = await self._written(request.io.chain)
            newest = target.note_link(request.io.chain.version, request.link)
            if newest > request.link:
                return storage_pb2.ForwardReply(link=newest)
            version = await self.replica.accept(target, request, call.payload, call)
            self._fence.check()
        except FsError as failure:
            return storage_pb2.ForwardReply(
                result=storage_pb2.WriteResult(error=failure.to_proto()))
        return storage_pb2.ForwardReply(
            result=storage_pb2.WriteResult(version=version.number, length=version.length))

    async def remove_ranges(
        self, request: storage_pb2.RemoveRangesRequest, call: Call
    ) -> storage_pb2.RemoveRangesReply:
        """Removes chunks one by one through the chain, so that every replica agrees."""
        target = await self._head(request.chain)
        limit = min(request.limit or LIST_MAX, LIST_MAX)
        reply = storage_pb2.RemoveRangesReply()
        for wanted in request.ranges:
            states, more = await target.engine.list(
                wanted.begin, wanted.end, limit - reply.removed)
            for state in states:
                # One that stays was written meanwhile: the sender, if it is there, asks again.
                gone = await self.replica.remove(
                    target, state.chunk_id, versions_of(state), request.chain, call)
                more = more or not gone
                reply.removed += gone
            if more or reply.removed >= limit:
                break
            reply.ranges_done += 1
        return reply

    async def remove_listed(
        self, request: storage_pb2.RemoveListedRequest, call: Call
    ) -> storage_pb2.RemoveListedReply:
        """Removes chunks that are as they were listed; tells which were not."""
        target = await self._head(request.chain)
        reply = storage_pb2.RemoveListedReply()
        for chunk in request.chunks:
            versions = {chunk.committed_version, chunk.pending_version}
            if not await self.replica.remove(
                    target, chunk.chunk_id, versions, request.chain, call):
                reply.kept.append(chunk.chunk_id)
        return reply

    async def sync(self, request: storage_pb2.SyncRequest, call: Call) -> common_pb2.Empty:
        """Makes what was acknowledged on these chains durable here.

        A syncing target counts: when it has caught up, nobody will ask it again for these bytes.
        """
        targets = [await self._written(chain) for chain in request.chains]
        unique = {target.target_id: target for target in targets}
        for target in unique.values():
            await target.engine.sync()
        return common_pb2.Empty()

    # Reading.

    async def read(self, request: storage_pb2.ReadRequest, call: Call) -> storage_pb2.ReadReply:
        """Reads from this replica; each io has a result of its own."""
        total = sum(io.length for io in request.ios)
        if total > READ_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"{total} bytes asked for in one request, "
                          f"at most {READ_BYTES_MAX}")
        reply = storage_pb2.ReadReply()
        parts: list[Buffer | FileRange] = []
        for index, io in enumerate(request.ios):
            result = None
            if io.unverified and call.takes_files and not io.version:
                result = await self._locate_one(io, parts)
            if result is None:
                room = call.room(index, io.length)
                result = await self._read_one(io, room, call)
                parts.append(room[: result.length])
            reply.results.append(result)
        call.reply_parts(parts)
        return reply

    async def _locate_one(
        self, io: storage_pb2.ReadIO, parts: list[Buffer | FileRange]
    ) -> storage_pb2.ReadResult | None:
        """Adds to `parts` where the bytes lie, for the transport to send; None: to be read.

        What is sent so has been looked at by nobody, and its blocks may get other bytes before it
        leaves: the caller compares the checksums, and has asked for that.
        """
        try:
            target, _ = await self._serving(io.chain)
            found = target.engine.locate_clean(io.chunk_id, io.offset, io.length)
            self._fence.check()
        except FsError as failure:
            return storage_pb2.ReadResult(error=failure.to_proto())
        if found is None:
            return None
        parts += found.ranges
        return storage_pb2.ReadResult(
            length=found.length, version=found.version, checksums=found.checksums)

    async def read_packed(
        self, request: storage_pb2.ReadPackedRequest, call: Call
    ) -> storage_pb2.ReadPackedReply:
        """Reads what can be read at once; the rest is NOT_READ, for whatever reason."""
        batches = [(batch.chain, list(READ.iter_unpack(_whole(batch.records))))
                   for batch in request.batches]
        sizes = [length for _, reads in batches for _, _, length in reads]
        if sum(sizes) > READ_BYTES_MAX:
            raise FsError(Kind.INVALID_ARGUMENT, f"{sum(sizes)} bytes asked for in one request, "
                          f"at most {READ_BYTES_MAX}")
        rooms = call.rooms(sizes)
        counts: list[int | None] = []
        for chain, reads in batches:
            try:
                target, _ = await self._serving(chain)
            except FsError:
                counts += [None] * len(reads)
                continue
            begin = len(counts)
            counts += target.engine.read_clean(reads, rooms[begin : begin + len(reads)])
        self._fence.check()
        lengths = [NOT_READ if count is None else count for count in counts]
        reply = storage_pb2.ReadPackedReply(lengths=pack_numbers(lengths))
        if not call.in_place:
            parts = [room[: count or 0] for room, count in zip(rooms, counts, strict=True)]
            reply.checksums = pack_numbers([crc32c(part) for part in parts])
            call.reply_payload(parts)
        return reply

    async def _read_one(
        self, io: storage_pb2.ReadIO, room: memoryview, call: Call
    ) -> storage_pb2.ReadResult:
        try:
            target, chain = await self._serving(io.chain)
            if call.in_place and not io.version:
                # Verified in its place, so the caller needs no checksums: the short way.
                count = target.engine.read_clean(
                    [(io.chunk_id, io.offset, io.length)], [room])[0]
                if count is not None:
                    self._fence.check()
                    return storage_pb2.ReadResult(length=count)
            elif io.unverified and not io.version:
                # Bytes that travel, and a caller who compares them: once is enough.
                found = await target.engine.read_unverified(io.chunk_id, io.offset, room)
                if found is not None:
                    self._fence.check()
                    return storage_pb2.ReadResult(
                        length=found.length, version=found.version, checksums=found.checksums)
            with target.damage.noticing(io.chunk_id):
                try:
                    outcome = await self._read_chunk(target, chain, io, room)
                except FsError as failure:
                    if failure.kind != Kind.CHECKSUM_MISMATCH or not call.in_place:
                        raise
                    # Whoever shares the room may have changed it: only our own memory is believed.
                    own = memoryview(bytearray(len(room)))
                    outcome = await self._read_chunk(target, chain, io, own)
                    room[:] = own
            self._fence.check()
        except FsError as failure:
            return storage_pb2.ReadResult(error=failure.to_proto())
        return storage_pb2.ReadResult(
            length=outcome.length, version=outcome.version, checksums=outcome.checksums)

    async def _read_chunk(
        self, target: Target, chain: mgmtd_pb2.Chain, io: storage_pb2.ReadIO, buffer: memoryview
    ) -> ReadOutcome:
        for _ in range(DIRTY_READ_ATTEMPTS):
            state = await target.engine.state(io.chunk_id)
            if state is None:
                raise FsError(Kind.CHUNK_NOT_FOUND, "no such chunk", io.chunk_id.hex())
            pending = False
            if io.version:
                pending = _holds_as_pending(state, io.version)
            elif state.pending is not None and not io.relaxed:
                pending = await self._resolve(target, chain, state)
            elif state.committed is None:
                raise FsError(Kind.CHUNK_NOT_FOUND, "no such chunk", io.chunk_id.hex())
            try:
                outcome = await target.engine.read(
                    io.chunk_id, io.offset, buffer, pending=pending)
            except FsError as failure:
                # The version was committed or replaced between looking and reading.
                if failure.kind != Kind.CHUNK_NOT_FOUND:
                    raise
            else:
                # The tail's answer was about one version; the pending one may be the next by now.
                if not pending or reads_pending(state, outcome.version):
                    return outcome
        raise FsError(Kind.CHUNK_NOT_FOUND, "no such chunk", io.chunk_id.hex())

    async def _resolve(
        self, target: Target, chain: mgmtd_pb2.Chain, state: ChunkState
    ) -> bool:
        """Whether the pending version is the one to serve."""
        serving = serving_targets(chain)
        if not needs_tail(state, serving[-1] == target.target_id):
            await self._settle_at_tail(target, chain, state)
            return False
        table = self._routing.current()
        reply = await self._peers.storage(table.node_of(serving[-1])).query_version(
            storage_pb2.QueryVersionRequest(
                chain=versioned(chain), chunk_id=state.chunk_id),
            timeout=ROUTING_WAIT_S)
        if not reply.found:
            raise FsError(Kind.CHUNK_NOT_FOUND, "no committed version", state.chunk_id.hex())
        return reads_pending(state, reply.committed_version)

    async def _settle_at_tail(
        self, target: Target, chain: mgmtd_pb2.Chain, found: ChunkState
    ) -> ChunkState | None:
        """A tail commits what it staged before it became the tail, if all before it have it too.

        The tail of then may have committed it, and readers may have seen it. While a syncing
        replica follows, that one gets it first. What came under the chain version of now nobody
        has seen then: it is left to its writer, and readers do not wait for it.
        """
        assert found.pending is not None
        syncs = successor(chain, target.target_id) is not None
        if syncs and found.pending.number >> EPOCH_SHIFT >= chain.version:
            return found
        wanted = versioned(chain)
        async with self._runtime.lock(self.replica.lock_key(target, found.chunk_id)):
            self.replica.check_chain(target, wanted)
            state = await target.engine.state(found.chunk_id)
            if state is not None and state.pending is not None:
                state = await self.replica.judge_pending(target, chain, state)
            if state is None or state.pending is None:
                return state
            await self.replica.check_before(target, chain, state)
            if not syncs:
                await target.engine.commit(found.chunk_id, state.pending.number)
            elif state.pending.number >> EPOCH_SHIFT < chain.version:
                call = ServerCall(self._runtime.clock.now() + SETTLE_S)
                return await self.replica.settle(target, state, wanted, call)
            return await target.engine.state(found.chunk_id)

    async def query_version(
        self, request: storage_pb2.QueryVersionRequest, call: Call
    ) -> storage_pb2.QueryVersionReply:
        """Tells, as the tail, which version of a chunk is committed."""
        target, chain = await self._serving(request.chain)
        if serving_targets(chain)[-1] != target.target_id:
            raise FsError(Kind.NOT_SERVING, "not the tail", f"target {target.target_id}")
        state = await target.engine.state(request.chunk_id)
        if state is not None and state.pending is not None:
            state = await self._settle_at_tail(target, chain, state)
        self._fence.check()
        if state is None or state.committed is None:
            return storage_pb2.QueryVersionReply(found=False)
        return storage_pb2.QueryVersionReply(
            found=True, committed_version=state.committed.number)

    async def probe(self, request: common_pb2.Empty, call: Call) -> common_pb2.Empty:
        """Answers."""
        return common_pb2.Empty()

    async def ways(self, request: common_pb2.Empty, call: Call) -> storage_pb2.WaysReply:
        """By what this node reaches those that it shares chains with."""
        reply = storage_pb2.WaysReply()
        for node in self._targets.neighbours(self._routing.current()).values():
            choice = self._peers.way(node)
            reply.ways.add(node_id=node.node_id, transport=choice.transport if choice else "",
                           why=choice.why if choice else "not reached yet")
        return reply

    # Resync and fsck.

    async def list_chunks(
        self, request: storage_pb2.ListChunksRequest, call: Call
    ) -> storage_pb2.ListChunksReply:
        """One page of a target's chunks in order of id."""
        if request.HasField("chain"):
            target = await self._head(request.chain)
        else:
            target = self._targets.get(request.target_id)
            _need_trust(target)
        limit = min(request.limit or LIST_MAX, LIST_MAX)
        states, more = await target.engine.list(request.begin, request.end or None, limit)
        if request.HasField("chain"):
            self._fence.check()
        return storage_pb2.ListChunksReply(
            chunks=[chunk_info(s) for s in states], more=more, incarnation=self._incarnation)

    async def sync_applied(
        self, request: storage_pb2.SyncAppliedRequest, call: Call
    ) -> common_pb2.Empty:
        """Takes over which updates are done already, in case their clients send them again."""
        target, _ = await self._syncing(request.chain, request.incarnation)
        await target.engine.adopt_applied([
            ((record.client_id, record.channel),
             Applied(record.sequence, record.chunk_id, record.version, record.length,
                     record.length_before))
            for record in request.records])
        return common_pb2.Empty()

    async def _syncing(
        self, wanted: storage_pb2.VersionedChain, incarnation: int
    ) -> tuple[Target, mgmtd_pb2.Chain]:
        """The target, if it syncs still, in the process that was sent everything."""
        target, chain, state = await self._member(wanted)
        if state != mgmtd_pb2.SYNCING:
            raise FsError(Kind.NOT_SERVING, "the target is not syncing",
                          f"target {target.target_id}")
        if incarnation not in {0, self._incarnation}:
            raise FsError(Kind.NOT_SERVING, "the process started anew during the resync",
                          f"target {target.target_id}")
        return target, chain

    async def sync_done(
        self, request: storage_pb2.SyncDoneRequest, call: Call
    ) -> common_pb2.Empty:
        """The predecessor has compared and sent everything."""
        target, chain = await self._syncing(request.chain, request.incarnation)
        await target.engine.sync()
        self._targets.sync_done(chain)
        return common_pb2.Empty()


def _need_trust(target: Target) -> None:
    if not target.trusted:
        why = ("its disk failed" if target.local_state == mgmtd_pb2.LOCAL_OFFLINE else
               "it lost power and may lack updates, or is out of touch with its neighbours: the "
               "manager decides")
        raise FsError(Kind.NOT_SERVING, why, f"target {target.target_id}")


def _whole(records: bytes) -> bytes:
    if len(records) % READ.size:
        raise FsError(Kind.INVALID_ARGUMENT, f"{len(records)} bytes are no whole reads")
    return records


def versions_of(state: ChunkState) -> set[int]:
    """The numbers of a chunk's versions."""
    return {version.number for version in (state.committed, state.pending) if version is not None}


def _holds_as_pending(state: ChunkState, version: int) -> bool:
    """Whether a version is the pending one; False: the committed. Raises CHUNK_NOT_FOUND."""
    if state.committed is not None and state.committed.number == version:
        return False
    if state.pending is not None and state.pending.number == version:
        return True
    raise FsError(Kind.CHUNK_NOT_FOUND, f"version {version} is not here", state.chunk_id.hex())


def carries_bytes(io: storage_pb2.WriteIO) -> bool:
    """Whether `length` bytes of the payload belong to this update; a COPY has them fetched."""
    return io.kind in {storage_pb2.WRITE, storage_pb2.REPLACE, storage_pb2.MERGE}


def check_update(io: storage_pb2.WriteIO, data: memoryview) -> None:
    """Raises FsError INVALID_ARGUMENT for an update that cannot be meant."""
    size = io.length if carries_bytes(io) else 0
    problem = ""
    if len(io.chunk_id) != CHUNK_ID_SIZE:
        problem = f"a chunk id has {CHUNK_ID_SIZE} bytes"
    elif io.kind not in storage_pb2.UpdateKind.values() or not io.kind:
        problem = f"unknown kind {io.kind}"
    elif (io.kind == storage_pb2.COPY) != io.HasField("source"):
        problem = "a copy has a source, and nothing else has"
    elif len(data) != size:
        problem = f"{len(data)} bytes came for an update of {size}"
    elif io.kind != storage_pb2.REMOVE and (
        io.chunk_size > CHUNK_SIZE_MAX or io.offset + io.length > io.chunk_size
    ):
        problem = f"[{io.offset}, +{io.length}) lies outside a chunk of {io.chunk_size}"
    else:
        problem = runs_problem(io)
    if problem:
        raise FsError(Kind.INVALID_ARGUMENT, problem, f"chunk {io.chunk_id.hex()}")


def chunk_info(state: ChunkState) -> storage_pb2.ChunkInfo:
    """The form that travels."""
    committed, pending = state.committed, state.pending
    return storage_pb2.ChunkInfo(
        chunk_id=state.chunk_id,
        committed_version=committed.number if committed else 0,
        pending_version=pending.number if pending else 0,
        length=committed.length if committed else 0,
        checksum=state.checksum,
        allocated=state.allocated,
    )
