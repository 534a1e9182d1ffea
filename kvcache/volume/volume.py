"""A volume: blocks on the disk of one storage node, found by key.

Layer: shell. The index is in memory (some 400 bytes for each block); the disk says what is true of
it (recovery.py). One lock guards index, queues, leases and slots, and is never held over reading or
writing a block.

- *Put*: a slot is taken under the lock; then, without it, the old header is erased, the bytes are
  written, then the header; under the lock again the block becomes visible.
- *Get* pins nothing. What was read is compared with key and checksums; if it differs and the index
  no longer has that very entry, the slot was reused meanwhile: a miss. If the index still has it,
  the disk has changed it: a miss too, counted as damage, and the slot is freed.
- *Evicting* does no I/O. An evicted block whose slot was not used again is found after a restart,
  which is right: a block is immutable. *Deleting* erases its header before its slot is freed.

A block is acknowledged when it is in the kernel's hands: it outlives the process, and the machine
once `flush` has run. Losing it is a miss.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple, cast

from luciole.checksum import block_checksums
from luciole.clock import Clock, Entropy
from luciole.errors import FsError, Kind, require
from luciole.kvcache.core.eviction import USES_MAX, Entry
from luciole.kvcache.core.leases import LEASE_SECONDS_MAX, Leases
from luciole.kvcache.core.packing import pack_numbers
from luciole.kvcache.core.slots import Slot, Slots, class_of, header_room, slot_bytes
from luciole.kvcache.core.space import Space
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.kvcache.volume.headers import BlockHeader, encode_block
from luciole.kvcache.volume.recovery import recover
from luciole.proto import kvcache_pb2

ABSENT, PRESENT = kvcache_pb2.ABSENT, kvcache_pb2.PRESENT
STORED, REFUSED, DAMAGED = kvcache_pb2.STORED, kvcache_pb2.REFUSED, kvcache_pb2.DAMAGED
OTHER_SIZE = kvcache_pb2.OTHER_SIZE
TRIES_IN_QUEUES = 16  # evictions that may free a slot of the right class, before a slab is emptied


class Limits(NamedTuple):
    """What a volume must know of a namespace."""

    limit: int | None
    ttl_ns: int


class _Pending(NamedTuple):
    """A block that is being written."""

    space: Space[Slot]
    entry: Entry[Slot]
    sequence: int
    position: int


class Volume:
    """The blocks of one volume.

    Args:
        disk: opened.
        capacity: bytes that it may take.
        clock: ages by its wall time, leases by its monotonic one.
        entropy: tokens of slabs.
        boot_id: differs at each start of the machine.

    Raises FsError CONFIG_INVALID if the capacity is below one slab, DISK_FAILED.
    """

    def __init__(
        self, disk: VolumeDisk, capacity: int, clock: Clock, entropy: Entropy, boot_id: str = ""
    ) -> None:
        count = capacity // disk.slab_bytes
        require(count > 0, Kind.CONFIG_INVALID, f"kv_capacity_bytes is {capacity}, and a volume "
                f"needs {disk.slab_bytes} at least: raise it, or set it to 0", str(disk.path))
        self.disk = disk
        self.slots = Slots(count, disk.slab_bytes)
        self.leases: Leases[Slot] = Leases()
        self._clock, self._entropy, self._boot_id = clock, entropy, boot_id
        self.guard = threading.Lock()
        self.spaces: dict[int, Space[Slot]] = {}
        self._configured = False
        # Of each slab its slots' entries: as long as its last one that was ever used.
        self._owners: list[list[Entry[Slot] | None]] = [[] for _ in range(count)]
        self._writing: dict[tuple[int, bytes], int] = {}  # -> sequence
        self._leaving = 0  # blocks that have left the index and not yet given up their slots
        disk.cut(count)
        found = recover(disk, self.slots, boot_id)
        self.tokens = found.tokens
        self._sequence = found.sequence
        self.recovered = len(found.blocks)
        for header, slot in found.blocks:
            space = self.spaces.setdefault(header.namespace_id, Space())
            entry = Entry(header.key, header.length, self.slots.slabs[slot.slab].slot_bytes, slot,
                          header.created_ns)
            space.add(entry, known=True)
            self._own(entry)

    @property
    def capacity(self) -> int:
        """Bytes of all slabs."""
        return len(self.slots.slabs) * self.slots.slab_bytes

    def configure(self, limits: dict[int, Limits]) -> None:
        """States which namespaces there are. Blocks of others go. Before it, none is known."""
        with self.guard:
            self._configured = True
            for number, limit in limits.items():
                space = self.spaces.setdefault(number, Space())
                space.limit, space.ttl_ns = limit.limit, limit.ttl_ns
            for number in self.spaces.keys() - limits.keys():
                space = self.spaces.pop(number)
                for entry in list(space.index.values()):
                    space.remove(entry)
                    self._free(entry)

    def space(self, namespace_id: int) -> Space[Slot]:
        """A namespace. Raises FsError NOT_FOUND if this node does not know it (yet)."""
        space = self.spaces.get(namespace_id)
        # What was found on the disk has neither limit nor age before the first `configure`.
        if space is None or not self._configured:
            raise FsError(Kind.NOT_FOUND, "this volume knows no such namespace (yet)",
                          f"kv namespace {namespace_id}")
        return space

    # Finding.

    def exists(self, namespace_id: int, keys: Sequence[bytes], *, touch: bool = False) -> bytes:
        """One status for each key. Needs no lock: a look at the index is atomic."""
        space = self.space(namespace_id)
        if not touch and not space.ttl_ns:
            return bytes(map(space.index.__contains__, keys))
        now = self._clock.wall_ns()
        entries = [space.find(key, now) for key in keys]
        if touch:
            for entry in entries:
                if entry is not None:
                    space.touch(entry)
        return bytes(entry is not None for entry in entries)

    def match(
        self, namespace_id: int, keys: Sequence[bytes], lease_id: int, lease_seconds: float
    ) -> tuple[int, int]:
        """How many blocks are there before the first gap, and their bytes; leases them.

        A match with a lease counts as a use of each block. Raises FsError NO_SPACE when there are
        too many leases.
        """
        space = self.space(namespace_id)
        now_ns, now = self._clock.wall_ns(), self._clock.now()
        with self.guard:
            self.leases.expire(now)
            there = list(map(space.index.get, keys)) if not space.ttl_ns else [
                space.find(key, now_ns) for key in keys]
            found = list(takewhile(_is_there, there)) if None in there else there
            entries = cast("list[Entry[Slot]]", found)
            if lease_seconds > 0 and entries:
                deadline = now + min(lease_seconds, LEASE_SECONDS_MAX)
                require(self.leases.grant(lease_id, entries, deadline), Kind.NO_SPACE,
                        "there are too many leases: end some, or wait")
                for entry in entries:
                    if entry.uses < USES_MAX:
                        entry.uses += 1
        total = sum([entry.length for entry in entries])
        return len(entries), total

    def lease(self, lease_id: int, seconds: float) -> bool:
        """Extends a lease to `seconds` from now, or ends it (0). Returns whether it was there."""
        now = self._clock.now()
        with self.guard:
            self.leases.expire(now)
            if seconds > 0:
                return self.leases.extend(lease_id, now + min(seconds, LEASE_SECONDS_MAX))
            return self.leases.release(lease_id)

    def lookup(self, namespace_id: int, keys: Sequence[bytes]) -> list[Entry[Slot] | None]:
        """The entries of keys that are about to be read: counts hits and misses."""
        space = self.space(namespace_id)
        now = self._clock.wall_ns()
        found = [space.find(key, now) for key in keys]
        for entry in found:
            if entry is None:
                space.counts.misses += 1
            else:
                space.counts.hits += 1
                space.counts.bytes_read += entry.length
                space.touch(entry)
        return found

    def describe(self, namespace_id: int, keys: Sequence[bytes]) -> list[Entry[Slot] | None]:
        """The entries of keys. It is no use of them, and not counted."""
        space = self.space(namespace_id)
        now = self._clock.wall_ns()
        return [space.find(key, now) for key in keys]

    def page(
        self, namespace_id: int, prefix: bytes, after: bytes, limit: int
    ) -> tuple[list[Entry[Slot]], bool]:
        """Blocks whose keys begin with `prefix` and are greater than `after`, in order of the keys.

        Returns `limit` of them at most, and whether there are more. Each page looks at all blocks
        of the namespace (0.1 s for a million): an order that is kept would cost every put memory.
        """
        space = self.space(namespace_id)
        now = self._clock.wall_ns()
        # The copy is atomic, so that the lock need not be held for all of it.
        wanted = [entry for entry in list(space.index.values())
                  if entry.key.startswith(prefix) and entry.key > after
                  and not space.is_expired(entry, now)]
        first = nsmallest(limit + 1, wanted, key=attrgetter("key"))
        return first[:limit], len(first) > limit

    # Storing.

    def put(
        self, namespace_id: int, key: bytes, data: memoryview, checksums: Sequence[int]
    ) -> int:
        """Stores a block unless it is there. Returns its status. Raises FsError DISK_FAILED.

        Args:
            namespace_id: whose it is.
            key: names it.
            data: its bytes, at least one.
            checksums: CRC32C of each 64 KiB; other bytes are DAMAGED, and not stored.
        """
        space = self.space(namespace_id)
        if not 0 < len(data) <= self.slots.length_max:
            space.counts.refused += 1
            return REFUSED
        if block_checksums(0, data) != list(checksums):
            return DAMAGED
        begun = self._begin(namespace_id, space, key, len(data))
        if not isinstance(begun, _Pending):
            return begun
        stored = False
        try:
            self._write(namespace_id, begun, data, checksums)
            stored = True
        except FsError as failure:
            if failure.kind != Kind.NO_SPACE:
                raise
        finally:
            self._end(namespace_id, begun, stored=stored)
        return STORED if stored else REFUSED

    def _begin(
        self, namespace_id: int, space: Space[Slot], key: bytes, length: int
    ) -> _Pending | int:
        """Takes a slot for a block; or the status of one that is there, or for which is no room."""
        now_ns = self._clock.wall_ns()
        with self.guard:
            self.leases.expire(self._clock.now())
            entry = space.index.get(key)
            if entry is not None and not space.is_expired(entry, now_ns):
                space.touch(entry)
                return PRESENT
            if (namespace_id, key) in self._writing:
                return PRESENT
            if entry is not None:
                space.remove(entry)
                self._free(entry)
            data_bytes = class_of(length)
            try:
                slot = self._room(space, data_bytes)
            except FsError as failure:
                if failure.kind != Kind.NO_SPACE:
                    raise
                slot = None
            if slot is None:
                space.counts.refused += 1
                return REFUSED
            self._sequence += 1
            self._writing[namespace_id, key] = self._sequence
            entry = Entry(key, length, self.slots.slabs[slot.slab].slot_bytes, slot, now_ns)
            space.reserved += entry.size
            return _Pending(space, entry, self._sequence, self.slots.position(slot))

    def _write(
        self, namespace_id: int, begun: _Pending, data: memoryview, checksums: Sequence[int]
    ) -> None:
        entry = begun.entry
        header = encode_block(BlockHeader(
            self.tokens[entry.place.slab], begun.sequence, entry.created_ns, namespace_id,
            entry.length, entry.key, pack_numbers(checksums)))
        room = header_room(self.slots.slabs[entry.place.slab].data_bytes)
        self.disk.erase(begun.position)
        self.disk.write(begun.position + room, [data])
        self.disk.write(begun.position, [memoryview(header)])

    def _end(self, namespace_id: int, begun: _Pending, *, stored: bool) -> None:
        space, entry = begun.space, begun.entry
        with self.guard:
            del self._writing[namespace_id, entry.key]
            space.reserved -= entry.size
            if not stored or self.spaces.get(namespace_id) is not space:
                self.slots.give_back(entry.place)
                return
            space.add(entry)
            self._own(entry)
            space.counts.puts += 1
            space.counts.bytes_written += entry.length

    def _room(self, space: Space[Slot], data_bytes: int) -> Slot | None:
        """A slot for a block of `space`, which keeps its limit. Under the lock."""
        fits, gone = space.room_for(slot_bytes(data_bytes))
        for entry in gone:
            self._free(entry)
        if not fits:
            return None
        slot = self._take(data_bytes)
        for _ in range(TRIES_IN_QUEUES):
            if slot is not None:
                return slot
            # Who has most gives first, so that a namespace without a quota starves nobody.
            victim = max(self.spaces.values(), key=lambda other: other.used)
            evicted = victim.evict()
            if evicted is None:
                break
            self._free(evicted)
            slot = self._take(data_bytes)
        return slot or self._empty_a_slab(data_bytes)

    def _take(self, data_bytes: int) -> Slot | None:
        taken = self.slots.take(data_bytes)
        if taken is None:
            return None
        slot, is_first = taken
        if is_first:
            token = int.from_bytes(self._entropy.token(8), "little")
            try:
                self.disk.begin_slab(slot.slab, data_bytes, token)
            except BaseException:
                self.slots.give_back(slot)
                raise
            self.tokens[slot.slab] = token
        return slot

    def _empty_a_slab(self, data_bytes: int) -> Slot | None:
        """Makes a slab of another class blank: the one with least in it and nothing leased."""
        for number in self.slots.candidate(data_bytes):
            entries = [entry for entry in self._owners[number] if entry is not None]
            # Those that are being written or removed have slots too, and no space.
            owners = [(space, entry) for entry in entries for space in self.spaces.values()
                      if space.holds(entry)]
            if self.slots.slabs[number].held != len(owners) or any(
                    entry.leases for entry in entries):
                continue
            for space, entry in owners:
                space.remove(entry)
                space.counts.evicted += 1
                self._free(entry)
            return self._take(data_bytes)
        return None

    def _own(self, entry: Entry[Slot]) -> None:
        owners = self._owners[entry.place.slab]
        owners.extend([None] * (entry.place.number + 1 - len(owners)))
        owners[entry.place.number] = entry

    def _free(self, entry: Entry[Slot]) -> None:
        owners = self._owners[entry.place.slab]
        owners[entry.place.number] = None
        self.slots.give_back(entry.place)
        if not self.slots.slabs[entry.place.slab].held:
            owners.clear()

    def in_hand(self) -> int:
        """Slots of blocks that are being written or removed. Under the lock."""
        return len(self._writing) + self._leaving

    # Removing.

    def delete(self, namespace_id: int, keys: Sequence[bytes]) -> bytes:
        """Removes blocks, leased or not, for good. PRESENT: it was there."""
        space = self.space(namespace_id)
        statuses = bytearray(len(keys))
        for index, key in enumerate(keys):
            with self.guard:
                entry = space.index.get(key)
                if entry is not None:
                    space.remove(entry)
                    self._leaving += 1
            if entry is not None:
                self._retire(entry)
                statuses[index] = PRESENT
        return bytes(statuses)

    def _retire(self, entry: Entry[Slot]) -> None:
        """Erases the header of an entry that has left its space, then frees its slot."""
        try:
            self.disk.erase(self.slots.position(entry.place))
        finally:
            with self.guard:
                self._leaving -= 1
                self._free(entry)

    def damaged(self, namespace_id: int, entry: Entry[Slot]) -> bool:
        """A block did not read back. Returns whether it is damaged, and gone; else it was evicted
        while it was read."""
        space = self.space(namespace_id)
        with self.guard:
            if not space.holds(entry):
                return False
            space.remove(entry)
            space.counts.damaged += 1
            self._leaving += 1
        self._retire(entry)
        return True

    def evict(self, namespace_id: int, keep: int) -> tuple[int, int]:
        """Evicts down to `keep` bytes. Returns blocks and bytes that went."""
        space = self.space(namespace_id)
        blocks = total = 0
        while True:
            with self.guard:
                gone = space.shrink(keep)
                for entry in gone:
                    self._free(entry)
            blocks += len(gone)
            total += sum(entry.size for entry in gone)
            if not gone:
                return blocks, total

    def sweep(self) -> None:
        """Ends leases that are due, removes what is too old, shrinks what is over its limit."""
        with self.guard:
            self.leases.expire(self._clock.now())
            spaces = list(self.spaces.items())
        for number, space in spaces:
            self._remove_expired(space)
            if space.limit is not None and space.used > space.limit:
                self.evict(number, space.limit)

    def _remove_expired(self, space: Space[Slot]) -> None:
        now = self._clock.wall_ns()
        for entry in space.expired(now):
            with self.guard:
                if space.holds(entry) and space.is_expired(entry, now):
                    space.remove(entry)
                    space.counts.expired += 1
                    self._free(entry)

    def flush(self) -> None:
        """Makes what is stored durable against power loss. Raises FsError DISK_FAILED."""
        with self.guard:
            begun: Iterable[int] = self._writing.values()
            sequence = min(begun, default=self._sequence + 1) - 1
        self.disk.flush(sequence, self._boot_id)

    def close(self) -> None:
        """Flushes and gives up the files."""
        try:
            self.flush()
        finally:
            self.disk.close()


def _is_there(entry: Entry[Slot] | None) -> bool:
    return entry is not None
