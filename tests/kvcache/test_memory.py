"""The memory tier by itself: copies do not outlive their namespace's blocks."""

from __future__ import annotations

from luciole.clock import ManualClock
from luciole.kvcache.memory import MemoryTier

KEY = b"k" * 32
TTL = 60


def read(tier: MemoryTier) -> bytes | None:
    room = bytearray(4)
    return bytes(room) if tier.read(1, KEY, [memoryview(room)], None, TTL) else None


def test_a_copy_is_used_for_as_long_as_blocks_live_and_then_taken_anew() -> None:
    clock = ManualClock()
    tier = MemoryTier(1 << 20, clock)
    tier.keep(1, KEY, [memoryview(b"once")])
    clock.advance(TTL - 1)
    assert read(tier) == b"once"
    clock.advance(1)
    assert tier.pin(1, [KEY], 7, 30.0, TTL) == [0]
    assert read(tier) is None
    assert tier.used == 0
    tier.keep(1, KEY, [memoryview(b"anew")])
    assert read(tier) == b"anew"


def test_a_leased_copy_is_never_too_old() -> None:
    clock = ManualClock()
    tier = MemoryTier(1 << 20, clock)
    tier.keep(1, KEY, [memoryview(b"kept")])
    assert tier.pin(1, [KEY], 7, 2.0 * TTL, TTL) == [4]
    clock.advance(TTL + 1)
    assert read(tier) == b"kept"
    tier.lease(7, 0)
    assert read(tier) is None


def test_without_an_age_limit_copies_stay() -> None:
    clock = ManualClock()
    tier = MemoryTier(1 << 20, clock)
    tier.keep(1, KEY, [memoryview(b"long")])
    clock.advance(1e6)
    room = bytearray(4)
    assert tier.read(1, KEY, [memoryview(room)], None)
    assert room == b"long"
