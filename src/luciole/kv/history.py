"""`ConflictHistory`: which keys recent commits wrote, and whether a transaction may still commit.

Layer: pure. This is FoundationDB's resolver: a transaction conflicts when a commit after its read
version wrote into a range that it read. The history is bounded; a transaction that read before
its floor cannot be judged any more and is too old. Callers serialise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from luciole.errors import FsError, Kind
from luciole.kv.limits import shown
from luciole.kv.ranges import KeyRange, RangeSet


class ConflictHistory:
    """Commits with floor < version <= newest, each with its time and the keys it wrote."""

    def __init__(self, version: int = 0) -> None:
        self.floor = version
        self.newest = version
        self._commits: deque[tuple[int, float, RangeSet]] = deque()

    def record(self, version: int, time: float, written: RangeSet) -> None:
        """Adds a commit later than all others; `time` in seconds of the caller's clock."""
        assert version > self.newest
        self._commits.append((version, time, written))
        self.newest = version

    def forget(self, before: float, floor: int = 0) -> None:
        """Drops commits older than the time `before`, and those of versions up to `floor`."""
        while self._commits and (self._commits[0][1] < before or self._commits[0][0] <= floor):
            self.floor = self._commits.popleft()[0]
        self.floor = max(self.floor, floor)
        self.newest = max(self.newest, floor)

    def check(
        self, read_version: int, reads: Sequence[KeyRange], uncommitted: Iterable[RangeSet] = ()
    ) -> None:
        """Passes a transaction that read the ranges `reads` as of `read_version`.

        `uncommitted` are the writes of those that commit just before it in the same batch.
        Raises FsError KV_CONFLICT or KV_TOO_OLD.
        """
        if not reads:
            return
        if read_version < self.floor:
            raise FsError(Kind.KV_TOO_OLD, "its reads are older than the commits remembered")
        for written in uncommitted:
            _refuse_overlap(written, reads)
        for version, _, written in reversed(self._commits):
            if version <= read_version:
                return
            _refuse_overlap(written, reads)


def _refuse_overlap(written: RangeSet, reads: Sequence[KeyRange]) -> None:
    for begin, end in reads:
        if written.intersects(begin, end):
            raise FsError(Kind.KV_CONFLICT, "another transaction wrote what was read", shown(begin))
