"""What a disk may hold of an LMDB directory after a power loss, kept page by page.

The kernel writes a page back whenever it likes, so between two syncs each page of the file is on
the disk in any of the versions that it had since the first of them, and the file is as long as it
was at any time since. Nothing else is assumed. The file `checkpoint` is written durably.

`python -m luciole.tests.kv.power PATH` loses the power of a store whose checkpoints pin nothing.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import lmdb

from luciole.kv.embedded import EmbeddedStore
from luciole.kv.lmdb_checkpoints import Checkpoints
from luciole.kv.lmdb_saved import NAME, SLOT_BYTES, Saved
from luciole.runtime import ThreadRuntime, drive

PAGE = 4096
State = dict[bytes, bytes]
ROUNDS = 6
CUTS = 4  # at each of two places of a round


class Disk:
    """The versions of each page of a store's data file since it was synced last."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._images: list[bytes] = []
        self.synced()

    def synced(self) -> None:
        """What the file holds is on the disk, and nothing older is."""
        self._images = [self._data()]

    def look(self) -> None:
        """Something may have been written."""
        self._images.append(self._data())

    def _data(self) -> bytes:
        return (self._store / "data.mdb").read_bytes()

    def cut(self, place: Path, seed: int) -> None:
        """Makes `place` the directory as it is found after a power loss now."""
        chance = random.Random(seed)
        # Now and then all pages are of few moments, or of all but one: LMDB's roots among them.
        images = chance.sample(self._images, chance.randint(1, len(self._images)))
        if chance.random() < 0.5:
            images = [self._images[0], self._images[-1]]
        length = max(len(self._images[0]), len(chance.choice(images)))
        pages = bytearray(length)
        for start in range(0, length, PAGE):
            piece = (
                chance.choice(images)[start : start + PAGE] or self._images[0][start : start + PAGE]
            )
            pages[start : start + len(piece)] = piece
        place.mkdir()
        (place / "data.mdb").write_bytes(pages)
        (place / "lock.mdb").write_bytes(chance.randbytes(8192))
        shutil.copyfile(self._store / NAME, place / NAME)


def tear(file: Path, before: bytes, seed: int) -> None:
    """Leaves of the last change of the file `checkpoint` only a part."""
    after = file.read_bytes()
    slot = 0 if after[:SLOT_BYTES] != before[:SLOT_BYTES] else SLOT_BYTES
    end = slot + random.Random(seed).randrange(0, 190)
    file.write_bytes(before[:slot] + after[slot:end] + before[end:])


def state_of(store: EmbeddedStore) -> State:
    """All records."""
    return dict(drive(store.transaction().get_range(b"", b"\xff")))


def reopened(place: Path, boot_id: str = "next boot") -> EmbeddedStore:
    """The store of a directory on a machine that was started again."""
    return EmbeddedStore(
        place, ThreadRuntime(), durability="process", sync_seconds=3600.0, boot_id=boot_id
    )


def check_sound(store: EmbeddedStore, place: Path) -> None:
    """LMDB's own compacting copy walks every page, and counts those that are free."""
    copy = place / "copy"
    copy.mkdir()
    store._environment.handle.copy(str(copy), compact=True)
    shutil.rmtree(copy)


def change(store: EmbeddedStore, chance: random.Random, state: State) -> None:
    """One transaction that replaces, makes and removes records, some of several pages."""
    transaction = store.transaction()
    for _ in range(chance.randint(1, 12)):
        key = b"key%04d" % chance.randrange(400)
        if chance.random() < 0.25:
            transaction.clear(key)
            state.pop(key, None)
        else:
            value = chance.randbytes(chance.choice((20, 200, 1500, 9000)))
            transaction.set(key, value)
            state[key] = value
    drive(transaction.commit())


def opened(place: Path) -> EmbeddedStore:
    return EmbeddedStore(
        place / "kv", ThreadRuntime(), durability="process", sync_seconds=3600.0, boot_id="boot"
    )


def check_cut(place: Path, disk: Disk, wanted: State, seed: int, before: bytes = b"") -> None:
    """After a power loss now the store has exactly these records, and goes on working."""
    found = place / f"cut{seed}"
    disk.cut(found, seed)
    if before:
        tear(found / NAME, before, seed)
    chance = random.Random(seed)
    for boot in ("second", "third"):
        store = reopened(found, boot)
        assert state_of(store) == wanted
        check_sound(store, found)
        wanted = dict(wanted)
        for _ in range(5):
            change(store, chance, wanted)
        assert state_of(store) == wanted
        check_sound(store, found)
        if boot == "second":
            lose_again(store, found, wanted, seed)
        store.close()
    shutil.rmtree(found)


def lose_again(store: EmbeddedStore, place: Path, state: State, seed: int) -> None:
    """The power goes a second time, on a machine that has flushed and then changed more."""
    drive(store.flush())
    disk, chance, flushed = Disk(place), random.Random(seed), dict(state)
    for _ in range(5):
        change(store, chance, state)
        disk.look()
    disk.cut(place / "again", seed)
    found = reopened(place / "again", "fourth")
    assert state_of(found) == flushed
    found.close()
    shutil.rmtree(place / "again")


def lose_power(place: Path, seed: int) -> None:
    """Rounds of commits and a flush in which others commit; the power goes before and in each."""
    chance = random.Random(seed)
    store = opened(place)
    disk = Disk(place / "kv")
    state: State = {}
    flushed: State = {}
    print("the power goes", flush=True)
    sync = store._checkpoints._sync

    def sync_among_commits() -> None:
        sync()
        disk.synced()
        for _ in range(chance.randint(0, 4)):
            change(store, chance, state)
            disk.look()

    store._checkpoints._sync = sync_among_commits  # type: ignore[method-assign]
    for number in range(ROUNDS):
        for _ in range(chance.randint(1, 25)):
            change(store, chance, state)
            disk.look()
        for cut in range(CUTS):
            check_cut(place, disk, flushed, number * 100 + cut)
        before, was, flushed = (place / "kv" / NAME).read_bytes(), flushed, dict(state)
        drive(store.flush())
        for cut in range(CUTS):
            check_cut(place, disk, flushed, number * 100 + 50 + cut)
        # Torn, the new checkpoint does not count, and the one before is still on the disk.
        check_cut(place, disk, was, number * 100 + 99, before)
    store.close()


def without_pins() -> None:
    """Breaks checkpoints: their pages are not kept."""
    pin_newest = Checkpoints._pin_newest

    def unpinned(self: Checkpoints) -> tuple[lmdb.Transaction[bytes], Saved]:
        pin, saved = pin_newest(self)
        pin.abort()
        return pin, saved

    Checkpoints._pin_newest = unpinned  # type: ignore[method-assign]


if __name__ == "__main__":
    without_pins()
    lose_power(Path(sys.argv[1]), 0)
