"""Which chunks of a file there are: holes found and made, and ranges copied, on the servers.

Layer: shell, above `ChunkClient`. A chunk that no head lists is a hole, and so is what lies between
the end of a chunk's content and the next chunk. Holes within a chunk's content are not known: they
are zeros that take room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from luciole.checksum import block_checksums
from luciole.client.core.layout import Piece, chain_of, chunk_id, chunks_from, cut, parse_chunk_id
from luciole.client.core.runs import Run, laid_out
from luciole.client.remote.chunks import Changed, ChunkClient, PieceIO, do_nothing
from luciole.proto import meta_pb2, storage_pb2
from luciole.runtime import Runtime

WINDOW = 2048  # chunks looked at in one step when a hole is searched
FIRST = 16  # chunks asked for when the first with data is searched
UPDATES_MAX = 512  # punches under way at once
NOTHING = memoryview(b"")


class ChunkMap:
    """What the heads of a file's chains hold of it."""

    def __init__(self, runtime: Runtime, chunks: ChunkClient) -> None:
        self._runtime = runtime
        self._chunks = chunks

    async def next_data(self, inode: meta_pb2.Inode, offset: int) -> int | None:
        """The first byte at or behind `offset` that is not in a hole, or None. Raises FsError."""
        starts = await self._runtime.gather([
            partial(self._next_data_on, inode, chain_id, offset)
            for chain_id in self._chunks.chains(inode.layout)
        ])
        return min((start for start in starts if start is not None), default=None)

    async def _next_data_on(
        self, inode: meta_pb2.Inode, chain_id: int, offset: int
    ) -> int | None:
        size = inode.layout.chunk_size
        begin, end = chunks_from(inode.inode_id, offset // size)
        while True:
            page = await self._chunks.listed(chain_id, begin, end, FIRST)
            for chunk in page:
                start = parse_chunk_id(chunk.chunk_id)[1] * size
                if chunk.length and start + chunk.length > offset:
                    return max(start, offset)
            if len(page) < FIRST:
                return None
            begin = page[-1].chunk_id + b"\0"

    async def next_hole(self, inode: meta_pb2.Inode, offset: int, end: int) -> int:
        """The first byte at or behind `offset` that is in a hole; `end` if none is before it."""
        size = inode.layout.chunk_size
        first = offset // size
        while first * size < end:
            found = {
                parse_chunk_id(chunk.chunk_id)[1]: chunk.length
                for chunk in await self._between(inode, first, first + WINDOW)
            }
            for index in range(first, min(first + WINDOW, -(-end // size))):
                length = found.get(index, 0)
                if length < size:
                    return min(end, max(offset, index * size + length))
            first += WINDOW
        return end

    async def _between(
        self, inode: meta_pb2.Inode, first: int, stop: int
    ) -> list[storage_pb2.ChunkInfo]:
        """The chunks with first <= index < stop, in any order."""
        begin, last = chunks_from(inode.inode_id, first)
        end = min(last, chunks_from(inode.inode_id, stop)[0])
        lists = await self._runtime.gather([
            partial(self._chunks.listed, chain_id, begin, end)
            for chain_id in self._chunks.chains(inode.layout)
        ])
        return [chunk for chunks in lists for chunk in chunks]

    async def punch(
        self, inode: meta_pb2.Inode, begin: int, end: int, *,
        check: Callable[[], None] = do_nothing,
    ) -> Changed:
        """Makes [begin, end) read as zeros; chunks that lie in it wholly go. Raises FsError.

        `check` as for `ChunkClient.update`.
        """
        size = inode.layout.chunk_size
        table = self._chunks.table_of(inode.layout)
        pieces = []
        for chunk in await self._between(inode, begin // size, -(-end // size)):
            index = parse_chunk_id(chunk.chunk_id)[1]
            first, stop = max(0, begin - index * size), min(size, end - index * size)
            if chunk.length <= first and not chunk.pending_version:
                continue
            pieces.append(PieceIO(
                Piece(index, first, 0, 0), NOTHING,
                storage_pb2.WriteIO(
                    chunk_id=chunk.chunk_id, chunk_size=size, kind=storage_pb2.PUNCH,
                    offset=first, length=stop - first),
                chain_of(inode.layout, table, index)))
        losses: dict[int, int] = {}
        change = 0
        for start in range(0, len(pieces), UPDATES_MAX):
            done = await self._chunks.update(pieces[start : start + UPDATES_MAX], check=check)
            for chain_id, count in done.losses.items():
                losses[chain_id] = min(count, losses.get(chain_id, count))
            change += done.allocated_change
        return Changed(losses, change)

    async def merge(
        self, inode: meta_pb2.Inode, runs: Sequence[Run], *,
        check: Callable[[], None] = do_nothing,
    ) -> Changed:
        """Writes runs of one chunk, in order and apart, as one update; what lies between stays.

        `check` as for `ChunkClient.update`. Raises FsError.
        """
        data = laid_out(runs)
        size = inode.layout.chunk_size
        index, offset = divmod(runs[0].offset, size)
        places = [(run.offset - runs[0].offset, len(run.data)) for run in runs]
        message = storage_pb2.WriteIO(
            chunk_id=chunk_id(inode.inode_id, index), chunk_size=size, kind=storage_pb2.MERGE,
            offset=offset, length=len(data), checksums=block_checksums(offset, data),
            runs=[number for place in places for number in place])
        chain_id = chain_of(inode.layout, self._chunks.table_of(inode.layout), index)
        return await self._chunks.update(
            [PieceIO(Piece(index, offset, len(data), 0), data, message, chain_id)], check=check)

    @staticmethod
    def copyable(
        source: meta_pb2.Inode, source_offset: int, inode: meta_pb2.Inode, offset: int
    ) -> bool:
        """Whether each chunk of the range comes from one chunk, from the same place in it."""
        size = inode.layout.chunk_size
        return source.layout.chunk_size == size and source_offset % size == offset % size

    async def copy(
        self, source: meta_pb2.Inode, source_offset: int, inode: meta_pb2.Inode, offset: int,
        count: int, *, check: Callable[[], None] = do_nothing,
    ) -> Changed:
        """Copies `count` bytes of a `copyable` range among the storage services. Raises FsError.

        `check` as for `ChunkClient.update`.
        """
        tables = [self._chunks.table_of(file.layout) for file in (source, inode)]
        size = inode.layout.chunk_size
        shift = (source_offset - offset) // size
        pieces = []
        for piece in cut(offset, count, inode.layout):
            index = piece.chunk + shift
            pieces.append(PieceIO(
                piece, NOTHING,
                storage_pb2.WriteIO(
                    chunk_id=chunk_id(inode.inode_id, piece.chunk), chunk_size=size,
                    kind=storage_pb2.COPY, offset=piece.offset, length=piece.length,
                    source=storage_pb2.CopySource(
                        chain_id=chain_of(source.layout, tables[0], index),
                        chunk_id=chunk_id(source.inode_id, index), offset=piece.offset)),
                chain_of(inode.layout, tables[1], piece.chunk)))
        return await self._chunks.update(pieces, check=check)
