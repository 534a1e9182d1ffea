"""Whether a mount is being read in large pieces.

Layer: pure. Large reads, in a row, are best answered a few at a time; small ones gain by being many
(client/fuse/direct/background.py). A score tells which of them come: each large read adds one and
each small one takes half of it away, so that a stream is noticed soon, a small read now and then
makes no difference, and two in a row do.
"""

from __future__ import annotations

LARGE_BYTES = 128 * 1024
SCORE_MAX = 4


class Streaming:
    """The kind of reads of the last moments. Threads may race: a lost step costs nothing."""

    def __init__(self) -> None:
        self.now = False
        self._score = 0

    def read(self, size: int) -> bool:
        """A read of `size` bytes came; returns whether `now` has changed."""
        if size >= LARGE_BYTES:
            self._score = min(self._score + 1, SCORE_MAX)
        else:
            self._score = max(self._score - SCORE_MAX // 2, 0)
        was = self.now
        self.now = self._score > 0 if was else self._score == SCORE_MAX
        return self.now != was
