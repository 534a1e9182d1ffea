"""Scrub: reads every chunk of every target again and again, to find rot before a reader does.

Layer: shell. A pass walks the targets one after another, each in order of chunk id; a step does
as much of it as the rate allows and remembers where it stopped. Verifying is reading: the engine
compares every block with its checksum. What does not hold is reported (damage.py) and left to
repair.py. Nothing is locked; a chunk that changes meanwhile is verified as it is then.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.runtime import Runtime
from luciole.storage.engine.interface import ChunkState
from luciole.storage.targets import Target, Targets

log = get_logger("storage.scrub")
STEP_S = 1.0
PAGE = 64
WINDOW_BYTES = 1024 * 1024


class Scrub:
    """Walks the targets of this process.

    Args:
        bytes_per_second: how fast; 0: never.
        interval_seconds: from the end of a pass to the begin of the next.
    """

    def __init__(
        self, runtime: Runtime, targets: Targets, *, bytes_per_second: int,
        interval_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._rate = bytes_per_second
        self._interval = interval_seconds
        self._credit = 0.0  # bytes that may be read now; below 0 after a large chunk
        self._left: list[Target] = []  # of this pass, the one under way first
        self._begin = b""
        self._next_pass = runtime.clock.now()
        self._scratch = memoryview(bytearray(WINDOW_BYTES))

    async def run_once(self) -> int:
        """One step, to be taken every STEP_S seconds; returns chunks verified."""
        if not self._rate:
            return 0
        if not self._left:
            if self._runtime.clock.now() < self._next_pass:
                return 0
            self._left, self._begin = self._targets.all(), b""
        self._credit = min(self._credit, 0.0) + self._rate * STEP_S
        done = 0
        while self._left and self._credit > 0:
            try:
                done += await self._page(self._left[0])
            except FsError as failure:
                log.warning("scrub_skips_target", target=self._left[0].target_id,
                            error=str(failure))
                self._next_target()
        if not self._left:
            self._next_pass = self._runtime.clock.now() + self._interval
        return done

    def _next_target(self) -> None:
        self._left, self._begin = self._left[1:], b""

    async def _page(self, target: Target) -> int:
        """Verifies the next chunks of a target, as many as the credit allows."""
        states, more = await target.engine.list(self._begin, None, PAGE)
        done = 0
        for state in states:
            if self._credit <= 0:
                return done
            await self._verify(target, state)
            self._begin = state.chunk_id + b"\0"
            done += 1
        if not more:
            self._next_target()
        return done

    async def _verify(self, target: Target, state: ChunkState) -> None:
        """Reads both versions of a chunk, and counts."""
        for version in (state.committed, state.pending):
            if version is None or version.removed:
                continue
            self._credit -= version.length
            target.damage.scrubbed_bytes += version.length
            try:
                for offset in range(0, version.length, WINDOW_BYTES):
                    await target.engine.read(
                        state.chunk_id, offset, self._scratch, pending=version is state.pending)
            except FsError as failure:
                if failure.kind == Kind.CHECKSUM_MISMATCH:
                    target.damage.report(state.chunk_id)
                elif failure.kind != Kind.CHUNK_NOT_FOUND:  # committed or removed meanwhile
                    raise
        target.damage.scrubbed_chunks += 1
