"""Opens the LMDB directory of the embedded engine, and says LMDB's errors in ours.

Layer: kernel. The main database holds the format marker and the state record, beside the names of
the two others: the records, and the log of recent commits. LMDB runs without its own syncs: whoever
writes has a checkpoint first (`lmdb_checkpoints`).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import lmdb

from luciole.errors import FsError, Kind, require
from luciole.kv.lmdb_records import BUCKET_BYTES

if TYPE_CHECKING:
    from lmdb import _Database  # the stubs alone have a name for it

FORMAT = 2
FORMATS_READ = {b"1", b"2"}  # a store of format 1 was never written without a sync
MAP_BYTES = 64 << 30  # address space, not disk: the file grows with what is in it
READERS_MAX = 1024

_FORMAT_KEY = b"luciole-kv-format"
_STATE_KEY = b"luciole-kv-state"
_STATE = struct.Struct(">QQQ")
# What may lie in a directory that holds no store yet; the lock file is another process opening it.
_INNOCENT = frozenset({"checkpoint", "lock.mdb", "lost+found", "watchers"})
VERSIONS_SKIPPED = 1 << 32  # after a power loss; more than can have been given since a checkpoint


class State(NamedTuple):
    """The state record."""

    version: int = 0  # of the last commit
    floor: int = 0  # the last commit that the log has forgotten
    log_bytes: int = 0


class Environment(NamedTuple):
    """An open directory."""

    handle: lmdb.Environment
    main: _Database
    records: _Database
    log: _Database

    def load_state(self, transaction: lmdb.Transaction[bytes]) -> State:
        """The state as the transaction sees it."""
        data = transaction.get(_STATE_KEY, db=self.main)
        return State() if data is None else State(*_STATE.unpack(data))

    def store_state(self, transaction: lmdb.Transaction[bytes], state: State) -> None:
        """Replaces the state."""
        transaction.put(_STATE_KEY, _STATE.pack(*state), db=self.main)

    def start_over(self) -> None:
        """Makes versions jump: those after this state were given to commits that are lost."""
        with self.handle.begin(write=True) as transaction:
            version = self.load_state(transaction).version + VERSIONS_SKIPPED
            transaction.drop(self.log, delete=False)
            self.store_state(transaction, State(version, version, 0))


def make_directory(path: str) -> None:
    """Makes the directory if it is missing.

    Raises FsError CONFIG_INVALID when it cannot be made, or holds what is not a store.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        names = set(os.listdir(path))
        require(
            "data.mdb" in names or names <= _INNOCENT,
            Kind.CONFIG_INVALID,
            "the directory holds something else: name an empty one for the key-value store",
            path,
        )
    except OSError as failure:
        raise _cannot_open(failure, path) from failure


def open_handle(path: str, map_bytes: int) -> lmdb.Environment:
    """Opens LMDB, writes nothing, and checks that it is our store or empty.

    Raises FsError CONFIG_INVALID when it is no store of this format, cannot be written, or is
    open in this process already.
    """
    try:
        handle = lmdb.open(
            path, map_size=map_bytes, max_dbs=2, max_readers=READERS_MAX, mode=0o600, sync=False
        )
    except (OSError, lmdb.Error) as failure:
        raise _cannot_open(failure, path) from failure
    try:
        with translated(path):
            _check_format(handle, path)
            handle.reader_check()
    except BaseException:
        handle.close()
        raise
    return handle


def open_databases(handle: lmdb.Environment, path: str) -> Environment:
    """The store behind a handle, marked as being of this format. Raises FsError."""
    mark = str(FORMAT).encode()
    with translated(path):
        with handle.begin() as reader:
            marked = reader.get(_FORMAT_KEY) == mark
        if not marked:
            with handle.begin(write=True) as transaction:
                transaction.put(_FORMAT_KEY, mark)
        return Environment(
            handle, handle.open_db(None), handle.open_db(b"records"), handle.open_db(b"log")
        )


def _cannot_open(failure: Exception, path: str) -> FsError:
    return FsError(Kind.CONFIG_INVALID, f"the key-value store cannot be opened: {failure}", path)


def _check_format(environment: lmdb.Environment, path: str) -> None:
    require(
        environment.max_key_size() >= BUCKET_BYTES,
        Kind.CONFIG_INVALID,
        f"this build of lmdb takes keys of {environment.max_key_size()} bytes,"
        f" {BUCKET_BYTES} are needed: install the lmdb wheel",
    )
    with environment.begin() as transaction:
        marker = transaction.get(_FORMAT_KEY)
        if marker is None:
            with transaction.cursor() as cursor:
                require(
                    not cursor.first(),
                    Kind.CONFIG_INVALID,
                    "the directory holds another program's LMDB data: name an empty one",
                    path,
                )
        elif marker not in FORMATS_READ:
            raise FsError(
                Kind.CONFIG_INVALID,
                f"the key-value store has format {marker.decode(errors='replace')}, this program"
                f" knows format {FORMAT}: use the release that wrote it, or a newer one",
                path,
            )


def translated(path: str) -> _Translation:
    """Turns LMDB's errors into ours."""
    return _Translation(path)


class _Translation:
    """No generator: each commit passes it several times."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        """Raises FsError for an error of LMDB; others pass."""
        if isinstance(failure, lmdb.Error):
            raise translate(failure, self._path) from failure


def translate(failure: lmdb.Error, path: str) -> FsError:
    """The FsError that says what an error of LMDB means to a caller."""
    if isinstance(failure, lmdb.MapFullError):
        return FsError(
            Kind.NO_SPACE, "the key-value store is full: reopen it with a larger map_bytes", path
        )
    if failure.code == errno.ENOSPC:
        return FsError(Kind.NO_SPACE, "the disk under the key-value store is full", path)
    if isinstance(failure, lmdb.MapResizedError):
        return FsError(
            Kind.CONFIG_INVALID,
            "another process has grown the key-value store beyond this one's map_bytes:"
            " give all the same",
            path,
        )
    if isinstance(failure, lmdb.ReadersFullError):
        return FsError(
            Kind.BUSY, f"more than {READERS_MAX} transactions read the key-value store", path
        )
    if failure.code == 0:
        # py-lmdb's own complaint about a handle whose environment is gone.
        return FsError(Kind.UNAVAILABLE, "the key-value store is closed", path)
    return FsError(Kind.DISK_FAILED, f"the key-value store failed: {failure}", path)
