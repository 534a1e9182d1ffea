"""The file `checkpoint` beside LMDB's data: to which state the store returns after a power loss.

Layer: kernel. It holds a copy of the meta page of one LMDB transaction, which is the root of all
that the store held then. `lmdb_checkpoints` says why the pages below it are whole; here is how the
copy is kept. Two slots are written in turn, each with a checksum: a slot that was torn by a power
loss leaves the other one. The newest valid slot counts.

The meta page's format is LMDB's own (`MDB_meta` of mdb.c, data version 1, on a 64-bit machine):
what is not exactly so is refused, never guessed at.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind, require

NAME = "checkpoint"
SLOT_BYTES = 4096  # each in a block of its own, so that a torn write harms only one
META_BYTES = 152
_SLOT = struct.Struct(f"<8s36s{META_BYTES}s")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"LCKVCP\0\1"
_PAGE_NUMBER = struct.Struct("<Q")
_FLAGS, _META_FLAG = struct.Struct("<10xH"), 0x08
_ROOT = struct.Struct("<16xII16xI")  # magic, data version, and of the free list the page size
_TRANSACTION = struct.Struct("<144xQ")
_LMDB_MAGIC, _LMDB_VERSION = 0xBEEFC0DE, 1


class Saved(NamedTuple):
    """A checkpoint."""

    meta: bytes  # the first META_BYTES of a meta page
    boot_id: str  # of the machine's start during which it was made

    @property
    def transaction(self) -> int:
        """The number of the LMDB transaction."""
        number: int = _TRANSACTION.unpack_from(self.meta)[0]
        return number

    @property
    def page_bytes(self) -> int:
        """The size of LMDB's pages."""
        size: int = _ROOT.unpack_from(self.meta)[2]
        return size


def meta_of(data: int, transaction: int, page_bytes: int, path: str) -> bytes:
    """The meta page of a transaction, read from the open data file while nobody can commit.

    Raises FsError CONFIG_INVALID when it is not where this program knows it to be.
    """
    meta = os.pread(data, META_BYTES, (transaction & 1) * page_bytes)
    well = len(meta) == META_BYTES and _FLAGS.unpack_from(meta)[0] & _META_FLAG
    require(
        bool(well)
        and _ROOT.unpack_from(meta) == (_LMDB_MAGIC, _LMDB_VERSION, page_bytes)
        and _TRANSACTION.unpack_from(meta)[0] == transaction,
        Kind.CONFIG_INVALID,
        "this build of lmdb has another format than the one known: install the lmdb wheel",
        path,
    )
    return meta


def saved_in(path: str) -> Saved | None:
    """The checkpoint that counts in a store's directory; None before the first one.

    Raises FsError DATA_LOST when checkpoints or the data that they belong to are gone.
    """
    try:
        with open(os.path.join(path, NAME), "rb") as file:
            slots = [file.read(SLOT_BYTES) for _ in range(2)]
    except FileNotFoundError:
        return None
    found = _newest(slots, path)
    require(
        found is None or os.path.exists(os.path.join(path, "data.mdb")),
        Kind.DATA_LOST,
        "data.mdb is gone: restore the directory from a backup, or empty it to begin anew",
        path,
    )
    return found


class SavedFile:
    """The file of one store. Whoever saves holds the store's lock."""

    def __init__(self, path: str) -> None:
        """Opens or makes the file in the store's directory. Raises OSError."""
        self._path = path
        place = os.path.join(path, NAME)
        flags = os.O_RDWR | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC
        self._file = os.open(place, flags, 0o600)
        if os.fstat(self._file).st_size < 2 * SLOT_BYTES:
            os.pwrite(self._file, bytes(2 * SLOT_BYTES), 0)
            sync_directory(path)

    def newest(self) -> Saved | None:
        """The checkpoint that counts; None before the first one.

        Raises FsError DATA_LOST when both slots hold something, and neither a checkpoint.
        """
        return _newest(self._slots(), self._path)

    def save(self, saved: Saved) -> None:
        """Makes it the checkpoint that counts, durably. Raises OSError."""
        content = _SLOT.pack(_MAGIC, saved.boot_id.encode()[:36], saved.meta)
        content += _CHECKSUM.pack(crc32c(content))
        first, second = map(_decode, self._slots())
        # Over the older one: the newer has to be there until this one is.
        over_second = first is not None and (
            second is None or first.transaction >= second.transaction
        )
        os.pwrite(self._file, content.ljust(SLOT_BYTES, b"\0"), SLOT_BYTES if over_second else 0)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _slots(self) -> list[bytes]:
        return [os.pread(self._file, SLOT_BYTES, place) for place in (0, SLOT_BYTES)]


def restore(path: str, saved: Saved) -> None:
    """Makes the data file begin with the checkpoint, twice. Nobody may have the store open.

    The lock file goes: what it says of readers and locks was of the machine's start before. May be
    repeated after a crash within. Raises OSError.
    """
    data = os.open(os.path.join(path, "data.mdb"), os.O_RDWR | os.O_CLOEXEC)
    try:
        for number in (0, 1):
            page = _PAGE_NUMBER.pack(number) + saved.meta[_PAGE_NUMBER.size :]
            os.pwrite(data, page, number * saved.page_bytes)
        os.fsync(data)
    finally:
        os.close(data)
    lock = os.path.join(path, "lock.mdb")
    if os.path.exists(lock):
        os.unlink(lock)
    sync_directory(path)


def sync_directory(path: str) -> None:
    """Makes names durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _newest(slots: list[bytes], path: str) -> Saved | None:
    found = [saved for saved in map(_decode, slots) if saved is not None]
    if not found and all(any(slot) for slot in slots):
        raise FsError(
            Kind.DATA_LOST,
            f"both checkpoints in {NAME!r} are damaged: restore the directory from a backup",
            path,
        )
    return max(found, key=lambda saved: saved.transaction, default=None)


def _decode(slot: bytes) -> Saved | None:
    """The checkpoint in a slot; None when it is empty or torn."""
    end = _SLOT.size + _CHECKSUM.size
    if len(slot) < end or _CHECKSUM.unpack_from(slot, _SLOT.size)[0] != crc32c(slot[: _SLOT.size]):
        return None
    magic, boot_id, meta = _SLOT.unpack_from(slot)
    return Saved(meta, boot_id.rstrip(b"\0").decode()) if magic == _MAGIC else None
