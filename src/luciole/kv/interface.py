"""`KeyValueStore`: FoundationDB's contract, which every engine keeps.

Ordered byte keys; transactions that read a snapshot and commit only if nothing they read was
changed since (strict serializability by optimistic concurrency control). A read marked
`snapshot` is not checked. Writes are buffered; a transaction sees its own writes. The limits of
FoundationDB hold in every engine, so that nothing built on the embedded one breaks on the real
one. Source: FoundationDB developer guide, "Transactions" and "Known limitations".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

KEY_BYTES_MAX = 10_000
VALUE_BYTES_MAX = 100_000
TRANSACTION_BYTES_MAX = 10_000_000
TRANSACTION_SECONDS_MAX = 5.0


class KeyValue(NamedTuple):
    """One record."""

    key: bytes
    value: bytes


class Transaction(Protocol):
    """One optimistic transaction. Not to be shared by threads or tasks."""

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """The value, or None. Raises FsError KV_TOO_OLD after five seconds."""

    async def get_many(
        self, keys: list[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        """The values in the order of `keys`, read at once."""

    async def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        """Records with begin <= key < end in order (or in reverse), at most `limit` (0: all)."""

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record. Raises FsError KV_TOO_LARGE beyond the limits."""

    def clear(self, key: bytes) -> None:
        """Removes a record if it is there."""

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes all records with begin <= key < end."""

    def add(self, key: bytes, delta: int) -> None:
        """Adds to a little-endian signed 64-bit number without reading it: no conflict."""

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Writes under prefix + 10-byte commit version + suffix: unique, in commit order."""

    def add_read_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes the commit fail if another writes into the range meanwhile."""

    def add_write_conflict(self, begin: bytes, end: bytes) -> None:
        """Makes transactions that read the range meanwhile fail, as if it were written."""

    async def commit(self) -> None:
        """Makes all writes at once: others see all of them or none, and they are not lost again.

        Whether that includes a loss of power is the store's setting; see `KeyValueStore.flush`.

        Raises FsError KV_CONFLICT, KV_TOO_OLD, KV_TOO_LARGE or, when the outcome cannot be
        known, KV_MAYBE_COMMITTED. A transaction without writes always succeeds.
        """


class KeyValueStore(Protocol):
    """An engine."""

    def transaction(self) -> Transaction:
        """Begins a transaction; its snapshot is taken at its first read."""

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `body` in a transaction and commits, again on conflict, at most for 10 seconds.

        `body` may run many times and must have no other effect than through its transaction.
        After KV_MAYBE_COMMITTED it runs again too: it must recognise its own earlier commit.
        """

    async def watch(self, key: bytes, seen: bytes | None, timeout: float) -> bytes | None:
        """The newest value of a key once it is not `seen` any more, or after `timeout` seconds.

        Who changed it does not matter: a transaction of this process, or another one's anywhere.
        It costs nothing while nothing changes. A value that went and came back may be missed.
        Raises FsError as a read does.
        """

    async def flush(self) -> None:
        """Returns when all that was committed through this store before survives a power loss.

        A loss before that takes commits from the end only. Costs nothing where commits are durable
        when they return. Raises FsError DISK_FAILED when that cannot be had any more.
        """

    def close(self) -> None:
        """Gives up files and connections. Open transactions fail."""


def key_after(key: bytes) -> bytes:
    """The least key greater than `key`."""
    return key + b"\0"


def prefix_end(prefix: bytes) -> bytes:
    """The least key greater than every key that starts with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of 0xff only has no end"
    return stripped[:-1] + bytes([stripped[-1] + 1])
