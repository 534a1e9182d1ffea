"""From an engine's configuration to a namespace: what all connectors have in common.

Layer: shell. Bytes mean something only to engines that agree on model, layout, types and ranks. So
a connector says all of that (its *meaning*), and the namespace's name ends with a digest of it:
engines that agree share blocks, others cannot meet. The keys stay the engine's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from luciole.config import ClientConfig, load
from luciole.errors import FsError, Kind
from luciole.kvcache.buffers import BlockBuffer
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.core.packing import KEYS_MAX
from luciole.kvcache.store import Namespace, Store
from luciole.proto import mgmtd_pb2
from luciole.runtime import drive

PREFIX_MAX = 51  # bytes of a namespace's name that are left beside the digest
DIGEST_DIGITS = 12
DESCRIPTION_MAX = 1000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an engine's configuration says to its connector."""

    config: str  # path of a client.toml
    namespace: str = ""  # begin of its name; empty: the model's name
    quota_bytes: int = 0  # of a namespace that is made
    ttl_seconds: int = 0
    replication: int = 1
    lookup_seconds: float = 0.2  # after which what was not found is missing
    transfer_seconds: float = 5.0  # after which what did not come is missing
    threads: int = 4


def settings_of(options: Mapping[str, object]) -> Settings:
    """Reads an engine's options. Raises FsError CONFIG_INVALID, which names the wrong one."""
    try:
        return msgspec.convert(dict(options), Settings)
    except msgspec.ValidationError as failure:
        raise FsError(Kind.CONFIG_INVALID, f"the connector's options are wrong: {failure}; "
                      "docs/kvcache.md lists them") from failure


class Opened:
    """A store and the namespace of one meaning; what connectors do with it.

    Nothing here raises for what a cluster does: a failure is a miss.

    Args:
        settings: of the connector.
        model: the model's name.
        meaning: everything that gives the bytes of a block their meaning, as JSON can say it.

    Raises FsError if the cluster cannot be reached.
    """

    def __init__(self, settings: Settings, model: str, meaning: Mapping[str, object]) -> None:
        self.settings = settings
        self.store = Store(load(Path(settings.config), ClientConfig))
        try:
            name, text = name_of(settings.namespace or model, meaning)
            self.namespace = self._namespace(name, text)
        except BaseException:
            self.store.close()
            raise

    def _namespace(self, name: str, description: str) -> Namespace:
        try:
            return self.store.namespace(name)
        except FsError as failure:
            if failure.kind != Kind.NOT_FOUND:
                raise
        settings = self.settings
        try:
            drive(self.store.cluster.set_namespace(mgmtd_pb2.KvNamespace(
                name=name, description=description[:DESCRIPTION_MAX],
                quota_bytes=settings.quota_bytes, ttl_seconds=settings.ttl_seconds,
                replication=settings.replication)))
        except FsError as failure:
            if failure.kind != Kind.EXISTS:  # else another engine was faster
                raise
        return self.store.namespace(name)

    def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """Which blocks are there."""
        found: list[bool] = []
        for at in range(0, len(keys), KEYS_MAX):
            found += self.namespace.exists(
                keys[at : at + KEYS_MAX], deadline=self.settings.lookup_seconds)
        return found

    def touch(self, keys: Sequence[bytes]) -> list[bool]:
        """As `exists`, counted as a use: eviction then takes others first."""
        return self.namespace.touch(keys, deadline=self.settings.lookup_seconds)

    def leading(self, keys: Sequence[bytes]) -> int:
        """How many blocks are there from the first on."""
        count = 0
        for at in range(0, len(keys), KEYS_MAX):
            some = keys[at : at + KEYS_MAX]
            found = self.namespace.match_prefix(some, deadline=self.settings.lookup_seconds).count
            count += found
            if found < len(some):
                break
        return count

    def get(self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer]) -> list[bool]:
        """Reads blocks; which came."""
        return _ok(self.namespace.get(keys, buffers, deadline=self.settings.transfer_seconds))

    def put(self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer]) -> list[bool]:
        """Stores blocks; which are there now."""
        return _ok(self.namespace.put(keys, buffers, deadline=self.settings.transfer_seconds))

    def close(self) -> None:
        """Ends its connections."""
        self.store.close()


def name_of(prefix: str, meaning: Mapping[str, object]) -> tuple[str, str]:
    """Name of a namespace, and its description: the meaning in full."""
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", prefix).strip("-._")[-PREFIX_MAX:].lstrip("-._")
    return f"{plain or 'model'}-{digest}", text


def _ok(outcomes: Sequence[Outcome]) -> list[bool]:
    return [outcome.ok for outcome in outcomes]
