"""What an engine stands on: a disk of blocks and an ordered map of records.

Layer: pure. `FileEngine` has block files and RocksDB here (blocks.py, store.py), `MemoryEngine` a
disk that forgets on command (memory.py); everything above is the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from luciole.proto.services import FileRange
from luciole.storage.engine.records import Block


class Batch:
    """Changes of records that take effect together, in order."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Writes a record."""
        self.changes.append((key, value))

    def delete(self, key: bytes) -> None:
        """Removes a record if it is there."""
        self.changes.append((key, None))


class RecordStore(Protocol):
    """An ordered map of bytes with atomic batches."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def write(self, batch: Batch) -> None:
        """Makes all changes, atomically; they survive the death of the process."""

    def scan(self, begin: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key (< end) in order, as they were when the scan began."""

    def sync(self) -> None:
        """Makes every batch written so far durable against power loss."""


class BlockDisk(Protocol):
    """Blocks of bytes, in size classes."""

    def where(self, block: Block) -> str:
        """Names the place of a block in messages: a path."""

    def resume(self, ends: Sequence[int]) -> None:
        """States how many blocks of each class were ever handed out, when the target opens."""

    def prepare(self, block: Block, *, hole: bool) -> None:
        """Makes sure that the disk has room under a block that was just handed out.

        Args:
            block: its place.
            hole: whether it was used before and its room given back since.
        """

    def read(self, block: Block, offset: int, views: Sequence[memoryview]) -> int:
        """Fills `views` from `offset` of the block. Returns bytes read: fewer only at file end."""

    def locate_cached(self, block: Block, offset: int, size: int) -> FileRange | None:
        """Where these bytes are in a file, if they are in memory already; else None."""

    def write(self, block: Block, offset: int, views: Sequence[memoryview]) -> None:
        """Writes `views` end to end at `offset` of the block."""

    def copy(
        self, source: Block, source_offset: int, target: Block, target_offset: int, count: int
    ) -> None:
        """Copies `count` bytes of one block to another."""

    def punch(self, size_class: int, first: int, count: int) -> None:
        """Gives the room of neighbouring free blocks back to the disk."""

    def flush(self, *, everything: bool = False) -> None:
        """Makes what was written since the last flush durable (or all). One caller at a time."""

    def space(self) -> tuple[int, int]:
        """Size and free bytes of the disk under the target."""
