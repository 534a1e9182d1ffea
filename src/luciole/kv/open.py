"""Opens a key-value store by its URL, as configuration names it."""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import KeyValueStore
from luciole.runtime import Runtime


def open_store(url: str, runtime: Runtime) -> KeyValueStore:
    """Opens `embedded:DIRECTORY` or `fdb:CLUSTER_FILE`.

    Raises FsError CONFIG_INVALID for anything else and whatever the engine raises.
    """
    # Each engine is imported when it is asked for: FoundationDB's needs a client library.
    engine, _, place = url.partition(":")
    if engine == "embedded" and place:
        from luciole.kv.embedded import EmbeddedStore  # noqa: PLC0415

        return EmbeddedStore(place, runtime)
    if engine == "fdb" and place:
        from luciole.kv.foundationdb import FoundationDbStore  # noqa: PLC0415

        return FoundationDbStore(place, bridge="thread")
    raise FsError(Kind.CONFIG_INVALID, "a store is embedded:DIRECTORY or fdb:CLUSTER_FILE", url)
