"""Verified pieces of chunks that have no pending version, in memory: small reads need no disk.

Layer: shell of the engine. A read of 4 KiB has to read and verify the 64 KiB piece that it lies in;
once a second one has come to that piece, further ones need not. The engine is the only one that
changes its chunks, so the cache is exact: `forget` is called in the step that changes a chunk's
record, and what was looked up before is not kept after it.

The lock guards the count of bytes and what is evicted; looking up takes none. The chunks that came
first go first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from luciole.checksum import BLOCK_SIZE
from luciole.storage.engine.records import StoredVersion

CHUNKS_MAX = 65536


class Clean:
    """A chunk's committed version, while it has no other."""

    __slots__ = ("_wanted", "checksums", "length", "pieces", "version")

    def __init__(self, version: StoredVersion) -> None:
        self.version = version
        self.length = version.length
        self.checksums = version.block_checksums()
        self.pieces: list[memoryview | None] = [None] * -(-version.length // BLOCK_SIZE)
        self._wanted = bytearray(len(self.pieces))

    def is_wanted_again(self, index: int) -> bool:
        """Notes that a piece is wanted; returns whether it was before."""
        if self._wanted[index]:
            return True
        self._wanted[index] = 1
        return False


class CleanChunks:
    """Args: bytes_max: of pieces; the records of chunks are bounded by their number."""

    def __init__(self, bytes_max: int) -> None:
        self._chunks: dict[bytes, Clean] = {}
        self._bytes_max = bytes_max
        self._bytes = 0
        self._guard = threading.Lock()
        self.changes = 0
        self.get = self._chunks.get

    def add(self, chunk_id: bytes, clean: Clean, changes: int) -> None:
        """Keeps a chunk that was looked up when there had been so many `changes`."""
        with self._guard:
            if changes == self.changes:
                self._chunks[chunk_id] = clean
                self._evict(CHUNKS_MAX)

    def keep(self, chunk_id: bytes, clean: Clean, index: int, piece: memoryview) -> None:
        """Keeps a verified piece, unless the chunk was forgotten meanwhile."""
        with self._guard:
            if self._chunks.get(chunk_id) is clean and clean.pieces[index] is None:
                clean.pieces[index] = piece
                self._bytes += len(piece)
                self._evict(CHUNKS_MAX)

    def forget(self, chunk_ids: Iterable[bytes]) -> None:
        """The records of these chunks change now."""
        with self._guard:
            self.changes += 1
            for chunk_id in chunk_ids:
                self._drop(chunk_id)

    def _evict(self, chunks_max: int) -> None:
        while self._bytes > self._bytes_max or len(self._chunks) > chunks_max:
            self._drop(next(iter(self._chunks)))

    def _drop(self, chunk_id: bytes) -> None:
        clean = self._chunks.pop(chunk_id, None)
        if clean is not None:
            self._bytes -= sum(len(piece) for piece in clean.pieces if piece is not None)
