"""Where blocks lie on a volume: slabs of equal size, each cut into slots of one class.

Layer: pure; the caller guards it. The scheme is that of memcached: a slab is given to a size class
when the class needs room, and goes back when its last block has gone. A class is a multiple of an
eighth of a power of two, so that at most an eighth of a slot is unused, and nothing for sizes such
as 4 KiB or 1 MiB. Why not the blocks of storage targets: their least is 64 KiB and their classes
are powers of two, so that a block of 36 KiB would take 64.

A slot has room for the block's header (`header_room`) and its bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from luciole.checksum import BLOCK_SIZE

SLAB_HEADER = 4096
SLAB_BYTES = 65 * 1024 * 1024  # 64 MiB of blocks, whose headers fit into the rest
HEADER_FIXED = 128
_UNIT_MIN = 64


class Slot(NamedTuple):
    """A place on the volume."""

    slab: int
    number: int


def class_of(length: int) -> int:
    """Bytes for which the slot of a block of `length` bytes has room, at least `length`."""
    unit = max(_UNIT_MIN, 1 << max(0, length.bit_length() - 4))
    return -(-max(length, 1) // unit) * unit


def header_room(data_bytes: int) -> int:
    """Bytes of the header of a slot for `data_bytes` bytes: a CRC32C for each 64 KiB."""
    pieces = -(-data_bytes // BLOCK_SIZE)
    return HEADER_FIXED + -(-4 * pieces // _UNIT_MIN) * _UNIT_MIN


def slot_bytes(data_bytes: int) -> int:
    """Bytes of a slot of a class."""
    return header_room(data_bytes) + data_bytes


class Slab:
    """A piece of the volume. `data_bytes` names its class, 0: it has none."""

    __slots__ = ("data_bytes", "free", "held", "slot_bytes", "slots")

    def __init__(self) -> None:
        self.data_bytes = 0
        self.slot_bytes = 0
        self.free: list[int] = []
        self.held = 0
        self.slots = 0


class Slots:
    """The slots of one volume.

    Args:
        slabs: how many slabs it has.
        slab_bytes: size of each.
    """

    def __init__(self, slabs: int, slab_bytes: int = SLAB_BYTES) -> None:
        self.slab_bytes = slab_bytes
        self.slabs = [Slab() for _ in range(slabs)]
        self._blank = list(range(slabs - 1, -1, -1))
        self._open: dict[int, set[int]] = {}  # class -> slabs with free slots

    @property
    def length_max(self) -> int:
        """The longest block: a slab holds one at least."""
        room = self.slab_bytes - SLAB_HEADER
        return max(0, room - header_room(room)) * 7 // 8

    def position(self, slot: Slot) -> int:
        """First byte of a slot on the volume."""
        slab = self.slabs[slot.slab]
        inside = SLAB_HEADER + slot.number * slab.slot_bytes
        return slot.slab * self.slab_bytes + inside

    def take(self, data_bytes: int) -> tuple[Slot, bool] | None:
        """A slot of a class, and whether its slab was just given to the class; None: no room."""
        ready = self._open.get(data_bytes)
        if ready:
            number = next(iter(ready))
            return Slot(number, self._take_from(number)), False
        if not self._blank:
            return None
        number = self._blank.pop()
        self.assign(number, data_bytes)
        return Slot(number, self._take_from(number)), True

    def assign(self, number: int, data_bytes: int) -> None:
        """Gives a blank slab to a class."""
        slab = self.slabs[number]
        assert slab.held == 0
        slab.data_bytes = data_bytes
        slab.slot_bytes = slot_bytes(data_bytes)
        slab.slots = (self.slab_bytes - SLAB_HEADER) // slab.slot_bytes
        slab.free = list(range(slab.slots - 1, -1, -1))
        self._open.setdefault(data_bytes, set()).add(number)

    def give_back(self, slot: Slot) -> None:
        """Frees a slot. A slab without blocks is blank again."""
        slab = self.slabs[slot.slab]
        slab.held -= 1
        slab.free.append(slot.number)
        ready = self._open.setdefault(slab.data_bytes, set())
        ready.add(slot.slab)
        if slab.held == 0:
            ready.discard(slot.slab)
            self._make_blank(slot.slab)

    def restore(self, classes: dict[int, int], held: set[Slot]) -> None:
        """Starts from what is on the disk: the class of each slab, and the slots in use."""
        by_slab: dict[int, set[int]] = {}
        for slot in held:
            by_slab.setdefault(slot.slab, set()).add(slot.number)
        self._blank.clear()
        self._open.clear()
        for number in range(len(self.slabs) - 1, -1, -1):
            used = by_slab.get(number)
            if not used:
                self._make_blank(number)
                continue
            self.assign(number, classes[number])
            slab = self.slabs[number]
            slab.free = [free for free in slab.free if free not in used]
            slab.held = len(used)
            if not slab.free:
                self._open[slab.data_bytes].discard(number)

    def candidate(self, data_bytes: int) -> list[int]:
        """Slabs of other classes, those with the fewest bytes in use first."""
        others = [number for number, slab in enumerate(self.slabs)
                  if slab.data_bytes not in {0, data_bytes}]
        return sorted(others, key=lambda number: (
            self.slabs[number].held * self.slabs[number].data_bytes))

    def held_bytes(self) -> int:
        """Bytes of all slots in use."""
        return sum(slab.held * slab.slot_bytes for slab in self.slabs)

    def census(self) -> tuple[int, int]:
        """Slots that exist, and those of them that are free: for checks."""
        return (sum(slab.slots for slab in self.slabs),
                sum(len(slab.free) for slab in self.slabs))

    def _take_from(self, number: int) -> int:
        slab = self.slabs[number]
        slab.held += 1
        taken = slab.free.pop()
        if not slab.free:
            self._open[slab.data_bytes].discard(number)
        return taken

    def _make_blank(self, number: int) -> None:
        slab = self.slabs[number]
        slab.data_bytes = slab.slot_bytes = slab.slots = 0
        slab.free = []
        self._blank.append(number)
