"""The power is cut at every I/O point of a target, and nothing that must survive is lost."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import luciole.storage.engine as engine_package
from luciole.errors import FsError
from luciole.runtime import drive
from luciole.storage.engine import file as engine_file
from luciole.storage.engine.blocks import BlockFiles
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.engine import BlockEngine, Durability
from luciole.storage.engine.file import FileEngine
from luciole.storage.engine.interface import Tag, Update
from luciole.storage.engine.ports import Batch
from luciole.storage.engine.records import chunk_key, decode_record
from luciole.tests.conformance.engine_model import (
    KIB,
    Driver,
    Model,
    chunk_name,
    pattern,
    remove,
    replace,
    truncate,
    write,
)
from luciole.tests.storage.cuts import FileImage, Recorder

# Two minutes on one core: `make test` runs them, `make check` does not.
pytestmark = pytest.mark.slow

A, B, C, D, E = (chunk_name(number) for number in range(1, 6))
CHUNKS = [A, B, C, D, E]
CLIENT = b"c" * 16
LONGEST = 300 * KIB
State = tuple[object, ...] | None


@dataclass(frozen=True)
class Step:
    """One call of the engine, and what it does to the model."""

    name: str
    call: Callable[[Driver], object]
    change: Callable[[Model], object]
    flushes: bool = False


def staging(name: str, chunk: bytes, version: int, update: Update, data: bytes = b"") -> list[Step]:
    """The two steps of an update."""
    return [
        Step(name, lambda driver: driver.stage(chunk, version, update, data),
             lambda model: model.stage(chunk, version, update, data)),
        Step("commit", lambda driver: driver.commit(chunk, version),
             lambda model: model.commit(chunk))]


def tag(sequence: int) -> Tag:
    return Tag(CLIENT, 1, sequence)


def nothing(model: Model) -> None:
    """The content stays."""


FLUSH = Step("flush", lambda driver: driver.sync(), nothing, flushes=True)
IDLE = Step("release idle", lambda driver: drive(driver.engine.release_idle()), nothing)


def script() -> list[Step]:
    """A life of a few chunks that does everything that an engine does to a disk."""
    a, b, small = pattern(1, 150 * KIB), pattern(2, 100 * KIB), pattern(3, 700)
    other = pattern(4, 120 * KIB)
    repaired = pattern(6, 80 * KIB)
    return [
        *staging("create", A, 1, write(0, a), a),
        *staging("append", A, 2, write(len(a), small), small),
        FLUSH,
        *staging("small overwrite", A, 3, write(70_000, small), small),
        *staging("create", B, 4, write(0, b, tag=tag(1)), b),
        *staging("full overwrite", B, 5, replace(other, tag=tag(2)), other),
        *staging("small overwrite", A, 6, write(500, small), small),
        *staging("truncate to a smaller class", A, 7, truncate(100 * KIB)),
        *staging("truncate within a class", B, 8, truncate(110 * KIB)),
        FLUSH,
        *staging("append to a larger class", B, 9, write(110 * KIB, a), a),
        staging("create", C, 10, write(0, small), small)[0],
        Step("abandon", lambda driver: driver.abandon(C), lambda model: model.abandon(C)),
        *staging("lengthen", A, 11, truncate(110 * KIB)),
        *staging("remove", B, 12, remove(tag=tag(3))),
        FLUSH,
        FLUSH,
        *staging("create", C, 13, write(0, repaired), repaired),
        Step("repair", lambda driver: drive(driver.engine.repair(C, 13, memoryview(repaired))),
             nothing),
        Step("remove range", lambda driver: drive(driver.engine.remove_range(A, B, 10)),
             lambda model: model.remove_range(A, B)),
        FLUSH,
        FLUSH,
        IDLE,
        IDLE,
        *staging("create", D, 14, write(0, other), other),
        Step("close", lambda driver: driver.engine.close(), nothing, flushes=True),
    ]


def state_of(model: Model, chunk: bytes) -> State:
    expected = model.chunks.get(chunk)
    return None if expected is None else (expected.committed, expected.pending)


def found_state(driver: Driver, chunk: bytes) -> State:
    state = driver.state(chunk)
    if state is None:
        return None
    committed = pending = None
    if state.committed is not None:
        committed = (state.committed.number, driver.read(chunk, 0, LONGEST))
    if state.pending is not None:
        content = None if state.pending.removed else driver.read(chunk, 0, LONGEST, pending=True)
        pending = (state.pending.number, content)
    return committed, pending


@dataclass
class Promise:
    """What each chunk may be found to be: in order, from what is certain to what was begun."""

    states: dict[bytes, list[State]] = field(
        default_factory=lambda: {chunk: [None] for chunk in CHUNKS})
    created: bool = False

    def add(self, model: Model) -> None:
        """A call began whose effect is `model`."""
        for chunk in CHUNKS:
            self.states[chunk].append(state_of(model, chunk))

    def forget(self) -> None:
        """Only the last is left: what came before is overwritten, durably."""
        for states in self.states.values():
            del states[:-1]


class CutTest:
    """One script, with a cut at each of its points."""

    def __init__(
        self, path: Path, durability: Durability, *, cuts: int = 1, again: int = 0,
        direct_from: int = 0,
    ) -> None:
        self.path = path
        self.durability: Durability = durability
        self.cuts = cuts  # of the power, at each point
        self.again = again  # each so many cuts, cut it at each point of the recovery as well
        self.step = "open"
        self.points: list[tuple[str, str]] = []
        self.after_power = Promise()
        self.after_kill = Promise()
        self.recorder = Recorder(path / "target", self.at_point, direct_from)
        self.number = 0

    def run(self) -> None:
        """The whole script; every point is visited on the way."""
        engine = self.open(self.recorder)
        self.after_power.created = self.after_kill.created = True
        driver, model = Driver(engine), Model()
        for step in script():
            self.step = step.name
            step.change(model)
            self.after_power.add(model)
            self.after_kill.add(model)
            step.call(driver)
            self.after_kill.forget()
            if step.flushes or self.durability == "power":
                self.after_power.forget()
            if step.name != "close":
                self.cut_here("end")

    def open(self, recorder: Recorder, boot: str = "first") -> FileEngine:
        return FileEngine.open(
            recorder.root, cluster_id="cluster-a", target_id=7, create=True,
            durability=self.durability, reserve=0, boot_id=boot, calls=recorder,
            open_store=recorder.open_store)

    def at_point(self, label: str) -> None:
        self.points.append((self.step, label))
        self.cut_here(label)

    def cut_here(self, label: str) -> None:
        """The process dies here, and the power is cut here in several ways."""
        for cut in range(self.cuts + 1):
            self.number += 1
            chance = random.Random(f"{self.durability} {self.number}") if cut else None
            place = self.path / f"cut-{self.number}"
            images = self.recorder.leave(place, chance)
            promise = self.after_power if cut else self.after_kill
            told = f"{self.durability}, cut {self.number} before {label} of {self.step}"
            again = cut > 0 and self.again > 0 and self.number % self.again == 0
            self.recover(place, images, promise, told, again=again)
            shutil.rmtree(place)

    def recover(
        self, place: Path, images: dict[Path, FileImage], promise: Promise, told: str, *,
        again: bool,
    ) -> None:
        """Opens what is left and compares; or, `again`, cuts the power during that as well."""
        cut_power = promise is self.after_power
        recovering = True

        def at_point(label: str) -> None:
            if again and recovering:
                self.number += 1
                second = self.path / f"cut-{self.number}"
                left = recorder.leave(second, random.Random(f"{told} {self.number}"))
                self.recover(second, left, promise, f"{told}, and before {label}", again=False)
                shutil.rmtree(second)

        recorder = Recorder(place, at_point, self.recorder.direct_from)
        recorder.begin_from(images)
        try:
            engine = self.open(recorder, "second" if cut_power else "first")
            recovering = False
            check(engine, promise, told)
        except FsError as failure:
            raise AssertionError(f"{told}: {failure}") from failure
        if promise.created and self.step != "close":  # which may have said that all is well
            assert engine.doubtful == (cut_power and self.durability == "process"), told
        goes_on(engine, told)
        engine.close()


def check(engine: FileEngine, promise: Promise, told: str) -> None:
    """Every chunk is what was promised, records and allocator agree, tags tell the truth."""
    driver = Driver(engine)
    for chunk in CHUNKS:
        found = found_state(driver, chunk)
        assert found in promise.states[chunk], f"{told}: chunk {chunk[-1]}"
    check_no_leak(engine, told)
    applied = drive(engine.applied(CLIENT, 1))
    versions = [number_of(state) for state in promise.states[B]]
    known = applied.version if applied else 0
    found_number = number_of(found_state(driver, B))
    # B's tags are 4, 5 and 12; truncate and append carry none.
    expected = {0: {0, 12}, 4: {4}, 5: {5}, 8: {5}, 9: {5}}[found_number]
    assert known in expected, f"{told}: version {found_number} of B, the tag tells of {known}"
    if known == 0:
        assert 0 in versions, told


def number_of(state: State) -> int:
    """The committed version's number, 0 without one."""
    if state is None or state[0] is None:
        return 0
    assert isinstance(state[0], tuple)
    return int(state[0][0])


