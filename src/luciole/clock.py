"""Time and randomness as arguments, so that the simulator can stand in for both."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Monotonic seconds: for deadlines and leases."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970: for timestamps that people see."""


class Entropy(Protocol):
    """A source of randomness."""

    def token(self, size: int) -> bytes:
        """`size` random bytes, unpredictable in production."""

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""

    def uniform(self, low: float, high: float) -> float:
        """A number between low and high: for jitter."""


class SystemClock:
    """The machine's clocks: the functions themselves, as time is asked for in every step."""

    now = staticmethod(time.monotonic)
    wall_ns = staticmethod(time.time_ns)


class ManualClock:
    """Moves only when told to: for tests and the simulator."""

    def __init__(self, start: float = 1000.0, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = start
        self._wall_offset_ns = wall_ns - int(start * 1e9)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return int(self._now * 1e9) + self._wall_offset_ns

    def advance(self, seconds: float) -> None:
        """Moves both clocks on. `seconds` is not negative."""
        assert seconds >= 0
        self._now += seconds


class SystemEntropy:
    """The kernel's random numbers."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""
        return os.urandom(size)

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        return random.randrange(limit)

    def uniform(self, low: float, high: float) -> float:
        """A number between low and high."""
        return random.uniform(low, high)


class SeededEntropy:
    """The same numbers for the same seed, in every process."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        """`size` bytes."""
        return self._random.randbytes(size)

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        return self._random.randrange(limit)

    def uniform(self, low: float, high: float) -> float:
        """A number between low and high."""
        return self._random.uniform(low, high)
