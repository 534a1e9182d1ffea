"""The disk of a volume of the KV cache, in memory: what power loss takes, and what goes wrong.

Layer: tests. `Platter` is the disk, and outlives processes; `SimFiles` is one process's way to it,
as `FileCalls`. Files are the images of `tests/storage/cuts.py`: of sectors that were not synced,
any are there after a power loss. Entries of directories are never lost, since a volume syncs them
before it serves.

Each call takes time, before and sometimes after it has its effect, and reads and writes may do only
a part at once, as the kernel may.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

from luciole.storage.engine.calls import FileCalls
from luciole.tests.sim.stage import Stage
from luciole.tests.storage.cuts import SECTOR, FileImage

CALL_S = 0.003  # what a call takes, at most
PART_SHARE = 0.3  # of calls that do only a part, or wait after their effect
FAILING_SHARE = 0.3  # of calls, while the disk is failing

Block = tuple[int, bytes]  # namespace, key


class Platter:
    """Files by name, and how the disk is."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.files: dict[str, FileImage] = {}
        self.slow = 0.0  # seconds that a call takes more, at most
        self.full = False
        self.failing = False
        self.boots = 1
        self.lost_power = False  # ever
        self.rotten: set[Block] = set()  # blocks of which a bit was flipped, ever

    def lose_power(self) -> None:
        """Leaves what is durable, and by chance some of the rest."""
        self.boots += 1
        self.lost_power = True
        self.files = {name: image.after_cut(self.chance) for name, image in self.files.items()}

    def flip(self, name: str, position: int) -> None:
        """One bit of a byte becomes another one."""
        image = self.files[name]
        sector, inside = divmod(position, SECTOR)
        content = bytearray(image.newest(sector).ljust(SECTOR, b"\0"))
        content[inside] ^= 1 << self.chance.randrange(8)
        if sector in image.unsynced:
            image.unsynced[sector][-1] = bytes(content)
        else:
            image.durable[sector] = bytes(content)


class SimFiles(FileCalls):
    """The calls of one process.

    Args:
        platter: its disk.
        stage: where its calls run.
    """

    def __init__(self, platter: Platter, stage: Stage) -> None:
        super().__init__(0)
        self.guard: threading.Lock | None = None  # while it is held, calls do not give way
        self._platter = platter
        self._stage = stage
        self._open: list[str] = []

    def _wait(self) -> None:
        if self.guard is not None and self.guard.locked():
            self._stage.check()
            return
        platter = self._platter
        self._stage.wait(platter.chance.random() * (CALL_S + platter.slow))

    def _enter(self) -> None:
        """Before each call."""
        self._wait()
        platter = self._platter
        if platter.failing and platter.chance.random() < FAILING_SHARE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _leave(self) -> None:
        """After each call that changes something."""
        if self._platter.chance.random() < PART_SHARE:
            self._wait()

    def _image(self, descriptor: int) -> FileImage:
        return self._platter.files[self._open[descriptor]]

    def _part(self, count: int) -> int:
        """How much of a call is done at once."""
        chance = self._platter.chance
        return chance.randint(1, count) if count > 1 and chance.random() < PART_SHARE else count

    def make_directory(self, path: Path) -> None:
        """See FileCalls."""

    def sync_directory(self, path: Path) -> None:
        """See FileCalls."""

    def open(self, path: Path) -> int:
        """See FileCalls."""
        self._platter.files.setdefault(path.name, FileImage())
        self._open.append(path.name)
        return len(self._open) - 1

    def lock(self, path: Path) -> int:
        """See FileCalls. A world has one process at a time for each disk."""
        return self.open(path)

    def close(self, descriptor: int) -> None:
        """See FileCalls."""

    def read(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        """See FileCalls."""
        self._enter()
        image = self._image(descriptor)
        count = self._part(max(0, min(sum(map(len, views)), image.size - position)))
        first, last = position // SECTOR, -(-(position + count) // SECTOR)
        content = b"".join(
            image.newest(sector).ljust(SECTOR, b"\0") for sector in range(first, last))
        data = content[position - first * SECTOR :][:count]
        at = 0
        for view in views:
            piece = data[at : at + len(view)]
            view[: len(piece)] = piece
            at += len(piece)
        return count

    def expect(self, descriptor: int, position: int, count: int) -> None:
        """See FileCalls."""

    def write(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        """See FileCalls."""
        self._enter()
        image = self._image(descriptor)
        data = b"".join(views)
        data = data[: self._part(len(data))]
        at = 0
        while at < len(data):
            sector, inside = divmod(position + at, SECTOR)
            piece = data[at : at + SECTOR - inside]
            old = image.newest(sector).ljust(SECTOR, b"\0")
            image.change(sector, old[:inside] + piece + old[inside + len(piece) :])
            at += len(piece)
        image.size = max(image.size, position + len(data))
        self._leave()
        return len(data)

    def allocate(self, descriptor: int, position: int, count: int) -> None:
        """See FileCalls."""
        self._enter()
        if self._platter.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        image = self._image(descriptor)
        image.size = max(image.size, position + count)

    def shorten(self, descriptor: int, size: int) -> None:
        """See FileCalls. Volumes of a world keep their capacity."""
        assert self._image(descriptor).size <= size

    def sync(self, descriptor: int) -> None:
        """See FileCalls."""
        self._enter()
        self._image(descriptor).sync()
        self._leave()
