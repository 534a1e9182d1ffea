"""A process that changes chunks and says so, to be killed; and the judge of what it left.

Each step is announced before it begins ("begin ...") and after it returned ("end ..."), one line
each on standard output. Content follows from the numbers in the line, so that no bytes travel.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from luciole.storage.engine.file import FileEngine
from luciole.storage.engine.interface import Update
from luciole.tests.conformance.engine_model import (
    MIB,
    REMOVE,
    REPLACE,
    TRUNCATE,
    WRITE,
    Driver,
    Model,
    check_chunk,
    chunk_name,
    pattern,
    remove,
    replace,
    truncate,
    write,
)

CHUNKS = 4


def build(kind: int, offset: int, length: int, seed: int) -> tuple[Update, bytes]:
    """The update that a line's numbers mean."""
    if kind == REMOVE:
        return remove(), b""
    if kind == TRUNCATE:
        return truncate(length), b""
    data = pattern(seed, length)
    return (replace(data) if kind == REPLACE else write(offset, data)), data


class History:
    """The model, moved by the child's lines; a step begun and not ended may or may not count."""

    def __init__(self) -> None:
        self.model = Model()
        self.steps = 0
        self._begun: list[str] = []

    def take(self, line: str) -> None:
        """One line of the child."""
        word, *words = line.split()
        if word == "begin":
            self._begun = words
        else:
            assert words == self._begun
            self._apply(words)
            self._begun = []
            self.steps += 1

    def settle(self, driver: Driver) -> None:
        """Compares the reopened engine with the model; learns whether the last step took place."""
        chunks = [chunk_name(number) for number in range(CHUNKS)]
        if self._begun:
            before = [self.model.chunks.get(chunk) for chunk in chunks]
            chunk = chunk_name(int(self._begun[1]))
            try:
                check_chunk(driver, chunk, before[int(self._begun[1])])
            except AssertionError:
                self._apply(self._begun)
            self._begun = []
        self.model.check(driver, chunks)

    def _apply(self, words: list[str]) -> None:
        action, *numbers = words
        which, version, kind, offset, length, seed = map(int, numbers)
        chunk = chunk_name(which)
        if action == "stage":
            self.model.stage(chunk, version, *build(kind, offset, length, seed))
        elif action == "commit":
            self.model.commit(chunk)
        else:
            self.model.abandon(chunk)


def main(path: str, durability: str, seed: int) -> None:
    """Works until it is killed."""
    numbers = random.Random(seed)
    engine = FileEngine.open(
        Path(path),
        cluster_id="cluster-a",
        target_id=7,
        durability="power" if durability == "power" else "process",
        reserve=0,
    )
    driver = Driver(engine)
    for step in range(100_000):
        which = numbers.randrange(CHUNKS)
        chunk = chunk_name(which)
        state = driver.state(chunk)
        pending = state.pending if state else None
        committed = state.committed.length if state and state.committed else 0
        version = (seed + 1) * 1_000_000 + step
        kind = numbers.choice([WRITE, WRITE, WRITE, TRUNCATE, REPLACE, REMOVE])
        offset = numbers.choice([committed, numbers.randrange(300_000)])
        length = numbers.randrange(1, numbers.choice([5_000, 200_000]))
        offset = min(offset, MIB - length)
        if pending is not None and numbers.random() < 0.8:
            action = numbers.choice(["commit", "commit", "commit", "abandon"])
            version = pending.number
        else:
            action = "stage"
        line = f"{action} {which} {version} {kind} {offset} {length} {version}"
        print("begin", line, flush=True)
        if action == "stage":
            driver.stage(chunk, version, *build(kind, offset, length, version))
        elif action == "commit":
            driver.commit(chunk, version)
        else:
            driver.abandon(chunk)
        print("end", line, flush=True)
        if numbers.random() < 0.05:
            driver.sync()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
