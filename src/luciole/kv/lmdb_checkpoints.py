"""Checkpoints: commits of the embedded store that do not wait for the disk, and survive it.

Layer: kernel. LMDB runs without its own syncs. A commit is visible and ordered at once, and the
death of any process loses nothing: its pages are in the kernel. After a power loss however the disk
may hold a newer meta page (LMDB's root) and not the pages that it points to. So after one the store
returns to its last checkpoint, and a checkpoint is a state all of whose pages are on the disk:

1. *Pin* the newest transaction T by a read transaction. LMDB never changes a page in place; it
   uses a page again only if it was freed by a transaction older than all readers. What T can see
   is freed by transactions after T only. So while the pin lives, the pages of T stay as they are.
2. *Sync* the data file. Now all pages of T are on the disk, and later writes do not touch them.
3. *Save* T's meta page, durably, in the file `checkpoint` (`lmdb_saved`). From here on T counts.
   T's meta page itself may be overwritten by transaction T + 2: that is why it is copied.
4. *Unpin* what was pinned for the checkpoint before.

Several processes share the store, each with a pin of its own. S is the transaction of the saved
checkpoint that counts. Invariant: whenever anybody writes, there is a reader at a transaction <= S,
and so the pages of S stay (they are freed by transactions after S, which are not older than that
reader). Proof: a process writes only after a checkpoint of its own, and drops the pin of one only
when a later one of its own was saved; so its oldest pin is <= a transaction that was saved. S never
decreases, for checkpoints are made one at a time, under a lock of the directory, of the newest
transaction. Hence every living process's oldest pin is <= S, also when the process that saved S
died and lost its pin.

*After a power loss.* A checkpoint names the boot during which it was made. Whoever opens the store
(under the same lock) and finds another boot is the first to have it open since the machine
started: it writes the meta page of S over both of LMDB's and goes on from there. Versions jump, so
that none is given twice. It records the new boot with its own first checkpoint; a crash before that
means that the next one does the same again.

The directory's lock is waited for without a bound of our own: a process holds it for one sync, and
the kernel frees it when its holder dies. A failed sync is final (`GroupFlush`).
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from luciole.errors import FsError, Kind
from luciole.group_flush import GroupFlush
from luciole.kv.lmdb_environment import translated
from luciole.kv.lmdb_saved import Saved, SavedFile, meta_of
from luciole.log import get_logger

log = get_logger("kv")
JOIN_SECONDS = 150.0
# Then the next checkpoint comes early: until it, each takes some ten pages of the file anew.
COMMITS_MAX = 512


class Checkpoints:
    """The checkpoints that one process makes of its store, and its pin.

    Pin and files are the flush's, which never runs twice at once; `close` is called last.
    """

    def __init__(self, path: str, handle: lmdb.Environment, boot_id: str) -> None:
        """Raises OSError when the files cannot be opened."""
        self._path = path
        self._handle = handle
        self._boot_id = boot_id
        self._saved = SavedFile(path)
        self._data = os.open(os.path.join(path, "data.mdb"), os.O_RDONLY | os.O_CLOEXEC)
        self._pin: lmdb.Transaction[bytes] | None = None
        self._pinned = -1  # the number of its transaction
        self._group = GroupFlush(self._take)
        self._commits = 0  # since the last checkpoint; none is lost to count for long
        self._due = threading.Event()
        self._closing = False
        self._worker: threading.Thread | None = None

    def flush(self) -> None:
        """Returns when all that was committed before the call survives a power loss.

        Raises FsError DISK_FAILED, and ever after.
        """
        self._group.wait()

    def check(self) -> None:
        """Raises FsError when a flush has failed: what is committed now would never be durable."""
        self._group.check()

    def note_commit(self) -> None:
        """Something was committed."""
        self._commits += 1
        if self._commits >= COMMITS_MAX:
            self._due.set()

    def hold(self) -> None:
        """Pins the newest transaction, which a checkpoint saved under an earlier boot."""
        pin, saved = self._pin_newest()
        self._move_to(pin, saved.transaction)

    def take(self) -> None:
        """A checkpoint of the newest transaction, unless it has one. Call with the lock held.

        Raises FsError DISK_FAILED.
        """
        pin, saved = self._pin_newest()
        try:
            if self._saved.newest() != saved:
                self._sync()
                self._saved.save(saved)
        except (OSError, lmdb.Error) as failure:
            pin.abort()
            raise FsError(
                Kind.DISK_FAILED, f"the key-value store cannot be flushed: {failure}", self._path
            ) from failure
        self._move_to(pin, saved.transaction)

    def start(self, seconds: float) -> None:
        """From now on whatever was committed is flushed within so many seconds."""
        self._worker = threading.Thread(
            target=self._work, args=(seconds,), name="kv checkpoints", daemon=True
        )
        self._worker.start()

    def close(self) -> None:
        """Flushes what was committed, if the disk takes it, and unpins."""
        self._closing = True
        self._due.set()
        if self._worker is not None:
            self._worker.join(JOIN_SECONDS)
        try:
            self.flush()
        except FsError as failure:
            log.warning("not_flushed", error=str(failure))
        self.release()

    def release(self) -> None:
        """Unpins and closes the files."""
        if self._pin is not None:
            self._pin.abort()
        self._saved.close()
        os.close(self._data)

    def _take(self) -> None:
        with locked(self._path):
            self.take()

    def _move_to(self, pin: lmdb.Transaction[bytes], transaction: int) -> None:
        before, self._pin, self._pinned = self._pin, pin, transaction
        self._commits = 0
        if before is not None:
            before.abort()

    def _pin_newest(self) -> tuple[lmdb.Transaction[bytes], Saved]:
        """A reader at the newest transaction, and what a checkpoint of it saves.

        While we are LMDB's writer nobody commits, so reader and meta page are of one transaction.
        """
        with translated(self._path):
            page_bytes = self._handle.stat()["psize"]
            writer = self._handle.begin(write=True)
            try:
                pin = self._handle.begin()
                try:
                    meta = meta_of(self._data, pin.id(), page_bytes, self._path)
                except BaseException:
                    pin.abort()
                    raise
            finally:
                writer.abort()
        return pin, Saved(meta, self._boot_id)

    def _sync(self) -> None:
        self._handle.sync(True)

    def _work(self, seconds: float) -> None:
        """Flushes when there is something; moves the pin when others have committed.

        A pin that stayed behind would keep all pages from being used again that others free.
        """
        while True:
            self._due.wait(seconds)
            self._due.clear()
            if self._closing:
                return
            try:
                if self._handle.info()["last_txnid"] != self._pinned:
                    # The reader of a process that was killed keeps pages, too.
                    self._handle.reader_check()
                    self.flush()
            except (FsError, lmdb.Error) as failure:
                log.error("flush_failed", error=str(failure), path=self._path)
                return


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Holds the lock of a store's directory, under which it is opened and checkpoints are made."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
