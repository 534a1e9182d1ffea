"""A target's directory: taken by one process, and marked as one target of one cluster.

Layer: shell of the engine.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from luciole.errors import FsError, Kind
from luciole.storage.engine.blocks import disk_error
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.ports import Batch, RecordStore
from luciole.storage.engine.records import (
    FORMAT,
    MARKER_KEY,
    Marker,
    decode_marker,
    encode_marker,
)

LOCK_NAME = "LOCK"
METADATA_NAME = "meta"
BLOCKS_NAME = "blocks"
_EXPECTED = {LOCK_NAME, METADATA_NAME, BLOCKS_NAME, "lost+found"}


def lock(path: Path, calls: FileCalls, *, create: bool) -> int:
    """Takes the target's directory for this process. Returns the descriptor that holds the lock.

    Raises FsError CONFIG_INVALID if it is not a target and may not become one, BUSY if another
    process (or another engine of this one) has it open.
    """
    try:
        if create:
            calls.make_directory(path)
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if METADATA_NAME not in names and not create:
            raise FsError(
                Kind.CONFIG_INVALID,
                "there is no target here: check the path, or create it",
                str(path),
            )
        if METADATA_NAME not in names and names - _EXPECTED:
            raise FsError(
                Kind.CONFIG_INVALID,
                "the directory is not empty: a new target needs a directory of its own",
                str(path),
            )
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            os.close(descriptor)
            raise FsError(
                Kind.BUSY, "another storage process has this target open: stop it first", str(path)
            ) from failure
    except OSError as failure:
        raise disk_error(failure, path) from failure
    return descriptor


def keep_entries(path: Path, calls: FileCalls) -> None:
    """Makes durable that the target is there and that its folders are. Raises FsError.

    Without it a power loss may take the folders away, with all that was synced inside them.
    """
    try:
        calls.sync_directory(path)
        calls.sync_directory(path.parent)
    except OSError as failure:
        raise disk_error(failure, path) from failure


def check_marker(
    store: RecordStore, path: Path, cluster_id: str, target_id: int, *, create: bool
) -> int:
    """Marks a new store as this target's, or makes sure that it is; returns the content id.

    Raises FsError WRONG_CLUSTER or CONFIG_INVALID saying what was found and expected.
    """
    value = store.get(MARKER_KEY)
    if value is None:
        if not create or next(store.scan(b"", None), None) is not None:
            raise FsError(
                Kind.CONFIG_INVALID,
                "the directory holds no finished target: check the path, or remove and create it",
                str(path),
            )
        return _mark(store, cluster_id, target_id)
    marker = decode_marker(value)
    if marker.format > FORMAT:
        raise FsError(
            Kind.CONFIG_INVALID,
            f"the target has format {marker.format}, this program knows up to {FORMAT}: run the "
            "newer program",
            str(path),
        )
    if marker.cluster_id != cluster_id:
        raise FsError(
            Kind.WRONG_CLUSTER,
            f"the target belongs to cluster {marker.cluster_id!r}, this is {cluster_id!r}: check "
            "the path, or remove the directory if its data may go",
            str(path),
        )
    if marker.target_id != target_id:
        raise FsError(
            Kind.CONFIG_INVALID,
            f"this is target {marker.target_id}, expected target {target_id}: check which path "
            "belongs to which target",
            str(path),
        )
    if marker.format < FORMAT or not marker.content_id:
        return _mark(store, cluster_id, target_id)
    return marker.content_id


def _mark(store: RecordStore, cluster_id: str, target_id: int) -> int:
    batch = Batch()
    content_id = int.from_bytes(os.urandom(8), "little") or 1
    batch.put(MARKER_KEY, encode_marker(Marker(FORMAT, cluster_id, target_id, content_id)))
    store.write(batch)
    store.sync()
    return content_id
