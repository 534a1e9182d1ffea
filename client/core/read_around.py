"""Which part of a file to fetch whole, because small pieces of it are asked for one by one.

Layer: pure. Samples of a dataset, rows of an index, records of a checkpoint: small reads, in no
order in which the kernel reads ahead, that come back to the same part of a file. Each costs a round
trip, so a few of them cost as much as their whole neighbourhood: the region, aligned to its size.
After a few reads in a region it is fetched. If a part of it is asked for again after that, the
kernel did not keep it, and the next fetch waits for twice as many reads.

What follows an earlier read is left alone, as the kernel reads ahead of it by itself.

Source: to rent until that has cost as much as to buy, which is never worse than twice the best
(Karlin et al., Competitive snoopy caching, 1988); here to buy at a third, since reads at random
come in crowds.

Bounds: `FETCH_AFTER` reads at least pay for each fetch of a region, so what is fetched is at most
region/FETCH_AFTER bytes a read. `REGIONS_MAX` regions and `FILES_MAX` files are remembered, those
of the latest reads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

FETCH_AFTER = 2  # reads in a region
FETCH_AFTER_MAX = 64
REGIONS_MAX = 65_536
FILES_MAX = 4096
ENDS = 8  # of a file: so many programs may read it in order at once


@dataclass
class _Region:
    reads: int = 0  # since it was fetched
    needed: int = FETCH_AFTER


class ReadAround:
    """Where small reads were asked for. The caller serialises calls."""

    def __init__(self, region_bytes: int) -> None:
        self._size = region_bytes
        self._ends: OrderedDict[int, deque[int]] = OrderedDict()  # inode -> where reads ended
        self._regions: OrderedDict[tuple[int, int], _Region] = OrderedDict()

    def asked(self, inode_id: int, offset: int, size: int) -> int | None:
        """A read had to be asked for; returns where a region begins that is to be fetched now.

        Args:
            offset, size: of the read, in bytes.
        """
        if 2 * size >= self._size or self._follows(inode_id, offset, offset + size):
            return None
        index = offset // self._size
        region = self._regions.setdefault((inode_id, index), _Region())
        self._regions.move_to_end((inode_id, index))
        if len(self._regions) > REGIONS_MAX:
            self._regions.popitem(last=False)
        region.reads += 1
        if region.reads < region.needed:
            return None
        region.reads = 0
        region.needed = min(2 * region.needed, FETCH_AFTER_MAX)
        return index * self._size

    def _follows(self, inode_id: int, offset: int, end: int) -> bool:
        """Whether an earlier read ended here. Notes where this one ends."""
        ends = self._ends.setdefault(inode_id, deque(maxlen=ENDS))
        self._ends.move_to_end(inode_id)
        if len(self._ends) > FILES_MAX:
            self._ends.popitem(last=False)
        follows = offset in ends
        if follows:
            ends.remove(offset)
        ends.append(end)
        return follows
