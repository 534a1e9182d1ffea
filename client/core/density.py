"""Whether a file's small reads come back to where they were: then its regions are fetched at once.

Layer: pure. A region that is fetched at the first read in it saves the read that would have shown
that it is worth it. Where samples are sparse it costs a region a sample. What the kernel holds is
read without us, so a region that was fetched says nothing of whether it was needed: only regions
that wait for their second read do. While nothing is known, all wait. Once enough came back, of all
that wait, the file's samples are dense, and one of `PROBE_EVERY` new regions waits still: a control
group, by which the file is judged as long as it is read.

A probe costs hope, what comes back gives hope for `PROBES_PAID` probes, and without hope all
regions wait again and the file is judged anew, from nothing. A region that was fetched and is read
again, as the kernel did not keep it, counts as one that waited in vain.

Bounds: a return (a second read, in a region that waited) pays for `PROBES_PAID` probes, and each
probe for the regions up to the next. So of a file with n returns at most
PROBES_PAID * (PROBE_EVERY - 1) * n regions are fetched at a first read: none where nothing comes
back. Once nothing comes back any more, `HOPE_MAX` probes are left, and the regions between them.
"""

from __future__ import annotations

PROBE_EVERY = 8  # new regions
RETURNS_MIN = 4  # that show samples to be dense
WAITS_PER_RETURN = 4  # at most
WAITS_MAX = 512  # remembered: what counts is the file's latest reads
PROBES_PAID = 2
HOPE_MAX = PROBES_PAID * RETURNS_MIN


class Density:
    """The judgement of one file."""

    __slots__ = ("_hope", "_new", "_returns", "_waits", "dense")

    def __init__(self) -> None:
        self.dense = False
        self._waits = 0  # regions that had to wait for a second read
        self._returns = 0  # those of them in which it came
        self._hope = 0  # probes that may be made yet
        self._new = 0  # regions, since samples are dense

    def opened(self) -> bool:
        """A region is read for the first time; returns whether to fetch it now."""
        if self.dense:
            self._new += 1
            if self._new % PROBE_EVERY != 1:
                return True
        self.in_vain()
        return False

    def returned(self) -> None:
        """The second read came, in a region that waited for it."""
        if self.dense:
            self._hope = min(self._hope + PROBES_PAID, HOPE_MAX)
            return
        self._returns += 1
        if self._returns >= RETURNS_MIN and self._returns * WAITS_PER_RETURN >= self._waits:
            self.dense = True
            self._hope = HOPE_MAX
            self._new = 0

    def in_vain(self) -> None:
        """A region waits, or was fetched and is read again."""
        if self.dense and self._hope:
            self._hope -= 1
            return
        if self.dense:
            self.dense, self._waits, self._returns = False, 0, 0
        self._waits += 1
        if self._waits == WAITS_MAX:
            self._waits //= 2
            self._returns //= 2
