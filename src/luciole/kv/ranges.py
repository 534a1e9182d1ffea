"""`RangeSet`: a set of keys made of half-open ranges.

Layer: pure. Invariant: the ranges are sorted, disjoint, not touching, and none is empty, so that
both bounds ascend and every question is one binary search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import msgspec

KeyRange = tuple[bytes, bytes]

_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class RangeSet:
    """Keys of ranges [begin, end)."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, ranges: Iterable[KeyRange] = ()) -> None:
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []
        for begin, end in ranges:
            self.add(begin, end)

    @classmethod
    def of_keys(cls, keys: Iterable[bytes]) -> RangeSet:
        """The set of these keys, made at once."""
        made = cls()
        begins = sorted(set(keys))
        ends = [key + b"\0" for key in begins]
        if set(begins).isdisjoint(ends):
            made._begins, made._ends = begins, ends
        else:  # one key follows right behind another
            for begin, end in zip(begins, ends, strict=True):
                made.add(begin, end)
        return made

    def __bool__(self) -> bool:
        return bool(self._begins)

    def __iter__(self) -> Iterator[KeyRange]:
        return zip(self._begins, self._ends, strict=True)

    def add(self, begin: bytes, end: bytes) -> None:
        """Adds begin <= key < end; ranges that it overlaps or touches become one with it."""
        if begin >= end:
            return
        low = bisect_left(self._ends, begin)
        high = bisect_right(self._begins, end)
        if low < high:
            begin = min(begin, self._begins[low])
            end = max(end, self._ends[high - 1])
        self._begins[low:high] = [begin]
        self._ends[low:high] = [end]

    def contains(self, key: bytes) -> bool:
        """Whether `key` is in the set."""
        index = bisect_right(self._ends, key)
        return index < len(self._begins) and self._begins[index] <= key

    def intersects(self, begin: bytes, end: bytes) -> bool:
        """Whether some key with begin <= key < end is in the set."""
        index = bisect_right(self._ends, begin)
        return begin < end and index < len(self._begins) and self._begins[index] < end

    def encode(self) -> bytes:
        """The set as bytes. A range of one key has an empty end: most ranges are such."""
        flat: list[bytes] = []
        for begin, end in zip(self._begins, self._ends, strict=True):
            flat += (begin, b"" if end == begin + b"\0" else end)
        return msgspec.msgpack.encode(flat)

    @classmethod
    def decode(cls, data: bytes) -> RangeSet:
        """The set that `encode` made bytes of."""
        flat = _decode(data)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return cls((begin, end or begin + b"\0") for begin, end in pairs)
