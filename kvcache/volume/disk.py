"""A volume's directory: its lock, its identity, its mark, and the file of all slabs.

Layer: shell. Files: `LOCK` (flock while open), `volume` (format, cluster), `mark` (up to where
blocks are durable) and `blocks`, which grows by a slab at a time and is allocated before anything
is written. Everything goes through `FileCalls`, the labelled I/O points of storage targets, so that
the same tests can cut the power at each and the simulator can be the disk. OSErrors become FsError
NO_SPACE or DISK_FAILED.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from luciole.errors import FsError, Kind
from luciole.kvcache.core.slots import SLAB_BYTES
from luciole.kvcache.volume import headers
from luciole.storage.engine.blocks import disk_error
from luciole.storage.engine.calls import FileCalls, read_all, write_all

LINUX = FileCalls()


class VolumeDisk:
    """The files of one volume. Made by `open`. Threads may use different slots at once."""

    slab_bytes: int
    marked: int  # the mark that was found
    marked_boot: str
    _blocks: int  # descriptors
    _mark: int

    def __init__(self, path: Path, calls: FileCalls) -> None:
        self.path = path
        self._calls = calls
        self._resources = ExitStack()

    @classmethod
    def open(
        cls, path: Path, *, cluster_id: str, slab_bytes: int = SLAB_BYTES, calls: FileCalls = LINUX
    ) -> VolumeDisk:
        """Opens a volume's directory, or makes one.

        Args:
            path: the directory.
            cluster_id: whose it must be.
            slab_bytes: of a new volume.
            calls: how the operating system is called.

        Raises FsError BUSY (open elsewhere), WRONG_CLUSTER, CONFIG_INVALID, DISK_FAILED.
        """
        disk = cls(path, calls)
        with ExitStack() as resources:
            try:
                calls.make_directory(path)
                disk._lock(resources)
                disk._blocks = disk._open(resources, "blocks")
                disk._mark = disk._open(resources, "mark")
                disk._identify(disk._open(resources, "volume"), cluster_id, slab_bytes)
                disk.marked, disk.marked_boot = headers.decode_mark(
                    disk._begin_of(disk._mark, headers.MARK_BYTES))
                calls.sync_directory(path)
                calls.sync_directory(path.parent)
            except OSError as failure:
                raise disk_error(failure, path) from failure
            disk._resources = resources.pop_all()
        return disk

    def _lock(self, resources: ExitStack) -> None:
        try:
            descriptor = self._calls.lock(self.path / "LOCK")
        except BlockingIOError as failure:
            raise FsError(Kind.BUSY, "another storage process has this volume open: stop it first",
                          str(self.path)) from failure
        resources.callback(self._calls.close, descriptor)

    def _open(self, resources: ExitStack, name: str) -> int:
        descriptor = self._calls.open(self.path / name)
        resources.callback(self._calls.close, descriptor)
        return descriptor

    def _begin_of(self, descriptor: int, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: read_all(self._calls, descriptor, [memoryview(data)], 0)])

    def _identify(self, descriptor: int, cluster_id: str, slab_bytes: int) -> None:
        known = headers.decode_volume(self._begin_of(descriptor, headers.VOLUME_BYTES + 1))
        if known is None:
            self.slab_bytes = slab_bytes
            identity = headers.encode_volume(slab_bytes, cluster_id)
            self._calls.write(descriptor, [memoryview(identity)], 0)
            self._calls.sync(descriptor)
            return
        number, self.slab_bytes, owner = known
        if number > headers.FORMAT:
            raise FsError(Kind.CONFIG_INVALID, f"the volume has format {number}, this program "
                          f"knows {headers.FORMAT}: use a newer version of luciole",
                          str(self.path))
        if owner != cluster_id:
            raise FsError(Kind.WRONG_CLUSTER, f"the volume belongs to cluster {owner!r}, this is "
                          f"{cluster_id!r}: check the path, or remove the directory",
                          str(self.path))

    def read(self, position: int, views: Sequence[memoryview]) -> bool:
        """Fills `views`; False if the file ends before. Raises FsError DISK_FAILED."""
        try:
            count = read_all(self._calls, self._blocks, views, position)
        except OSError as failure:
            raise disk_error(failure, self.path / "blocks") from failure
        return count == sum(map(len, views))

    def expect(self, position: int, size: int) -> None:
        """Says that this will be read soon: a hint to the kernel, whose failure means nothing."""
        with suppress(OSError):
            self._calls.expect(self._blocks, position, size)

    def write(self, position: int, views: Sequence[memoryview]) -> None:
        """Writes `views` end to end. Raises FsError NO_SPACE or DISK_FAILED."""
        try:
            write_all(self._calls, self._blocks, views, position)
        except OSError as failure:
            raise disk_error(failure, self.path / "blocks") from failure

    def erase(self, position: int) -> None:
        """Takes the header at `position` away."""
        self.write(position, [memoryview(headers.ERASED)])

    def begin_slab(self, number: int, data_bytes: int, token: int) -> None:
        """Gives a slab to a class: allocates its room, and every header in it is void."""
        position = number * self.slab_bytes
        try:
            self._calls.allocate(self._blocks, position, self.slab_bytes)
        except OSError as failure:
            raise disk_error(failure, self.path / "blocks") from failure
        self.write(position, [memoryview(headers.encode_slab(data_bytes, token))])

    def read_slab(self, number: int) -> tuple[int, int] | None:
        """(class, token) of a slab, None if it was never given to a class."""
        data = bytearray(headers.SLAB_BYTES)
        if not self.read(number * self.slab_bytes, [memoryview(data)]):
            return None
        return headers.decode_slab(bytes(data))

    def cut(self, slabs: int) -> None:
        """Gives the room of slabs from this number on back to the disk."""
        try:
            self._calls.shorten(self._blocks, slabs * self.slab_bytes)
        except OSError as failure:
            raise disk_error(failure, self.path / "blocks") from failure

    def flush(self, sequence: int, boot_id: str) -> None:
        """Makes all blocks durable, then says so in the mark: up to this sequence."""
        try:
            self._calls.sync(self._blocks)
            mark = headers.encode_mark(sequence, boot_id)
            self._calls.write(self._mark, [memoryview(mark)], 0)
            self._calls.sync(self._mark)
        except OSError as failure:
            raise disk_error(failure, self.path) from failure

    def close(self) -> None:
        """Gives up its files."""
        self._resources.close()
