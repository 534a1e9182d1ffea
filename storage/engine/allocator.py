"""Which blocks are free: free lists in memory, rebuilt from the chunk records at every open.

Layer: pure, thread-safe; no call blocks. Nothing about allocation is stored, so it cannot
disagree with the records, and a block taken for an update that was never recorded is free again
after a restart.

A block is in one of these states:

- *held*: some record refers to it, or an update is being written into it;
- *waiting*: no record refers to it any more, but after a power loss an older record might. It
  becomes free when two flushes have ended since: the first makes the change of the record
  durable, the second the end of its undo record (recovery.py);
- *free*: may be handed out; last in, first out, because its pages are probably in memory and
  dirtying those again costs a tenth of dirtying new ones (measured: 13 against 0.5 GB/s);
- *hole*: free, and its room was given back to the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from luciole.errors import FsError, Kind
from luciole.storage.engine.blockmath import SIZE_CLASSES, class_bytes
from luciole.storage.engine.records import Block


class Allocator:
    """The free blocks of one target.

    Args:
        quota: bytes of blocks (held and waiting) that the target may use; None: no bound.
    """

    def __init__(self, quota: int | None) -> None:
        self._quota = quota
        self._guard = threading.Lock()
        self._ends = [0] * SIZE_CLASSES
        self._free: list[list[int]] = [[] for _ in range(SIZE_CLASSES)]
        self._holes: list[list[int]] = [[] for _ in range(SIZE_CLASSES)]
        self._least_free = [0] * SIZE_CLASSES  # since `take_idle` was last called
        self._waiting: list[Block] = []
        self._settling: list[Block] = []
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes of held and waiting blocks."""
        return self._used

    def restore(self, held: Iterable[Block]) -> None:
        """Starts from the blocks that the records hold: every other one below is free.

        Raises FsError INTERNAL if one is named twice.
        """
        used: list[set[int]] = [set() for _ in range(SIZE_CLASSES)]
        for block in held:
            if block.number in used[block.size_class]:
                raise FsError(
                    Kind.INTERNAL,
                    "two chunks claim one block: remove this target's directory and let the "
                    "chain fill it again",
                    f"class {block.size_class} block {block.number}",
                )
            used[block.size_class].add(block.number)
        for size_class, numbers in enumerate(used):
            end = max(numbers, default=-1) + 1
            self._ends[size_class] = end
            self._free[size_class] = [i for i in range(end) if i not in numbers]
            self._used += len(numbers) * class_bytes(size_class)

    def ends(self) -> list[int]:
        """Per class, how many blocks were ever handed out."""
        return list(self._ends)

    def allocate(self, size_class: int, *, fresh: bool) -> tuple[Block, bool]:
        """Takes a block: a free one, else a hole, else one never used.

        Args:
            size_class: which.
            fresh: whether the disk may give room; without, only a free block will do.

        Returns:
            The block, and whether it is a hole. Raises FsError NO_SPACE.
        """
        size = class_bytes(size_class)
        with self._guard:
            if self._quota is not None and self._used + size > self._quota:
                raise FsError(
                    Kind.NO_SPACE,
                    f"the target uses {self._used} of its {self._quota} bytes: raise its quota, "
                    "or remove data",
                )
            hole = False
            if self._free[size_class]:
                number = self._free[size_class].pop()
                self._least_free[size_class] = min(
                    self._least_free[size_class], len(self._free[size_class])
                )
            elif not fresh:
                raise FsError(
                    Kind.NO_SPACE, "the disk is full up to its reserve: remove data or add disks"
                )
            elif self._holes[size_class]:
                number, hole = self._holes[size_class].pop(), True
            else:
                number = self._ends[size_class]
                self._ends[size_class] += 1
            self._used += size
            return Block(size_class, number), hole

    def give_back(self, block: Block, *, hole: bool = False) -> None:
        """Frees a block at once: no record ever referred to it, or none can any more."""
        with self._guard:
            self._release(block, self._holes if hole else self._free)

    def retire(self, blocks: Iterable[Block]) -> None:
        """Blocks that the newest records no longer hold begin to wait."""
        with self._guard:
            self._waiting.extend(blocks)

    def begin_flush(self) -> tuple[list[Block], list[Block]]:
        """Takes what waits. Hand it to `end_flush` once the flush has succeeded."""
        with self._guard:
            taken = (self._waiting, self._settling)
            self._waiting, self._settling = [], []
            return taken

    def end_flush(self, taken: tuple[list[Block], list[Block]]) -> None:
        """A flush ended: what it found waiting waits for one more, what had waited is free."""
        waited_once, waited_twice = taken
        with self._guard:
            self._settling.extend(waited_once)
            for block in waited_twice:
                self._release(block, self._free)

    def reclaimable(self) -> bool:
        """Whether flushing and trimming could make room."""
        return bool(self._waiting or self._settling or any(self._free))

    def take_free(self) -> list[list[int]]:
        """Takes every free block, per class in order, to make holes of them."""
        with self._guard:
            taken = [sorted(numbers) for numbers in self._free]
            self._free = [[] for _ in range(SIZE_CLASSES)]
            self._least_free = [0] * SIZE_CLASSES
            return taken

    def take_idle(self) -> list[list[int]]:
        """As `take_free`, of those only that nobody needed since this was last called: the bottom
        of each stack. So a target that frees and takes blocks all the time keeps what it uses."""
        with self._guard:
            taken = [
                sorted(numbers[:least])
                for numbers, least in zip(self._free, self._least_free, strict=True)
            ]
            for size_class, numbers in enumerate(taken):
                del self._free[size_class][: len(numbers)]
            self._least_free = [len(numbers) for numbers in self._free]
            return taken

    def add_holes(self, size_class: int, numbers: Iterable[int]) -> None:
        """Returns blocks from `take_free` as holes."""
        with self._guard:
            self._holes[size_class].extend(numbers)

    def census(self) -> tuple[int, int]:
        """Blocks ever handed out, and those of them that are free or holes: for checks."""
        with self._guard:
            free = sum(map(len, self._free)) + sum(map(len, self._holes))
            return sum(self._ends), free + len(self._waiting) + len(self._settling)

    def _release(self, block: Block, where: list[list[int]]) -> None:
        where[block.size_class].append(block.number)
        self._used -= class_bytes(block.size_class)
