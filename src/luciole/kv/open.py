"""Opens a key-value store by its URL, as configuration names it."""

from __future__ import annotations

from typing import Literal

from luciole.errors import FsError, Kind
from luciole.kv.interface import KeyValueStore
from luciole.runtime import Runtime


def open_store(
    url: str, runtime: Runtime, *, durability: Literal["process", "power"] = "power",
    sync_seconds: float = 1.0,
) -> KeyValueStore:
    """Opens `embedded:DIRECTORY` or `fdb:CLUSTER_FILE`, whose commits are always durable.

    Args:
        url: as configuration names it.
        runtime: of threads.
        durability: of the embedded store: with "process" its commits need `flush`.
        sync_seconds: with "process", how long a commit stays unflushed at most.

    Raises FsError CONFIG_INVALID for anything else and whatever the engine raises.
    """
    # Each engine is imported when it is asked for: FoundationDB's needs a client library.
    engine, _, place = url.partition(":")
    if engine == "embedded" and place:
        from luciole.kv.embedded import EmbeddedStore  # noqa: PLC0415

        return EmbeddedStore(place, runtime, durability=durability, sync_seconds=sync_seconds)
    if engine == "fdb" and place:
        from luciole.kv.foundationdb import FoundationDbStore  # noqa: PLC0415

        return FoundationDbStore(place, bridge="thread")
    raise FsError(Kind.CONFIG_INVALID, "a store is embedded:DIRECTORY or fdb:CLUSTER_FILE", url)
