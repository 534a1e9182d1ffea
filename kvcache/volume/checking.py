"""Whether a volume's index and its disk agree, and no slot is lost: what `luciole fsck` asks.

Layer: shell. The volume may be in use: whatever looks wrong is looked at again under the lock.
"""

from __future__ import annotations

from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.slots import Slot
from luciole.kvcache.core.space import Space
from luciole.kvcache.volume.reading import is_intact
from luciole.kvcache.volume.volume import Volume

PROBLEMS_MAX = 100


def check(volume: Volume) -> tuple[int, list[str]]:
    """How many blocks were compared, and what cannot be right. Raises FsError DISK_FAILED."""
    problems = _slot_problems(volume)
    with volume.guard:
        known = [(number, space, entry) for number, space in volume.spaces.items()
                 for entry in space.index.values()]
    for number, space, entry in known:
        if len(problems) >= PROBLEMS_MAX:
            problems.append("and perhaps more: the check was ended")
            break
        if not is_intact(volume, number, entry) and _still_there(volume, space, entry):
            problems.append(f"namespace {number}: the header of block {entry.key.hex()} is not on "
                            "the disk")
    return len(known), problems


def _still_there(volume: Volume, space: Space[Slot], entry: Entry[Slot]) -> bool:
    with volume.guard:
        return space.holds(entry)


def _slot_problems(volume: Volume) -> list[str]:
    """Sums that must agree at every moment."""
    found = []
    with volume.guard:
        slots, free = volume.slots.census()
        blocks = sum(len(space.index) for space in volume.spaces.values())
        in_hand = volume.in_hand()
        if slots - free != blocks + in_hand:
            found.append(f"{slots - free} slots are in use, and there are {blocks} blocks and "
                         f"{in_hand} that come or go")
        for number, space in volume.spaces.items():
            total = sum(entry.size for entry in space.index.values())
            if total != space.used:
                found.append(f"namespace {number}: blocks of {total} bytes are counted as "
                             f"{space.used}")
            if space.limit is not None and space.used > space.limit and not volume.leases:
                found.append(f"namespace {number} uses {space.used} bytes of {space.limit}")
        places = [entry.place for space in volume.spaces.values()
                  for entry in space.index.values()]
        if len(places) != len(set(places)):
            found.append("two blocks have one slot")
    return found
