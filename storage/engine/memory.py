"""`MemoryEngine`: `BlockEngine` on a disk in memory that fails on command.

Layer: shell, for tests and the simulator. The disk may be full, rot, and lose what was not
flushed; what the engine then makes of it is the code that runs on real disks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from luciole.proto.services import FileRange
from luciole.storage.engine.blockmath import class_bytes
from luciole.storage.engine.content import place_of
from luciole.storage.engine.engine import BlockEngine, Durability
from luciole.storage.engine.ports import Batch
from luciole.storage.engine.records import Block, chunk_key, decode_record

CAPACITY_DEFAULT = 1 << 40


class MemoryStore:
    """`RecordStore` that remembers what was there at the last sync."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._before: dict[bytes, bytes | None] = {}  # changed keys, as of the last sync

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._values.get(key)

    def write(self, batch: Batch) -> None:
        """Makes all changes."""
        for key, value in batch.changes:
            self._before.setdefault(key, self._values.get(key))
            self._set(key, value)

    def scan(self, begin: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key (< end) in order, as they were when the scan began."""
        stop = len(self._keys) if end is None else bisect_left(self._keys, end)
        keys = self._keys[bisect_left(self._keys, begin) : stop]
        return iter([(key, self._values[key]) for key in keys])

    def sync(self) -> None:
        """What is there now stays."""
        self._before.clear()

    def lose(self) -> None:
        """Goes back to the last sync."""
        for key, value in self._before.items():
            self._set(key, value)
        self._before.clear()

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is not None:
            if key not in self._values:
                insort(self._keys, key)
            self._values[key] = value
        elif self._values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]


class MemoryDisk:
    """`BlockDisk` that remembers what was there at the last flush.

    Args:
        capacity: its size in bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.full = False
        self._capacity = capacity
        self._used = 0
        self._blocks: dict[Block, bytearray] = {}
        self._before: dict[Block, bytearray] = {}  # changed blocks, as of the last flush

    def where(self, block: Block) -> str:
        """A name for messages."""
        return f"memory class {block.size_class} block {block.number}"

    def resume(self, ends: Sequence[int]) -> None:
        """Nothing to do."""

    def prepare(self, block: Block, *, hole: bool) -> None:
        """Blocks take room from when they are handed out."""
        if block not in self._blocks:
            self._blocks[block] = bytearray()
            self._used += class_bytes(block.size_class)

    def read(self, block: Block, offset: int, views: Sequence[memoryview]) -> int:
        """Fills `views`; short where nothing was ever written."""
        source = memoryview(self._blocks.get(block, b""))[offset:]
        position = 0
        for view in views:
            piece = source[position : position + len(view)]
            view[: len(piece)] = piece
            position += len(piece)
        return position

    def locate_cached(self, block: Block, offset: int, size: int) -> FileRange | None:
        """Nothing here lies in a file."""
        return None

    def write(self, block: Block, offset: int, views: Sequence[memoryview]) -> None:
        """Writes `views` end to end."""
        content = self._blocks[block]
        self._before.setdefault(block, bytearray(content))
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        for view in views:
            content[offset : offset + len(view)] = view
            offset += len(view)

    def copy(
        self, source: Block, source_offset: int, target: Block, target_offset: int, count: int
    ) -> None:
        """Copies `count` bytes."""
        content = bytes(self._blocks[source][source_offset : source_offset + count])
        self.write(target, target_offset, [memoryview(content)])

    def punch(self, size_class: int, first: int, count: int) -> None:
        """Forgets the blocks."""
        for number in range(first, first + count):
            if self._blocks.pop(Block(size_class, number), None) is not None:
                self._used -= class_bytes(size_class)

    def flush(self, *, everything: bool = False) -> None:
        """What is there now stays."""
        self._before.clear()

    def space(self) -> tuple[int, int]:
        """Size, and free bytes: none when told to be full."""
        return self._capacity, 0 if self.full else self._capacity - self._used

    def lose(self) -> None:
        """Goes back to the last flush."""
        self._blocks.update(self._before)
        self._used = sum(class_bytes(block.size_class) for block in self._blocks)
        self._before.clear()

    def flip(self, block: Block, offset: int) -> None:
        """Flips one bit of a stored byte."""
        self._blocks[block][offset] ^= 0x01


class MemoryEngine(BlockEngine):
    """`ChunkEngine` in memory, on a `disk_type`.

    Args:
        capacity: size of the disk in bytes.
        quota, durability: as of FileEngine.
    """

    disk_type = MemoryDisk

    def __init__(
        self,
        *,
        capacity: int = CAPACITY_DEFAULT,
        quota: int | None = None,
        durability: Durability = "process",
        content_id: int = 1,
    ) -> None:
        self._memory_store = MemoryStore()
        self._memory_disk = self.disk_type(capacity)
        super().__init__(
            self._memory_store, self._memory_disk, durability=durability, quota=quota, reserve=0,
            content_id=content_id,
        )

    def fill_disk(self, full: bool = True) -> None:
        """From now on the disk has no room left (or has it again)."""
        self._memory_disk.full = full

    def corrupt(self, chunk_id: bytes, offset: int) -> None:
        """Flips a bit of the committed version on disk. `offset` lies within its length."""
        record = decode_record(self._memory_store.get(chunk_key(chunk_id)) or b"")
        assert record.committed is not None
        assert offset < record.committed.length
        place = place_of(record.committed, offset)
        self._memory_disk.flip(place.block, place.offset)

    def power_loss(self, *, records_survive: bool = False, bytes_survive: bool = False) -> None:
        """The power fails and comes back; the engine has recovered when this returns.

        Args:
            records_survive: the metadata written since the last sync happened to reach the disk.
            bytes_survive: the bytes written since the last sync did.
        """
        if not bytes_survive:
            self._memory_disk.lose()
        if not records_survive:
            self._memory_store.lose()
        self._boot_id += "+"
        self._recover()

    def restart(self) -> None:
        """The process dies and starts again; nothing is lost."""
        self._recover()
