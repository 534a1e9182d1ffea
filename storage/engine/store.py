"""A target's metadata store: an ordered map of bytes in RocksDB, with atomic batches.

Layer: shell of the engine, a `RecordStore`. A batch that was written survives the end of the
process; `sync` makes everything written so far survive a power loss. RocksDB's own errors become
FsError here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from luciole.errors import FsError, Kind
from luciole.storage.engine.ports import Batch

WRITE_BUFFER_BYTES = 32 * 1024 * 1024
WAL_BYTES_MAX = 128 * 1024 * 1024
CACHE_BYTES = 64 * 1024 * 1024


class MetadataStore:
    """An open RocksDB."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        with self._errors():
            self._db = Rdict(self._path, _options())

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as failure:
            raise self._error(failure) from failure
        return value

    def write(self, batch: Batch) -> None:
        """Writes all changes of the batch, atomically, to the kernel."""
        raw = WriteBatch(raw_mode=True)
        for key, value in batch.changes:
            if value is None:
                raw.delete(key)
            else:
                raw.put(key, value)
        try:
            self._db.write(raw)
        except Exception as failure:
            raise self._error(failure) from failure

    def scan(self, begin: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key (< end) in order, as they were when the scan began."""
        with self._errors():
            for key, value in self._db.items(from_key=begin):
                assert isinstance(key, bytes)
                if end is not None and key >= end:
                    return
                yield key, value

    def sync(self) -> None:
        """Makes every batch written so far durable against power loss."""
        with self._errors():
            self._db.flush_wal(True)

    def close(self) -> None:
        """Closes the files. Idempotent."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FsError:
            raise
        except Exception as failure:  # RocksDB's binding raises bare Exception
            raise self._error(failure) from failure

    def _error(self, failure: Exception) -> FsError:
        full = "No space left" in str(failure)
        kind = Kind.NO_SPACE if full else Kind.DISK_FAILED
        return FsError(kind, f"metadata store: {failure}", self._path)


def _options() -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    # Records are mostly checksums and small numbers: compression would only cost time.
    options.set_compression_type(DBCompressionType.none())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_max_background_jobs(2)
    options.set_max_open_files(512)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(4 * 1024 * 1024)
    return options
