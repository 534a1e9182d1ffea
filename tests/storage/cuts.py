"""A machine whose power can be cut at every I/O point of a `FileEngine`.

Layer: tests. The engine works on real files and a real RocksDB; `Recorder` stands between and
keeps, for every file, what is durable and what was written since: per sector of 512 bytes, all
that it was in between. Before each call that changes something it stops at a labelled *point*,
where a test may ask for the disk as a power loss would leave it now (`leave`). What is modelled:

- a sector is atomic; of those not synced, any subset is there, each as any of its writes left it:
  so writes are lost, kept, reordered and torn;
- a file's size is the synced one, a later one, or reaches to the last sector that is there;
- an entry of a directory that was not synced may be gone, with all below it;
- RocksDB's log is what was synced, and behind that a torn or holed piece of what was written. Its
  other files are taken for durable: it syncs them itself before it refers to them.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.ports import Batch
from luciole.storage.engine.store import MetadataStore

SECTOR = 512
EMPTY = bytes(SECTOR)


@dataclass
class FileImage:
    """What is on the disk of one file, and what may be."""

    durable: dict[int, bytes] = field(default_factory=dict)  # by sector; others are zeros
    unsynced: dict[int, list[bytes]] = field(default_factory=dict)  # what it was since, in order
    durable_size: int = 0
    size: int = 0

    def newest(self, sector: int) -> bytes:
        """The sector as a reader sees it."""
        later = self.unsynced.get(sector)
        return later[-1] if later else self.durable.get(sector, EMPTY)

    def change(self, sector: int, content: bytes) -> None:
        """The sector is written."""
        content = content.ljust(SECTOR, b"\0")
        if content != self.newest(sector):
            self.unsynced.setdefault(sector, []).append(content)

    def sync(self) -> None:
        """What is there now stays."""
        self.durable.update((sector, later[-1]) for sector, later in self.unsynced.items())
        self.unsynced.clear()
        self.durable_size = self.size

    def whole(self) -> FileImage:
        """The file as readers see it: what the death of the process leaves."""
        newest = {sector: later[-1] for sector, later in self.unsynced.items()}
        return FileImage(self.durable | newest, {}, self.size, self.size)

    def after_cut(self, chance: random.Random) -> FileImage:
        """The file as a power loss leaves it."""
        kept_part = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        sectors = dict(self.durable)
        size = chance.choice([self.durable_size, self.size])
        for sector, later in self.unsynced.items():
            if chance.random() < kept_part:
                sectors[sector] = later[-1] if chance.random() < 0.7 else chance.choice(later)
                size = max(size, min(self.size, (sector + 1) * SECTOR))
        return FileImage(sectors, {}, size, size)

    def store(self, path: Path) -> None:
        """Writes a file like this."""
        with path.open("wb") as file:
            file.truncate(self.size)
            at = -1
            for sector, content in sorted(self.durable.items()):
                if content != EMPTY:
                    if sector != at:
                        file.seek(sector * SECTOR)
                    file.write(content[: max(0, self.size - sector * SECTOR)])
                    at = sector + 1


class Recorder(FileCalls):
    """The calls of one machine, and what has reached its disk.

    Args:
        root: the target's directory.
        at_point: called with the point's label before the call takes place.
        direct_from: as for FileCalls.
    """

    def __init__(
        self, root: Path, at_point: Callable[[str], None], direct_from: int = 0
    ) -> None:
        super().__init__(direct_from)
        self.directly = 0  # files that were opened to be written past the page cache
        self.root = root
        self.at_point = at_point
        self.files: dict[Path, FileImage] = {}
        self.unsynced_entries: set[Path] = set()
        self.log_sizes: dict[str, int] = {}  # of RocksDB's logs, as synced
        self._descriptors: dict[int, Path] = {}
        self._readable: dict[Path, int] = {}

    def begin_from(self, files: dict[Path, FileImage]) -> None:
        """The disk holds these files already."""
        self.files = dict(files)

    def open_store(self, path: Path) -> MetadataStore:
        """The metadata store, recorded."""
        if not path.exists():
            self.unsynced_entries.add(path)
        return RecordedStore(path, self)

    def note_logs(self) -> None:
        """RocksDB's logs are durable as they are."""
        self.log_sizes = {path.name: path.stat().st_size for path in self._logs()}

    def _logs(self) -> list[Path]:
        return list((self.root / "meta").glob("*.log"))

    def leave(self, to: Path, chance: random.Random | None) -> dict[Path, FileImage]:
        """Makes directory `to` what is left when the power is cut now, as `chance` has it.

        Without `chance` only the process dies. Returns the images of the block files there.
        """
        to.mkdir()
        gone = {path for path in sorted(self.unsynced_entries)
                if chance is not None and chance.random() < 0.5}
        images: dict[Path, FileImage] = {}
        for path, image in self.files.items():
            if path in gone or path.parent in gone or not path.parent.exists():
                continue
            place = to / path.relative_to(self.root)
            place.parent.mkdir(exist_ok=True)
            images[place] = image.whole() if chance is None else image.after_cut(chance)
            images[place].store(place)
        if self.root / "meta" not in gone and (self.root / "meta").exists():
            shutil.copytree(self.root / "meta", to / "meta")
            if chance is not None:
                for log in (to / "meta").glob("*.log"):
                    tear_log(log, self.log_sizes.get(log.name, 0), chance)
        return images

    def make_directory(self, path: Path) -> None:
        """See FileCalls."""
        if not path.exists():
            self.at_point("make-directory")
            super().make_directory(path)
            self.unsynced_entries.add(path)

    def sync_directory(self, path: Path) -> None:
        """See FileCalls."""
        self.at_point("sync-directory")
        self.unsynced_entries = {
            entry for entry in self.unsynced_entries if entry.parent != path}

    def open(self, path: Path) -> int:
        """See FileCalls."""
        if not path.exists():
            self.at_point("create-file")
            self.unsynced_entries.add(path)
            self.files[path] = FileImage()
        descriptor = super().open(path)
        self._descriptors[descriptor] = path
        self._readable[path] = descriptor
        return descriptor

    def open_direct(self, path: Path) -> int:
        """See FileCalls."""
        descriptor = super().open_direct(path)
        self.directly += 1
        self._descriptors[descriptor] = path
        return descriptor

    def write(self, descriptor: int, views: Sequence[memoryview], position: int) -> int:
        """See FileCalls."""
        self.at_point("write")
        count = super().write(descriptor, views, position)
        self._written(descriptor, position, count)
        return count

    def copy(
        self, source: int, target: int, source_at: int, target_at: int, count: int
    ) -> int:
        """See FileCalls."""
        self.at_point("copy")
        count = super().copy(source, target, source_at, target_at, count)
        self._written(target, target_at, count)
        return count

    def allocate(self, descriptor: int, position: int, count: int) -> None:
        """See FileCalls."""
        self.at_point("allocate")
        super().allocate(descriptor, position, count)
        image = self.files[self._descriptors[descriptor]]
        image.size = max(image.size, position + count)

    def punch(self, descriptor: int, position: int, count: int) -> None:
        """See FileCalls."""
        self.at_point("punch")
        super().punch(descriptor, position, count)
        image = self.files[self._descriptors[descriptor]]
        for sector in sorted(image.durable.keys() | image.unsynced.keys()):
            if position <= sector * SECTOR < position + count:
                image.change(sector, EMPTY)

    def sync(self, descriptor: int) -> None:
        """See FileCalls: durable when it returns, without keeping a real disk busy."""
        self.at_point("sync-file")
        self.files[self._descriptors[descriptor]].sync()

    def _written(self, descriptor: int, position: int, count: int) -> None:
        path = self._descriptors[descriptor]
        image = self.files[path]
        begin, end = position // SECTOR, -(-(position + count) // SECTOR)
        content = os.pread(self._readable[path], (end - begin) * SECTOR, begin * SECTOR)
        image.size = max(image.size, position + count)
        for sector in range(begin, end):
            start = (sector - begin) * SECTOR
            image.change(sector, content[start : start + SECTOR])


class RecordedStore(MetadataStore):
    """The metadata store, with its two points."""

    def __init__(self, path: Path, recorder: Recorder) -> None:
        super().__init__(path)
        self._recorder = recorder
        # What RocksDB found it has taken over into files that it synced, or still has its log.
        recorder.note_logs()

    def write(self, batch: Batch) -> None:
        """See RecordStore."""
        self._recorder.at_point("write-records")
        super().write(batch)

    def sync(self) -> None:
        """See RecordStore."""
        self._recorder.at_point("sync-records")
        super().sync()
        self._recorder.note_logs()


def tear_log(log: Path, durable: int, chance: random.Random) -> None:
    """Leaves of a log what was synced and some of the rest: an end cut off, or sectors missing."""
    size = log.stat().st_size
    if size <= durable:
        return
    with log.open("r+b") as file:
        file.truncate(chance.choice([durable, size, chance.randint(durable, size)]))
        if chance.random() < 0.5:
            first = -(-durable // SECTOR)
            for sector in range(first, -(-size // SECTOR)):
                if chance.random() < 0.3 and (sector + 1) * SECTOR <= file.seek(0, os.SEEK_END):
                    file.seek(sector * SECTOR)
                    file.write(EMPTY)
