"""A volume dies at every labelled I/O point: what it then holds is right, or is not there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luciole.kvcache.volume.checking import check
from luciole.kvcache.volume.volume import PRESENT, STORED, Limits, Volume
from luciole.tests.kvcache.volumes import SPACE, get, key, open_volume, put
from luciole.tests.storage.cuts import Recorder

KIB = 1024
SMALL_SLAB = 128 * KIB
POWER_CUTS = 2  # at each point
Step = tuple[str, Callable[[Volume], object]]


def putting(number: int) -> Callable[[Volume], object]:
    return lambda volume: put(volume, key(number), 30 * KIB)


def script() -> list[Step]:
    """Everything that a volume does to its disk. Three slabs: room runs out, slots are reused."""
    steps: list[Step] = []
    for number in range(4):
        steps.append((f"put {number}", putting(number)))
    steps += [
        ("flush", lambda volume: volume.flush()),
        ("delete", lambda volume: volume.delete(SPACE, [key(1)])),
        ("put again", lambda volume: put(volume, key(1), 70 * KIB)),
        ("put another size", lambda volume: put(volume, key(10), 5 * KIB)),
        ("flush", lambda volume: volume.flush()),
        ("evict", lambda volume: volume.evict(SPACE, 40 * KIB)),
    ]
    # From here on each block takes the slot of another one, in a slab that holds more.
    steps.append(("limit", lambda volume: volume.configure({SPACE: Limits(200 * KIB, 0)})))
    for number in range(20, 30):
        steps.append((f"put {number}", putting(number)))
    return [*steps, ("delete", lambda volume: volume.delete(SPACE, [key(29)])),
            ("close", lambda volume: volume.close())]


class Cuts:
    """Runs the script; at each point the process dies, and the power fails in several ways."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: list[str] = []
        self.step = "open"
        self.stored: set[int] = set()  # visible now, so that a dead process must not lose them
        self.number = 0
        self.recorder = Recorder(path / "volume", self.at_point)
        self.volume: Volume | None = None

    def run(self) -> None:
        self.volume = open_volume(self.path / "volume", calls=self.recorder, slabs=3,
                                  slab=SMALL_SLAB)
        for self.step, call in script():
            call(self.volume)

    def at_point(self, label: str) -> None:
        self.points.append(f"{self.step}: {label}")
        for cut in range(POWER_CUTS + 1):
            self.number += 1
            place = self.path / f"cut-{self.number}"
            chance = random.Random(self.number) if cut else None
            self.recorder.leave(place, chance)
            self.recover(place, power=bool(cut))
            shutil.rmtree(place)

    def recover(self, place: Path, *, power: bool) -> None:
        told = f"cut {self.number} at {self.points[-1]}, power {power}"
        volume = open_volume(place, slabs=3, slab=SMALL_SLAB, boot="second" if power else "first")
        if self.volume is not None and not power:
            for name, entry in self.volume.spaces[SPACE].index.items():
                assert get(volume, name) is not None, f"{told}: lost {entry.length} bytes"
        names = list(volume.spaces[SPACE].index)
        damaged = sum(get(volume, name) is None for name in names)
        # A dead process leaves nothing that is found and cannot be read.
        assert damaged == 0 or power, told
        assert check(volume)[1] == [], told
        for number in range(50, 54):
            assert put(volume, key(number), 30 * KIB) in {STORED, PRESENT}, told
            assert get(volume, key(number)) is not None, told
        volume.close()


@pytest.mark.slow
def test_a_volume_survives_its_death_at_every_point(tmp_path: Path) -> None:
    cuts = Cuts(tmp_path)
    cuts.run()
    labels = {point.split(": ")[1] for point in cuts.points}
    assert labels == {
        "make-directory", "create-file", "write", "sync-file", "sync-directory", "allocate"}
    assert any(point == "put 20: write" for point in cuts.points)
    assert len(cuts.points) > 60


def test_what_was_flushed_survives_a_power_loss(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "volume", lambda label: None)
    volume = open_volume(tmp_path / "volume", calls=recorder)
    for number in range(5):
        put(volume, key(number), 50 * KIB)
    volume.flush()
    put(volume, key(9), 50 * KIB)
    for seed in range(20):
        place = tmp_path / f"cut-{seed}"
        recorder.leave(place, random.Random(seed))
        again = open_volume(place, boot="second")
        assert all(get(again, key(number)) is not None for number in range(5))
        assert list(again.exists(SPACE, [key(9)])) == [get(again, key(9)) is not None]
        again.close()
        shutil.rmtree(place)
    volume.close()
