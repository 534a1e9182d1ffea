"""What is known of rot on one target: chunks to look at, and counts.

Layer: shell, shared by threads. Whoever meets a checksum that does not hold reports the chunk and
goes on; repair.py looks at it again under its lock, so a report may be wrong or come twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2

WAITING_MAX = 1024  # more are left to whoever meets them next, at the latest the scrub


class Damage:
    """The reports and counts of one target."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[bytes, None] = {}  # in order of their first report
        self._hopeless: set[bytes] = set()
        self.scrubbed_chunks = 0
        self.scrubbed_bytes = 0
        self.found = 0
        self.repaired = 0

    @contextmanager
    def noticing(self, chunk_id: bytes) -> Iterator[None]:
        """Reports the chunk if what is done meanwhile raises CHECKSUM_MISMATCH, which goes on."""
        try:
            yield
        except FsError as failure:
            if failure.kind == Kind.CHECKSUM_MISMATCH:
                self.report(chunk_id)
            raise

    def report(self, chunk_id: bytes) -> None:
        """The chunk is to be looked at."""
        with self._guard:
            if len(self._waiting) < WAITING_MAX:
                self._waiting[bytes(chunk_id)] = None

    def take(self, count: int) -> list[bytes]:
        """Takes up to `count` reported chunks, oldest first."""
        with self._guard:
            taken = list(self._waiting)[:count]
            for chunk_id in taken:
                del self._waiting[chunk_id]
            return taken

    def hopeless(self, chunk_id: bytes) -> bool:
        """Notes that no other replica can help; returns whether this was not known yet."""
        with self._guard:
            new = chunk_id not in self._hopeless
            self._hopeless.add(chunk_id)
            return new

    def whole(self, chunk_id: bytes) -> None:
        """The chunk was found or made intact, or is gone."""
        with self._guard:
            self._hopeless.discard(chunk_id)

    @property
    def unrepairable(self) -> int:
        """Chunks that are damaged and that no other replica could make whole."""
        return len(self._hopeless)

    def tell(self, report: mgmtd_pb2.TargetReport) -> None:
        """Writes the counts into a heartbeat's report."""
        report.scrubbed_chunks, report.scrubbed_bytes = self.scrubbed_chunks, self.scrubbed_bytes
        report.damaged, report.repaired = self.found, self.repaired
        report.unrepairable = self.unrepairable
