"""Which part of a file to fetch whole, because small pieces of it are asked for one by one.

Layer: pure. Samples of a dataset, rows of an index, records of a checkpoint: small reads, in no
order in which the kernel reads ahead, that come back to the same part of a file. Each costs a round
trip, so a few of them cost as much as their whole neighbourhood: the region, aligned to its size.
After a few reads in a region it is fetched; at the first, in a file whose samples are dense
(core/density.py). If a part of it is asked for again after that, the kernel did not keep it, and
the next fetch waits for twice as many reads.

What follows an earlier read is left alone, as the kernel reads ahead of it by itself.

Source: to rent until that has cost as much as to buy, which is never worse than twice the best
(Karlin et al., Competitive snoopy caching, 1988); here to buy at a third, since reads at random
come in crowds.

Bounds: `FETCH_AFTER` reads at least pay for each fetch of a region, so what is fetched is at most
region/FETCH_AFTER bytes a read; where samples are dense one read does, so a region a read whatever
is asked, in proportion to the second reads that came. `REGIONS_MAX` regions and `FILES_MAX` files
are remembered, those of the latest reads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from luciole.client.core.density import Density

FETCH_AFTER = 2  # reads in a region
FETCH_AFTER_MAX = 64
REGIONS_MAX = 65_536
FILES_MAX = 4096
ENDS = 8  # of a file: so many programs may read it in order at once


class Wanted(NamedTuple):
    """A region that is to be fetched now."""

    begin: int  # in the file, in bytes
    dense: bool  # the file's samples are: the region is likely worth waiting for


@dataclass
class _Region:
    reads: int = 0  # since it was fetched
    needed: int = FETCH_AFTER


@dataclass
class _File:
    ends: deque[int] = field(default_factory=lambda: deque(maxlen=ENDS))  # where reads ended
    density: Density = field(default_factory=Density)


class ReadAround:
    """Where small reads were asked for. The caller serialises calls."""

    def __init__(self, region_bytes: int) -> None:
        self._size = region_bytes
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._regions: OrderedDict[tuple[int, int], _Region] = OrderedDict()

    def asked(self, inode_id: int, offset: int, size: int) -> Wanted | None:
        """A read has to be asked for; returns the region that is to be fetched for it.

        Args:
            offset, size: of the read, in bytes.
        """
        if 2 * size >= self._size:
            return None
        file = self._file(inode_id)
        if _follows(file.ends, offset, offset + size):
            return None
        index = offset // self._size
        region = self._region(inode_id, index)
        region.reads += 1
        if region.reads == 1:
            if region.needed > FETCH_AFTER:
                file.density.in_vain()
            elif file.density.opened():
                region.needed = 1
        if region.reads < region.needed:
            return None
        if region.needed == FETCH_AFTER:
            file.density.returned()
        region.reads = 0
        region.needed = min(2 * max(region.needed, FETCH_AFTER), FETCH_AFTER_MAX)
        return Wanted(index * self._size, file.density.dense)

    def _file(self, inode_id: int) -> _File:
        file = self._files.get(inode_id)
        if file is None:
            file = self._files[inode_id] = _File()
            if len(self._files) > FILES_MAX:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(inode_id)
        return file

    def _region(self, inode_id: int, index: int) -> _Region:
        region = self._regions.get((inode_id, index))
        if region is None:
            region = self._regions[inode_id, index] = _Region()
            if len(self._regions) > REGIONS_MAX:
                self._regions.popitem(last=False)
        else:
            self._regions.move_to_end((inode_id, index))
        return region


def _follows(ends: deque[int], offset: int, end: int) -> bool:
    """Whether an earlier read ended here. Notes where this one ends."""
    follows = offset in ends
    if follows:
        ends.remove(offset)
    ends.append(end)
    return follows
