"""`WriteBuffer`: what a transaction wrote so far, laid over what it reads, and applied at commit.

Layer: pure. Invariant: `_cleared` came before every entry of `_writes` (clearing a range drops
the entries in it), so that ranges are cleared first and the entries applied after.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Protocol

from luciole.errors import FsError, Kind
from luciole.kv.interface import key_after
from luciole.kv.limits import STAMP_BYTES, shown
from luciole.kv.ranges import KeyRange, RangeSet

_NUMBER_BYTES = 8
_NUMBER_MASK = (1 << 64) - 1


class Untouched(enum.Enum):
    """Says that the buffer knows nothing of a key."""

    YES = 0


Entry = bytes | int | None
"""A value; a number to add to whatever the store has; or None: no record."""


class Sink(Protocol):
    """Where a commit is applied: the newest state of a store."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record."""

    def clear(self, key: bytes) -> None:
        """Removes a record if it is there."""

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes all records with begin <= key < end."""


def add_number(value: bytes | None, delta: int) -> bytes:
    """FoundationDB's ADD on eight bytes: little-endian, modulo 2**64.

    A missing value counts as 0; a shorter one is filled with zeros, a longer one cut.
    """
    number = int.from_bytes((value or b"")[:_NUMBER_BYTES], "little")
    return ((number + delta) & _NUMBER_MASK).to_bytes(_NUMBER_BYTES, "little")


class WriteBuffer:
    """Buffered writes of one transaction. Its callers check limits."""

    __slots__ = ("_cleared", "_conflicts", "_stamped", "_writes", "dirty")

    def __init__(self) -> None:
        self.dirty = False  # whether there is anything to commit
        self._writes: dict[bytes, Entry] = {}
        self._cleared: RangeSet | None = None  # mostly there is none
        self._stamped: list[tuple[bytes, bytes, bytes]] = []
        self._conflicts: list[KeyRange] = []

    def find(self, key: bytes) -> Entry | Untouched:
        """What the transaction wrote under `key`. Raises like `refuse_unreadable`."""
        if self._stamped:
            self.refuse_unreadable(key, key_after(key))
        if key in self._writes:
            return self._writes[key]
        return Untouched.YES if self._cleared is None or not self._cleared.contains(key) else None

    def set(self, key: bytes, value: bytes) -> None:
        """Writes a record."""
        self.dirty = True
        self._writes[key] = value

    def clear(self, key: bytes) -> None:
        """Removes a record."""
        self.dirty = True
        self._writes[key] = None

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Removes all records with begin <= key < end."""
        self.dirty = True
        for key in self._own_keys(begin, end):
            del self._writes[key]
        if self._cleared is None:
            self._cleared = RangeSet()
        self._cleared.add(begin, end)

    def add(self, key: bytes, delta: int) -> None:
        """Adds to a number; only the commit learns what it was, unless it was written here."""
        self.dirty = True
        cleared = self._cleared is not None and self._cleared.contains(key)
        entry: Entry | Untouched
        entry = self._writes.get(key, None if cleared else Untouched.YES)
        if isinstance(entry, Untouched):
            self._writes[key] = delta
        elif isinstance(entry, int):
            self._writes[key] = entry + delta
        else:
            self._writes[key] = add_number(entry, delta)

    def set_stamped(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Writes a record whose key the commit completes."""
        self.dirty = True
        self._stamped.append((prefix, suffix, value))

    def add_conflict(self, begin: bytes, end: bytes) -> None:
        """Counts a range as written."""
        self.dirty = True
        self._conflicts.append((begin, end))

    def refuse_unreadable(self, begin: bytes, end: bytes) -> None:
        """Raises FsError INVALID_ARGUMENT if a key that the commit will complete may be read.

        FoundationDB refuses such reads too (accessed_unreadable, 1036).
        """
        for prefix, _, _ in self._stamped:
            if begin < prefix + b"\xff" * STAMP_BYTES and prefix < end:
                raise FsError(
                    Kind.INVALID_ARGUMENT,
                    "keys with a versionstamp of this transaction cannot be read before it commits",
                    shown(prefix),
                )

    def overlay(
        self, records: Iterable[KeyRange], begin: bytes, end: bytes, *, reverse: bool
    ) -> Iterator[KeyRange]:
        """The records [(key, value)] of the store in a range, as this transaction sees them.

        A merge of two sorted sequences; both run backwards when `reverse`.
        """
        own = sorted(self._own_keys(begin, end), reverse=reverse)
        own.reverse()  # the next one is the last of the list
        for key, value in records:
            while own and (own[-1] > key if reverse else own[-1] < key):
                yield from self._resolved(own.pop(), None)
            if own and own[-1] == key:
                yield from self._resolved(own.pop(), value)
            elif self._cleared is None or not self._cleared.contains(key):
                yield key, value
        while own:
            yield from self._resolved(own.pop(), None)

    def apply(self, sink: Sink, stamp: bytes) -> None:
        """Applies all writes to the newest state; `stamp` is the 10-byte commit version."""
        for begin, end in self._cleared or ():
            sink.clear_range(begin, end)
        for key, entry in self._writes.items():
            if entry is None:
                sink.clear(key)
            elif isinstance(entry, int):
                sink.set(key, add_number(sink.get(key), entry))
            else:
                sink.set(key, entry)
        for prefix, suffix, value in self._stamped:
            sink.set(prefix + stamp + suffix, value)

    def written(self, stamp: bytes) -> RangeSet:
        """Everything that counts as written by the commit with that stamp."""
        ranges = RangeSet.of_keys(
            [*self._writes, *[prefix + stamp + suffix for prefix, suffix, _ in self._stamped]])
        for begin, end in self._cleared or ():
            ranges.add(begin, end)
        for begin, end in self._conflicts:
            ranges.add(begin, end)
        return ranges

    def size(self) -> int:
        """Bytes of all writes and of their conflict ranges, about as FoundationDB counts them."""
        total = 0
        for begin, end in self._conflicts:
            total += len(begin) + len(end)
        for begin, end in self._cleared or ():
            total += 2 * (len(begin) + len(end))
        for key, entry in self._writes.items():
            data = len(entry) if isinstance(entry, bytes) else _NUMBER_BYTES
            total += 3 * len(key) + data
        for prefix, suffix, value in self._stamped:
            total += 3 * (len(prefix) + STAMP_BYTES + len(suffix)) + len(value)
        return total

    def _own_keys(self, begin: bytes, end: bytes) -> list[bytes]:
        return [key for key in self._writes if begin <= key < end]

    def _resolved(self, key: bytes, stored: bytes | None) -> Iterator[KeyRange]:
        entry = self._writes[key]
        if isinstance(entry, int):
            yield key, add_number(stored, entry)
        elif entry is not None:
            yield key, entry
