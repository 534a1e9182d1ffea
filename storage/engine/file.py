"""`FileEngine`: `BlockEngine` on a directory.

Layer: shell. The directory holds `LOCK` (locked while open), `meta/` (RocksDB: records.py tells
its keys) and `blocks/` (block files: blocks.py tells their bytes). It is one target's alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from luciole.storage.engine.blocks import BlockFiles
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.directory import (
    BLOCKS_NAME,
    METADATA_NAME,
    check_marker,
    keep_entries,
    lock,
)
from luciole.storage.engine.engine import BlockEngine, Durability
from luciole.storage.engine.store import MetadataStore

LINUX = FileCalls()
RESERVE_FRACTION = 0.01
RESERVE_BYTES_MIN = 256 * 1024 * 1024


class FileEngine(BlockEngine):
    """`ChunkEngine` on files. Made by `open`."""

    _resources: ExitStack

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cluster_id: str,
        target_id: int,
        create: bool = False,
        durability: Durability = "power",
        quota: int | None = None,
        reserve: int | None = None,
        boot_id: str = "",
        calls: FileCalls = LINUX,
        open_store: Callable[[Path], MetadataStore] = MetadataStore,
    ) -> FileEngine:
        """Opens a target's directory and recovers it.

        Args:
            path: the directory.
            cluster_id: whose it must be.
            target_id: which it must be.
            create: make it if it is missing or empty.
            durability: "power": a mutating call returns when its effect survives a power loss;
                "process": when it survives the death of every process, and `sync` does the rest.
            quota: bytes of blocks that it may use; None: the disk is the bound.
            reserve: bytes of the disk that it leaves free; None: 1 % of it, at least 256 MiB, at
                most a tenth of it.
            boot_id: differs at each start of the machine, so that a power loss is noticed.
            calls: how the operating system is called.
            open_store: opens the metadata store.

        Raises FsError CONFIG_INVALID, WRONG_CLUSTER, BUSY (open elsewhere), DISK_FAILED.
        """
        with ExitStack() as resources:
            resources.callback(os.close, lock(path, calls, create=create))
            store = open_store(path / METADATA_NAME)
            resources.callback(store.close)
            content_id = check_marker(store, path, cluster_id, target_id, create=create)
            disk = BlockFiles(path / BLOCKS_NAME, calls)
            resources.callback(disk.close)
            keep_entries(path, calls)
            if reserve is None:
                size, _ = disk.space()
                reserve = min(max(int(size * RESERVE_FRACTION), RESERVE_BYTES_MIN), size // 10)
            engine = cls(
                store, disk, durability=durability, quota=quota, reserve=reserve, boot_id=boot_id,
                content_id=content_id,
            )
            engine._resources = resources.pop_all()
        return engine

    def close(self) -> None:
        """Syncs and gives up its files, also if the sync fails; then raises its error."""
        with self._resources:
            super().close()