def check_no_leak(engine: FileEngine, told: str) -> None:
    """Blocks that are neither free nor held by a record do not exist, and none is held twice."""
    states, _ = drive(engine.list(b"", None, 1000))
    held = [
        block for state in states
        for block in decode_record(engine._store.get(chunk_key(state.chunk_id)) or b"").blocks()]
    ever, free = engine._allocator.census()
    assert len(held) == len(set(held)) == ever - free, told


def goes_on(engine: FileEngine, told: str) -> None:
    """Whatever is written now takes no block that something still needs."""
    driver = Driver(engine)
    before = {chunk: found_state(driver, chunk) for chunk in CHUNKS[:4]}
    for version, size in enumerate((60 * KIB, 100 * KIB, 200 * KIB), 50):
        data = pattern(version, size)
        driver.put(E, version, replace(data), data)
    for chunk, state in before.items():
        assert found_state(driver, chunk) == state, told


def visited(points: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Per step, its points in order; each way that a step of this name went, once."""
    found: dict[str, list[str]] = {}
    for step, run in itertools.groupby(points, key=lambda point: point[0]):
        way = " ".join(label for _, label in run)
        if way not in found.setdefault(step, []):
            found[step].append(way)
    return found


# What each call does to the disk, durability "process". A flush that finds nothing written syncs
# no file; two flushes in the script stand side by side.
BATCH, FLUSHED = "write-records", "sync-records write-records"
NEW_FILE = "create-file sync-directory allocate"
OPEN = ("make-directory write-records sync-records make-directory sync-directory sync-directory "
        "write-records sync-records")
POINTS = {
    "open": [OPEN],
    "create": [f"{NEW_FILE} write {BATCH}", f"write {BATCH}", f"allocate write {BATCH}"],
    "commit": [BATCH],
    "append": [f"write {BATCH}"],
    "flush": [f"sync-file {FLUSHED}", f"sync-file sync-file {FLUSHED}",
              f"sync-file sync-file sync-file {FLUSHED} {FLUSHED}",
              f"sync-file {FLUSHED} {FLUSHED}"],
    "small overwrite": [f"{NEW_FILE} write {BATCH}", f"write {BATCH}"],
    "full overwrite": [f"write {BATCH}"],
    "truncate to a smaller class": [f"copy copy {BATCH}"],
    "truncate within a class": [BATCH],
    "append to a larger class": [f"{NEW_FILE} copy write {BATCH}"],
    "abandon": [BATCH],
    "lengthen": [f"write {BATCH}"],
    "remove": [BATCH],
    "repair": [f"write {BATCH}"],
    "remove range": [BATCH],
    "release idle": ["punch punch punch punch"],
    "close": [f"sync-file {FLUSHED} write-records sync-records"],
}
# With durability "power" each of these ends with a flush: of a file, too, if bytes were written.
WRITES = {"create", "append", "small overwrite", "full overwrite", "truncate to a smaller class",
          "append to a larger class", "lengthen", "repair"}
NO_FILE = {"commit", "truncate within a class", "abandon", "remove", "remove range"}


def points_of(durability: Durability) -> dict[str, list[str]]:
    if durability == "process":
        return POINTS
    found = dict(POINTS, flush=[FLUSHED, f"{FLUSHED} {FLUSHED}"],
                 close=[f"{FLUSHED} write-records sync-records"])
    for step in WRITES:
        found[step] = [f"{way} sync-file {FLUSHED}" for way in POINTS[step]]
    for step in NO_FILE:
        found[step] = [f"{way} {FLUSHED}" for way in POINTS[step]]
    return found


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_cut_at_every_point_loses_nothing_promised(
    tmp_path: Path, durability: Durability
) -> None:
    test = CutTest(tmp_path, durability)
    test.run()
    assert visited(test.points) == points_of(durability)
    assert len(test.points) == {"power": 159, "process": 94}[durability]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_cut_at_every_point_of_direct_writes(tmp_path: Path, durability: Durability) -> None:
    test = CutTest(tmp_path, durability, direct_from=1)
    test.run()
    assert test.recorder.directly > 0


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
def test_the_power_fails_again_while_a_target_recovers(
    tmp_path: Path, durability: Durability
) -> None:
    CutTest(tmp_path, durability, again=6).run()


def test_nothing_but_the_port_writes() -> None:
    """A call past it would be a point that no cut visits."""
    folder = Path(engine_package.__file__).parent
    # The lock has no content; what RocksDB writes goes through the two points of the store.
    allowed = {"calls.py": {"open", "fsync", "preadv", "pread", "pwritev", "pwrite", "fdatasync",
                            "posix_fallocate", "copy_file_range", "close", "fstat", "ftruncate",
                            "posix_fadvise"},
               "blocks.py": {"statvfs", "close"}, "directory.py": {"open", "close"},
               "file.py": {"close"}}
    for path in sorted(folder.glob("*.py")):
        used = set(re.findall(r"\bos\.([a-z_]+)\(", path.read_text()))
        assert used <= allowed.get(path.name, set()), path.name


def no_undo(self: BlockEngine, batch: Batch, chunk_id: bytes, old_value: bytes) -> None:
    """No undo record is kept."""


def no_flush(self: BlockFiles, *, everything: bool = False) -> None:
    """Bytes are not made durable."""


def no_entries(path: Path, calls: FileCalls) -> None:
    """The folders of a new target are not synced."""


@pytest.mark.parametrize(("owner", "name", "broken"), [
    (BlockEngine, "_keep_undo", no_undo),
    (BlockFiles, "flush", no_flush),
    (engine_file, "keep_entries", no_entries),
])
def test_a_broken_rule_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str,
    broken: Callable[..., None],
) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match="cut"):
        CutTest(tmp_path, "process", cuts=3).run()
