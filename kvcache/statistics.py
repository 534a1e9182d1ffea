"""What a client of the KV cache has done: counts, and how long it took.

Layer: pure but for a lock. Latencies are kept in buckets of a quarter of a power of two, so that a
percentile is exact to a fifth.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from luciole.kvcache.core.outcomes import Outcome

_STEPS = 4  # buckets for each power of two


class Histogram:
    """Durations, by bucket."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._buckets[math.floor(math.log2(max(seconds, 1e-7)) * _STEPS)] += 1
        self.count += 1
        self.total_s += seconds

    def percentile(self, share: float) -> float:
        """Seconds below which `share` (0 to 1) of all are; 0 if there are none."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return float(2 ** ((bucket + 0.5) / _STEPS))
        return 0.0


class Statistics:
    """Of one store. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._outcomes: dict[str, Counter[Outcome]] = {}
        self._bytes: Counter[str] = Counter()
        self._times: dict[str, Histogram] = {}

    def note(
        self, operation: str, seconds: float,
        outcomes: Iterable[Outcome] | Mapping[Outcome, int] = (), size: int = 0,
    ) -> None:
        """One call ended.

        Args:
            operation: its name.
            seconds: how long it took.
            outcomes: of its keys, or how many had each.
            size: bytes that it moved.
        """
        with self._guard:
            self._outcomes.setdefault(operation, Counter()).update(outcomes)
            self._bytes[operation] += size
            self._times.setdefault(operation, Histogram()).add(seconds)

    def export(self) -> dict[str, dict[str, float]]:
        """By operation: calls, bytes, how many keys had each outcome, latencies in seconds."""
        with self._guard:
            found: dict[str, dict[str, float]] = {}
            for operation, times in self._times.items():
                found[operation] = {
                    "calls": times.count, "bytes": self._bytes[operation],
                    "seconds": times.total_s, "p50_s": times.percentile(0.5),
                    "p99_s": times.percentile(0.99)}
                for outcome, count in self._outcomes[operation].items():
                    found[operation][outcome.name.lower()] = count
            return found
