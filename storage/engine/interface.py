"""`ChunkEngine`: where one target keeps its chunks.

A chunk has at most one committed version, which readers see, and at most one pending version,
staged but not committed. Both survive a crash of the process; which of a power loss, `sync` says.
A call that returned is atomic: after a crash its effect is there wholly or (before it returned)
perhaps not at all. Different chunks may be worked on at once; the caller serialises per chunk.

Methods are coroutines so that the simulator's engine can take virtual time; the file engine's
block and never suspend (luciole/runtime.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from luciole.proto.services import FileRange

CHECKSUM_BLOCK = 64 * 1024
CHUNK_SIZE_MIN = 64 * 1024
CHUNK_SIZE_MAX = 64 * 1024 * 1024
CHUNK_ID_SIZE = 16


class Tag(msgspec.Struct, frozen=True):
    """Identity of one update: a channel carries one update at a time."""

    client_id: bytes
    channel: int
    sequence: int


class Version(msgspec.Struct, frozen=True):
    """One version of a chunk. `removed` marks a pending removal."""

    number: int
    length: int
    removed: bool = False
    tag: Tag | None = None


class ChunkState(msgspec.Struct, frozen=True):
    """What the engine knows of a chunk. At least one of the two versions is there."""

    chunk_id: bytes
    committed: Version | None
    pending: Version | None
    checksum: int = 0  # CRC32C over the packed block checksums of the committed version
    allocated: int = 0  # bytes of disk held by both versions


class Update(msgspec.Struct, frozen=True):
    """A change to a chunk, as in storage.proto (of its kinds all but COPY)."""

    kind: int
    offset: int
    length: int
    chunk_size: int
    checksums: tuple[int, ...] = ()  # of the data, cut at multiples of CHECKSUM_BLOCK of the chunk
    tag: Tag | None = None


class Applied(msgspec.Struct, frozen=True):
    """The last update that a channel is known to have committed here."""

    sequence: int
    chunk_id: bytes
    version: int
    length: int  # of the chunk after it
    length_before: int


ChannelKey = tuple[bytes, int]  # client id, channel
CleanRead = tuple[bytes, int, int]  # chunk id, offset, bytes: as many as its room has


class Space(msgspec.Struct, frozen=True):
    """Bytes of the disk under the target, and what the target uses of it."""

    capacity: int
    free: int
    used: int
    chunks: int


class ReadOutcome(msgspec.Struct, frozen=True):
    """What a read found: `length` bytes were written into the buffer."""

    length: int
    version: int
    checksums: tuple[int, ...]


class Located(NamedTuple):
    """Where a part of a chunk lies, unread."""

    length: int
    version: int
    checksums: Sequence[int]  # as they are stored, of each 64 KiB
    ranges: Sequence[FileRange]


class ChunkEngine(Protocol):
    """One target's chunks."""

    def locate_clean(self, chunk_id: bytes, offset: int, size: int) -> Located | None:
        """Where a part of a chunk lies that has no pending version, short where the chunk ends.

        Only for whole 64 KiB blocks, the chunk's last one perhaps short, that are in memory
        already. None: `read` it. Nobody has verified what lies there, and the place may be used
        for other bytes at any moment: whoever receives them is to compare the checksums.
        """

    async def read_unverified(
        self, chunk_id: bytes, offset: int, room: memoryview
    ) -> ReadOutcome | None:
        """As `locate_clean`, of what need not be in memory: fills `room` with it, unverified.

        None: `read` it, which tells what is wrong.
        """

    def read_clean(
        self, reads: Sequence[CleanRead], rooms: Sequence[memoryview]
    ) -> list[int | None]:
        """Fills the room of each read from a chunk that has no pending version, verified; returns
        how many bytes each has, fewer at its chunk's end. None: it is not so simple, or something
        is wrong: `read` tells."""

    @property
    def doubtful(self) -> bool:
        """Whether acknowledged updates may be missing: the machine restarted under an engine with
        durability "process" that was not closed. Stays so over restarts until `trust`."""

    def trust(self) -> None:
        """Ends the doubt, durably: the chain has decided what this target is good for."""

    @property
    def content_id(self) -> int:
        """Random, made with the target: one that was emptied or replaced has another."""

    @property
    def removed_up_to(self) -> int:
        """The highest version of any removal committed here, over restarts: a chunk that is made
        again gets a higher one."""

    async def state(self, chunk_id: bytes) -> ChunkState | None:
        """Both versions of a chunk, or None."""

    async def read(
        self, chunk_id: bytes, offset: int, buffer: memoryview, *, pending: bool = False
    ) -> ReadOutcome:
        """Fills `buffer` from the committed (or pending) version, short where the chunk ends.

        Every block touched is verified against its stored checksum; the checksums returned are
        of the bytes returned. Raises FsError CHUNK_NOT_FOUND, CHECKSUM_MISMATCH, DISK_FAILED.
        """

    async def stage(
        self, chunk_id: bytes, version: int, update: Update, data: memoryview
    ) -> Version:
        """Makes a pending version: the committed content with `update` applied.

        A pending version that is there already is replaced. `data` is verified against
        `update.checksums` before anything is written. Raises FsError CHECKSUM_MISMATCH, NO_SPACE,
        INVALID_ARGUMENT, DISK_FAILED.
        """

    async def commit(self, chunk_id: bytes, version: int) -> Version:
        """The pending version becomes the committed one, its tag that of its channel, in one batch.

        Committing the version that is committed already changes nothing. Raises FsError
        CHUNK_NOT_FOUND if no such version is pending or committed. A committed removal frees the
        chunk; its Version is returned with `removed`.
        """

    async def repair(self, chunk_id: bytes, version: int, data: memoryview) -> None:
        """Stores the whole content of a version anew, whose stored bytes rotted.

        `data` is verified against the checksums that are stored with the version. Raises FsError
        CHUNK_NOT_FOUND if no such version is pending or committed (any more), CHECKSUM_MISMATCH if
        `data` is not its content, NO_SPACE, DISK_FAILED.
        """

    async def abandon(self, chunk_id: bytes) -> None:
        """Drops the pending version, if any."""

    async def applied(self, client_id: bytes, channel: int) -> Applied | None:
        """The last committed update of a channel: it survives restarts and removal of the chunk."""

    async def list_applied(
        self, after: ChannelKey | None, limit: int
    ) -> tuple[Sequence[tuple[ChannelKey, Applied]], bool]:
        """The last updates of all channels behind `after`, at most `limit`, and if more are."""

    async def adopt_applied(self, known: Sequence[tuple[ChannelKey, Applied]]) -> None:
        """Takes over what another replica knows of channels, where it is newer."""

    async def list(
        self, begin: bytes, end: bytes | None, limit: int
    ) -> tuple[Sequence[ChunkState], bool]:
        """Chunks with begin <= id (< end) in order of id, at most `limit`, and whether more are."""

    async def remove_range(self, begin: bytes, end: bytes, limit: int) -> tuple[int, bool]:
        """Removes chunks with begin <= id < end, both versions; returns the number and if more."""

    async def sync(self) -> None:
        """Makes everything that returned before durable against power loss."""

    async def release_idle(self) -> None:
        """Gives room that was free throughout since this was last called back to the disk."""

    async def space(self) -> Space:
        """Capacity and use."""

    def close(self) -> None:
        """Syncs and gives up its files."""
