"""The chunks of files as a client sees them: striped I/O with checksums, batched per node.

Layer: shell. An I/O is cut at chunks; the pieces for one node travel in one message, the nodes are
asked side by side. Each piece has a result of its own, and only those that failed are tried
again, with newer routing, until the total deadline. A write keeps its tag through all attempts,
so that the replicas apply it once. Bulk bytes are never copied here: writes are sent from slices
of the caller's buffer, reads are received into slices of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from luciole.checksum import block_checksums
from luciole.client.core.layout import (
    Piece,
    allocated_bytes,
    chain_of,
    chains_of,
    chunk_id,
    chunks_from,
    cut,
    parse_chunk_id,
)
from luciole.client.remote.channels import Channels
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind, Retry
from luciole.inline import chunks_end
from luciole.proto import common_pb2, meta_pb2, mgmtd_pb2, storage_pb2
from luciole.retry import retrying
from luciole.routing import RoutingTable, head, serving_targets, versioned, written_targets
from luciole.runtime import Runtime

BATCH_BYTES_MAX = 16 * 1024 * 1024
BATCH_PIECES_MAX = 128
REMOVE_PAGE = 256
TRIM_ROUNDS = 8


@dataclass
class PieceIO:
    """One piece of a read or write on its way."""

    piece: Piece
    view: memoryview
    message: storage_pb2.WriteIO | storage_pb2.ReadIO
    chain_id: int
    failed_targets: set[int] = field(default_factory=set)
    error: FsError | None = None
    done: bool = False
    length: int = 0  # of the chunk, after a write
    length_before: int = 0
    losses: int = 0  # of the chain, as of the last attempt

    @property
    def hopeless(self) -> bool:
        """Whether no further attempt can help."""
        return self.error is not None and self.error.facts.retry is Retry.NEVER


class Changed(NamedTuple):
    """What an update of some chunks has done."""

    losses: dict[int, int]  # chain written -> how many losses (mgmtd.proto) it had had by then
    allocated_change: int  # bytes of blocks


def do_nothing() -> None:
    """A check that nothing fails."""


class ChunkClient:
    """Reads and writes files' chunks on their chains."""

    def __init__(
        self,
        runtime: Runtime,
        connections: Connections,
        routing: RoutingCache,
        client_id: bytes,
        *,
        attempt_seconds: float,
        total_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._connections = connections
        self._routing = routing
        self._channels = Channels(client_id)
        self._attempt_seconds = attempt_seconds
        self._total_seconds = total_seconds
        self._turns: dict[int, int] = {}  # chain -> reads so far

    def table_of(self, layout: meta_pb2.Layout) -> mgmtd_pb2.ChainTable:
        """The chains that files of a layout lie on."""
        return self._routing.current().table(layout.table_id, layout.table_version)

    def chains(self, layout: meta_pb2.Layout) -> list[int]:
        """Chains that a file's chunks may lie on."""
        return chains_of(layout, self.table_of(layout))

    def chains_below(self, layout: meta_pb2.Layout, length: int) -> list[int]:
        """Chains that may hold something of a file's first `length` bytes."""
        return self.chains(layout)[: -(-length // layout.chunk_size)]

    # Writing.

    async def write(
        self, inode: meta_pb2.Inode, offset: int, data: memoryview, *,
        check: Callable[[], None] = do_nothing,
    ) -> Changed:
        """Writes `data` (bytes, one dimension) at `offset`; `check` as for `update`.

        Raises FsError; then any part of the range may hold old or new bytes.
        """
        table = self.table_of(inode.layout)
        pieces = []
        for piece in cut(offset, len(data), inode.layout):
            view = data[piece.position : piece.position + piece.length]
            message = storage_pb2.WriteIO(
                chunk_id=chunk_id(inode.inode_id, piece.chunk),
                chunk_size=inode.layout.chunk_size, kind=storage_pb2.WRITE,
                offset=piece.offset, length=piece.length,
                checksums=block_checksums(piece.offset, view))
            pieces.append(
                PieceIO(piece, view, message, chain_of(inode.layout, table, piece.chunk)))
        return await self.update(pieces, check=check)

    async def update(
        self, pieces: list[PieceIO], *, check: Callable[[], None] = do_nothing
    ) -> Changed:
        """Carries out updates of different chunks, each once.

        Args: check: is called before each attempt; what it raises ends the update, of which any
            part may have been done.
        """
        tags = [self._channels.take() for _ in pieces]
        for piece, tag in zip(pieces, tags, strict=True):
            assert isinstance(piece.message, storage_pb2.WriteIO)
            piece.message.tag.CopyFrom(tag)
        try:
            await self._until_done(pieces, self._head_of, self._send_writes, check=check)
        finally:
            for tag in tags:
                self._channels.give_back(tag)
        return _changed(pieces)

    def _head_of(self, table: RoutingTable, piece: PieceIO) -> int:
        return head(table.chain(piece.chain_id))

    async def _send_writes(
        self, node: mgmtd_pb2.Node, batch: list[PieceIO], timeout: float
    ) -> None:
        request = storage_pb2.WriteRequest()
        payload = []
        for piece in batch:
            assert isinstance(piece.message, storage_pb2.WriteIO)
            request.ios.append(piece.message)
            if len(piece.view):
                payload.append(piece.view)
        reply = await self._connections.storage(node).write(
            request, timeout=timeout, payload=payload)
        for piece, result in zip(batch, reply.results, strict=True):
            _settle(piece, result.error if result.HasField("error") else None)
            piece.length = result.length
            piece.length_before = result.length_before

    # Reading.

    async def read(self, inode: meta_pb2.Inode, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` from `offset`; what was never written reads as zeros. Raises FsError."""
        pieces = self._pieces(inode, offset, buffer)
        await self._until_done(pieces, self._reader_of, self._send_reads)

    async def read_each(
        self, wanted: Sequence[tuple[meta_pb2.Inode, int, memoryview]]
    ) -> list[FsError | None]:
        """Reads many (inode, offset, buffer) side by side; returns each one's failure, or None.

        What was never written reads as zeros. One that fails does not hold up the others.
        """
        pieces: list[PieceIO] = []
        owners: list[int] = []
        for owner, (inode, offset, buffer) in enumerate(wanted):
            found = self._pieces(inode, offset, buffer)
            pieces += found
            owners += [owner] * len(found)
        failures: list[FsError | None] = [None] * len(wanted)
        try:
            await self._until_done(pieces, self._reader_of, self._send_reads, each=True)
        except FsError:
            for owner, piece in zip(owners, pieces, strict=True):
                failures[owner] = failures[owner] or piece.error
        return failures

    def _pieces(self, inode: meta_pb2.Inode, offset: int, buffer: memoryview) -> list[PieceIO]:
        table = self.table_of(inode.layout)
        return [
            PieceIO(
                piece, buffer[piece.position : piece.position + piece.length],
                storage_pb2.ReadIO(
                    chunk_id=chunk_id(inode.inode_id, piece.chunk), offset=piece.offset,
                    length=piece.length, unverified=True),
                chain_of(inode.layout, table, piece.chunk))
            for piece in cut(offset, len(buffer), inode.layout)
        ]

    def _reader_of(self, table: RoutingTable, piece: PieceIO) -> int:
        """A serving replica, in turn, avoiding those that failed in this call."""
        serving = serving_targets(table.chain(piece.chain_id))
        if not serving:
            return head(table.chain(piece.chain_id))  # raises, naming the chain
        fresh = [target for target in serving if target not in piece.failed_targets]
        candidates = fresh or serving
        # Each chain has turns of its own: a file's chunks take turns among chains, and in step
        # with them one count for all would lead every read of a scan to the same node.
        turn = self._turns.get(piece.chain_id)
        if turn is None:
            turn = self._runtime.entropy.below(1 << 16)
        self._turns[piece.chain_id] = turn + 1
        return candidates[turn % len(candidates)]

    async def _send_reads(
        self, node: mgmtd_pb2.Node, batch: list[PieceIO], timeout: float
    ) -> None:
        """Asks a replica; twice for bytes that it had not looked at and that are not right.

        They may lie where others were written meanwhile, or be damaged: then it is to notice.
        """
        deadline = self._runtime.clock.now() + timeout
        try:
            await self._ask(node, batch, timeout)
        finally:
            suspect = [piece for piece in batch if not piece.done and _trust(piece)]
        again = [piece for piece in suspect
                 if piece.error is not None and piece.error.kind == Kind.CHECKSUM_MISMATCH]
        if again:
            remaining = max(0.001, deadline - self._runtime.clock.now())
            await _guarded(self._ask, node, again, remaining)

    async def _ask(self, node: mgmtd_pb2.Node, batch: list[PieceIO], timeout: float) -> None:
        request = storage_pb2.ReadRequest()
        for piece in batch:
            assert isinstance(piece.message, storage_pb2.ReadIO)
            request.ios.append(piece.message)

        sent = False

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            nonlocal sent
            sent = True
            if len(reply.results) != len(batch):
                raise FsError(Kind.CORRUPT_FRAME, "results and requests differ in number")
            return [
                piece.view[: result.length]
                for piece, result in zip(batch, reply.results, strict=True) if result.length
            ]

        reply = await self._connections.storage(node).read(
            request, timeout=timeout, sink=sink, into=[piece.view for piece in batch])
        if len(reply.results) != len(batch):
            raise FsError(Kind.CORRUPT_FRAME, "results and requests differ in number")
        for piece, result in zip(batch, reply.results, strict=True):
            self._accept_read(piece, result, verify=sent)

    @staticmethod
    def _accept_read(
        piece: PieceIO, result: storage_pb2.ReadResult, *, verify: bool
    ) -> None:
        """Args: verify: the bytes were sent; else the server has verified them in their place."""
        if result.HasField("error") and result.error.kind != Kind.CHUNK_NOT_FOUND:
            _settle(piece, result.error)
            return
        found = piece.view[: result.length]
        if verify and block_checksums(piece.piece.offset, found) != list(result.checksums):
            _settle(piece, common_pb2.Error(
                kind=Kind.CHECKSUM_MISMATCH, message="bytes arrived damaged",
                subject=piece.message.chunk_id.hex()))
            return
        missing = len(piece.view) - result.length
        if missing:
            piece.view[result.length :] = bytes(missing)  # a hole
        _settle(piece, None)

    # Trying until done.

    async def _until_done(
        self,
        pieces: list[PieceIO],
        choose: Callable[[RoutingTable, PieceIO], int],
        send: Callable[[mgmtd_pb2.Node, list[PieceIO], float], Awaitable[None]],
        *,
        check: Callable[[], None] = do_nothing,
        each: bool = False,
    ) -> None:
        """Sends what is not done, again and again. Raises the first lasting error.

        With `each`, a lasting error of one is that one's end, and the others go on.
        """
        deadline = self._runtime.clock.now() + self._total_seconds

        async def attempt(number: int) -> None:
            check()
            table = self._routing.current()
            open_pieces = [piece for piece in pieces if not piece.done and not piece.hopeless]
            batches = _batches(table, open_pieces, choose)
            remaining = max(0.001, deadline - self._runtime.clock.now())
            timeout = min(self._attempt_seconds, remaining)
            await self._runtime.gather([
                partial(_guarded, send, node, batch, timeout) for node, batch in batches
            ])
            failures = [piece.error for piece in open_pieces if piece.error is not None]
            lasting = [error for error in failures if error.facts.retry is Retry.NEVER]
            passing = [error for error in failures if error.facts.retry is not Retry.NEVER]
            if failures:
                raise (passing + lasting if each else lasting + passing)[0]

        await retrying(self._runtime, deadline, attempt, self._reroute)
        if any(piece.hopeless for piece in pieces):
            raise next(piece.error for piece in pieces if piece.error is not None)

    async def _reroute(self, seconds: float) -> None:
        await self._routing.newer_than(self._routing.version, seconds)

    # Whole files.

    async def trim(
        self, inode: meta_pb2.Inode, pending: Callable[[], Awaitable[bool]]
    ) -> None:
        """Removes everything beyond the end from every chain of the file.

        What is to go is listed first. Then `pending` is asked whether the cut is still to be
        finished: if so, all that was listed is from before its end, and exactly those versions
        are removed, however late. Raises FsError, BUSY when others write there all the time.
        """
        for _ in range(TRIM_ROUNDS):
            listed = await self._beyond(inode)
            if not any(listed.values()) or not await pending():
                return
            done = await self._runtime.gather([
                partial(self._take_off, inode, chain_id, chunks)
                for chain_id, chunks in listed.items() if chunks
            ])
            if all(done):
                return
        raise FsError(Kind.BUSY, "the file is written beyond its new end all the time",
                      f"inode {inode.inode_id}")

    async def _beyond(self, inode: meta_pb2.Inode) -> dict[int, list[storage_pb2.ChunkInfo]]:
        """What the heads hold beyond the end, by chain."""
        size, end = inode.layout.chunk_size, chunks_end(inode)
        chains = self.chains(inode.layout)
        lists = await self._runtime.gather([
            partial(self.listed, chain_id, *chunks_from(inode.inode_id, end // size))
            for chain_id in chains
        ])
        border = chunk_id(inode.inode_id, end // size)
        inside = end % size
        return {chain_id: [
            chunk for chunk in chunks
            if chunk.chunk_id != border or chunk.length > inside or chunk.pending_version
        ] for chain_id, chunks in zip(chains, lists, strict=True)}

    async def listed(
        self, chain_id: int, begin: bytes, end: bytes, limit: int | None = None
    ) -> list[storage_pb2.ChunkInfo]:
        """The chunks of a range in order, all or the first `limit`, as the head knows them."""
        found: list[storage_pb2.ChunkInfo] = []
        while True:
            begin_page = found[-1].chunk_id + b"\0" if found else begin

            async def page(_: int, begin: bytes = begin_page) -> storage_pb2.ListChunksReply:
                table = self._routing.current()
                chain = table.chain(chain_id)
                target = head(chain)
                return await self._connections.storage(table.node_of(target)).list_chunks(
                    storage_pb2.ListChunksRequest(
                        target_id=target, begin=begin, end=end, limit=limit or 0,
                        chain=versioned(chain)),
                    timeout=self._attempt_seconds)

            reply = await retrying(self._runtime, self._deadline(), page, self._reroute)
            found.extend(reply.chunks)
            if not reply.more or (limit and len(found) >= limit):
                return found

    async def _take_off(
        self, inode: meta_pb2.Inode, chain_id: int, chunks: list[storage_pb2.ChunkInfo]
    ) -> bool:
        """Removes or cuts listed chunks of one chain; returns whether none had changed."""
        size, end = inode.layout.chunk_size, chunks_end(inode)
        border = chunk_id(inode.inode_id, end // size)
        inside = end % size
        whole = [chunk for chunk in chunks if not inside or chunk.chunk_id != border]
        done = True
        for first in range(0, len(whole), REMOVE_PAGE):
            done &= await self._remove_listed(chain_id, whole[first : first + REMOVE_PAGE])
        if len(whole) < len(chunks):
            done &= await self._cut(inode, chain_id, chunks[0], inside)
        return done

    async def _remove_listed(self, chain_id: int, chunks: list[storage_pb2.ChunkInfo]) -> bool:
        async def attempt(_: int) -> bool:
            table = self._routing.current()
            chain = table.chain(chain_id)
            reply = await self._connections.storage(table.node_of(head(chain))).remove_listed(
                storage_pb2.RemoveListedRequest(chain=versioned(chain), chunks=chunks),
                timeout=self._attempt_seconds)
            return not reply.kept

        return await retrying(self._runtime, self._deadline(), attempt, self._reroute)

    async def _cut(
        self, inode: meta_pb2.Inode, chain_id: int, listed: storage_pb2.ChunkInfo, inside: int
    ) -> bool:
        message = storage_pb2.WriteIO(
            chunk_id=listed.chunk_id, chunk_size=inode.layout.chunk_size,
            kind=storage_pb2.TRUNCATE, length=inside,
            if_versions=[listed.committed_version, listed.pending_version])
        piece = PieceIO(Piece(chunks_end(inode) // inode.layout.chunk_size, 0, inside, 0),
                        memoryview(b""), message, chain_id)
        await self.update([piece])
        return piece.length <= inside

    def _deadline(self) -> float:
        return self._runtime.clock.now() + self._total_seconds

    async def data_end(self, inode: meta_pb2.Inode) -> int:
        """The end of the last byte that any chain holds of a file, as the heads know it."""
        ends = await self._runtime.gather([
            partial(self._data_end_on, inode, chain_id) for chain_id in self.chains(inode.layout)
        ])
        return max(ends)

    async def _data_end_on(self, inode: meta_pb2.Inode, chain_id: int) -> int:
        chunks = await self.listed(chain_id, *chunks_from(inode.inode_id, 0))
        if not chunks:
            return 0
        _, index = parse_chunk_id(chunks[-1].chunk_id)
        return index * inode.layout.chunk_size + chunks[-1].length

    async def allocated(self, inode: meta_pb2.Inode) -> int:
        """Bytes of blocks that all chunks take, each counted on one replica."""
        lists = await self._runtime.gather([
            partial(self.listed, chain_id, *chunks_from(inode.inode_id, 0))
            for chain_id in self.chains(inode.layout)
        ])
        return sum(allocated_bytes(chunk.length) for chunks in lists for chunk in chunks)

    async def remove_all(
        self, inodes: Sequence[meta_pb2.Inode], *, everywhere: bool = False
    ) -> None:
        """Removes every chunk of files whose recorded length is exact.

        Args:
            everywhere: look on all chains of the layout, not on those below the length alone.
        """
        ranges: dict[int, list[storage_pb2.ChunkRange]] = {}
        for inode in inodes:
            chains = (self.chains(inode.layout) if everywhere
                      else self.chains_below(inode.layout, chunks_end(inode)))
            for chain_id in chains:
                ranges.setdefault(chain_id, []).append(_range(inode.inode_id, 0))
        await self._remove(ranges)

    async def _remove(self, ranges: dict[int, list[storage_pb2.ChunkRange]]) -> None:
        await self._runtime.gather([
            partial(self._remove_on, chain_id, wanted) for chain_id, wanted in ranges.items()
        ])

    async def _remove_on(self, chain_id: int, ranges: list[storage_pb2.ChunkRange]) -> None:
        async def page(_: int) -> int:
            table = self._routing.current()
            chain = table.chain(chain_id)
            stub = self._connections.storage(table.node_of(head(chain)))
            reply = await stub.remove_ranges(
                storage_pb2.RemoveRangesRequest(
                    chain=versioned(chain), ranges=ranges, limit=REMOVE_PAGE),
                timeout=self._attempt_seconds)
            return reply.ranges_done

        while ranges:
            ranges = ranges[
                await retrying(self._runtime, self._deadline(), page, self._reroute):]

    async def sync(self, chain_ids: Iterable[int]) -> dict[int, int]:
        """Makes everything acknowledged on these chains durable on all their replicas.

        Returns how many losses (mgmtd.proto) each chain has had by then.
        """
        wanted = sorted(chain_ids)

        async def attempt(_: int) -> dict[int, int]:
            table = self._routing.current()
            by_node: dict[int, storage_pb2.SyncRequest] = {}
            for chain_id in wanted:
                chain = table.chain(chain_id)
                head(chain)
                for target in written_targets(chain):
                    request = by_node.setdefault(
                        table.node_of(target).node_id, storage_pb2.SyncRequest())
                    request.chains.append(versioned(chain))
            await self._runtime.gather([
                partial(self._sync_node, table.node(node_id), request)
                for node_id, request in by_node.items()
            ])
            return {chain_id: table.chain(chain_id).losses for chain_id in wanted}

        return await retrying(self._runtime, self._deadline(), attempt, self._reroute)

    async def _sync_node(
        self, node: mgmtd_pb2.Node, request: storage_pb2.SyncRequest
    ) -> common_pb2.Empty:
        return await self._connections.storage(node).sync(
            request, timeout=self._attempt_seconds)


def _changed(pieces: list[PieceIO]) -> Changed:
    losses: dict[int, int] = {}
    change = 0
    for piece in pieces:
        losses[piece.chain_id] = min(piece.losses, losses.get(piece.chain_id, piece.losses))
        change += allocated_bytes(piece.length) - allocated_bytes(piece.length_before)
    return Changed(losses, change)


def _range(inode_id: int, index: int) -> storage_pb2.ChunkRange:
    begin, end = chunks_from(inode_id, index)
    return storage_pb2.ChunkRange(begin=begin, end=end)


def _settle(piece: PieceIO, error: common_pb2.Error | None) -> None:
    piece.error = FsError.from_proto(error) if error else None
    piece.done = error is None


def _trust(piece: PieceIO) -> bool:
    """From now on the replica has to verify what it sends; False: it had to before."""
    assert isinstance(piece.message, storage_pb2.ReadIO)
    before = piece.message.unverified
    piece.message.unverified = False
    return before


async def _guarded(
    send: Callable[[mgmtd_pb2.Node, list[PieceIO], float], Awaitable[None]],
    node: mgmtd_pb2.Node,
    batch: list[PieceIO],
    timeout: float,
) -> None:
    """A call that failed as a whole failed for each of its pieces."""
    try:
        await send(node, batch, timeout)
    except FsError as failure:
        for piece in batch:
            piece.error = failure


def _batches(
    table: RoutingTable, pieces: list[PieceIO], choose: Callable[[RoutingTable, PieceIO], int]
) -> list[tuple[mgmtd_pb2.Node, list[PieceIO]]]:
    """Groups pieces by the node of the target chosen for each, within the message limits."""
    batches: list[tuple[mgmtd_pb2.Node, list[PieceIO]]] = []
    filling: dict[int, tuple[list[PieceIO], int]] = {}
    for piece in pieces:
        try:
            target = choose(table, piece)
            node = table.node_of(target)
        except FsError as failure:
            piece.error = failure
            continue
        piece.message.chain.CopyFrom(versioned(table.chain(piece.chain_id)))
        piece.failed_targets.add(target)
        piece.losses = table.chain(piece.chain_id).losses
        batch, size = filling.get(node.node_id, ([], 0))
        full = len(batch) == BATCH_PIECES_MAX or size + piece.piece.length > BATCH_BYTES_MAX
        if not batch or full:
            batch, size = [], 0
            batches.append((node, batch))
        batch.append(piece)
        filling[node.node_id] = (batch, size + piece.piece.length)
    return batches
