"""What is on a volume when it opens: every slot whose header says so.

Layer: shell. A header is written after its block and erased before its slot is used again, so after
the death of the process a header proves its block. After a power loss either may be missing; what
was written behind the last mark is therefore read and compared with its checksums. What was marked
is durable. If its slot was being used again when the power failed, its header may have outlived it:
such a block is found to be damaged when it is read, and is a miss then.
"""

from __future__ import annotations

from typing import NamedTuple

from luciole.checksum import block_checksums
from luciole.kvcache.core.packing import unpack_numbers
from luciole.kvcache.core.slots import Slot, Slots, header_room
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.kvcache.volume.headers import BlockHeader, decode_block

# Headers this far apart are read one by one: the disk is told of a slab's before, to have more than
# one to look for (four times as fast on an SSD). Nearer ones come with the kernel's reading ahead.
FAR_APART = 32 * 1024


class Found(NamedTuple):
    """A block on the disk."""

    header: BlockHeader
    slot: Slot


class Recovered(NamedTuple):
    """What a volume holds."""

    blocks: list[Found]  # by sequence, at most one of each key
    tokens: dict[int, int]  # of slabs that hold one
    sequence: int  # the last that was given to a block


def recover(disk: VolumeDisk, slots: Slots, boot_id: str) -> Recovered:
    """Reads all headers, and tells `slots` what is in use. Raises FsError DISK_FAILED."""
    classes: dict[int, int] = {}
    tokens: dict[int, int] = {}
    newest: dict[tuple[int, bytes], Found] = {}
    sequence = disk.marked
    trusted = None if disk.marked_boot == boot_id and boot_id else disk.marked
    for number in range(len(slots.slabs)):
        known = disk.read_slab(number)
        if known is None:
            continue
        classes[number], tokens[number] = known
        slots.assign(number, known[0])
        for found in _blocks_of(disk, slots, number, tokens[number]):
            header = found.header
            sequence = max(sequence, header.sequence)
            doubtful = trusted is not None and header.sequence > trusted
            if doubtful and not intact(disk, slots, found):
                disk.erase(slots.position(found.slot))
                continue
            name = (header.namespace_id, header.key)
            if name not in newest or newest[name].header.sequence < header.sequence:
                newest[name] = found
    blocks = sorted(newest.values(), key=lambda found: found.header.sequence)
    slots.restore(classes, {found.slot for found in blocks})
    return Recovered(blocks, tokens, sequence)


def intact(disk: VolumeDisk, slots: Slots, found: Found) -> bool:
    """Whether a block's bytes have its checksums."""
    length = found.header.length
    view = memoryview(bytearray(length))
    room = header_room(slots.slabs[found.slot.slab].data_bytes)
    if not disk.read(slots.position(found.slot) + room, [view]):
        return False
    return block_checksums(0, view) == list(unpack_numbers(found.header.checksums))


def _blocks_of(disk: VolumeDisk, slots: Slots, number: int, token: int) -> list[Found]:
    data_bytes = slots.slabs[number].data_bytes
    view = memoryview(bytearray(header_room(data_bytes)))
    found = []
    if data_bytes >= FAR_APART:
        for index in range(slots.slabs[number].slots):
            disk.expect(slots.position(Slot(number, index)), len(view))
    for index in range(slots.slabs[number].slots):
        slot = Slot(number, index)
        if not disk.read(slots.position(slot), [view]):
            break
        header = decode_block(view, token)
        if header is not None and 0 < header.length <= data_bytes:
            found.append(Found(header, slot))
    return found
