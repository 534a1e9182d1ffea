"""One application process of the workload: `python -m luciole.tests.chaos.worker ...`.

A *writer* replaces whole files (write, fsync, rename) and overwrites blocks in place (fsync); a
*reader* opens files of all writers and checks every block. Each system call is timed. A thread
writes the record of it all twice a second, with the call that is under way, so that a process
that hangs can be seen from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from luciole.tests.chaos.content import BLOCK, Journal, Known, block, generation_of

FILES = 10  # of each writer
BLOCKS_MAX = 40
SLOWEST_KEPT = 20
PAUSE_S = 0.02
T = TypeVar("T")


class Record:
    """What happened, as JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._begun: tuple[str, float] | None = None
        self.counts: dict[str, int] = {}
        self.slowest: list[tuple[float, float, str]] = []  # seconds, when, what
        self.errors: list[str] = []
        self.mismatches: list[str] = []
        threading.Thread(target=self._save_often, daemon=True).start()

    def timed(self, name: str, call: Callable[[], T]) -> T:
        """Makes a system call and remembers how long it took."""
        began = time.monotonic()
        self._begun = (name, began)
        try:
            return call()
        except OSError as failure:
            with self._guard:
                self.errors.append(f"{name} at {began:.2f}: {failure}")
            raise
        finally:
            took = time.monotonic() - began
            with self._guard:
                self._begun = None
                self.counts[name] = self.counts.get(name, 0) + 1
                self.slowest.append((took, began, name))
                if len(self.slowest) > 2 * SLOWEST_KEPT:
                    self.slowest = sorted(self.slowest, reverse=True)[:SLOWEST_KEPT]

    def save(self) -> None:
        """Writes the file whole."""
        begun = self._begun
        with self._guard:
            content = {
                "counts": self.counts, "errors": self.errors[:50],
                "mismatches": self.mismatches[:50],
                "slowest": sorted(self.slowest, reverse=True)[:SLOWEST_KEPT],
                "under_way": [begun[0], time.monotonic() - begun[1]] if begun else None}
            scratch = self._path.with_suffix(".new")
            scratch.write_text(json.dumps(content))
            scratch.replace(self._path)

    def _save_often(self) -> None:
        while True:
            self.save()
            time.sleep(0.5)


def file_number(writer: int, slot: int) -> int:
    """Names a file of a writer in its blocks."""
    return writer * 1000 + slot


class Writer:
    """Writes the files of one directory."""

    def __init__(
        self, number: int, root: Path, journal: Journal, record: Record, seed: int
    ) -> None:
        self._number = number
        self._root = root / f"writer-{number}"
        self._journal = journal
        self._record = record
        self._random = random.Random(seed)
        self._generation = 0
        self._files: dict[int, list[int]] = {}
        record.timed("mkdir", lambda: self._root.mkdir(exist_ok=True))

    def step(self) -> None:
        """One change of one file."""
        slot = self._random.randrange(FILES)
        self._generation += 1
        if slot in self._files and self._random.random() < 0.5:
            self._overwrite(slot)
        else:
            self._replace(slot)

    def _replace(self, slot: int) -> None:
        timed, number = self._record.timed, file_number(self._number, slot)
        generations = [self._generation] * self._random.randint(1, BLOCKS_MAX)
        content = b"".join(
            block(number, index, generation) for index, generation in enumerate(generations))
        scratch, path = self._root / f"new-{slot}", self._root / f"file-{slot}"
        self._journal.note(time.monotonic(), "begin", number, generations)
        descriptor = timed("create", lambda: os.open(
            scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
        try:
            # In pieces, as applications do; a piece may cross a chunk's border.
            for begin in range(0, len(content), 5 * BLOCK):
                piece = content[begin : begin + 5 * BLOCK]
                written = timed("write", partial(os.write, descriptor, piece))
                assert written == len(piece)
            timed("fsync", lambda: os.fsync(descriptor))
        finally:
            timed("close", lambda: os.close(descriptor))
        timed("rename", lambda: scratch.replace(path))
        self._files[slot] = generations
        self._journal.note(time.monotonic(), "end", number, generations)

    def _overwrite(self, slot: int) -> None:
        timed, number = self._record.timed, file_number(self._number, slot)
        generations = list(self._files[slot])
        index = self._random.randrange(len(generations))
        generations[index] = self._generation
        self._journal.note(time.monotonic(), "begin", number, generations)
        descriptor = timed("open", lambda: os.open(self._root / f"file-{slot}", os.O_RDWR))
        try:
            timed("write", lambda: os.pwrite(
                descriptor, block(number, index, self._generation), index * BLOCK))
            timed("fsync", lambda: os.fsync(descriptor))
        finally:
            timed("close", lambda: os.close(descriptor))
        self._files[slot] = generations
        self._journal.note(time.monotonic(), "end", number, generations)


class Reader:
    """Checks the files of all writers."""

    def __init__(self, root: Path, journals: list[Journal], record: Record, seed: int) -> None:
        self._root = root
        self._journals = journals
        self._record = record
        self._random = random.Random(seed)

    def step(self) -> None:
        """Checks one file."""
        opened_at = time.monotonic()
        candidates = [
            (writer, number) for writer, journal in enumerate(self._journals)
            for number in journal.known(opened_at)]
        if candidates:
            self.check(*self._random.choice(candidates), opened_at)

    def check_everything(self) -> None:
        """Checks all files, when nobody writes any more."""
        opened_at = time.monotonic()
        for writer, journal in enumerate(self._journals):
            for number in journal.known(opened_at):
                self.check(writer, number, opened_at)

    def check(self, writer: int, number: int, opened_at: float) -> None:
        """Reads a file and compares; what is being written may be newer, or torn."""
        path = self._root / f"writer-{writer}" / f"file-{number % 1000}"
        content = self._content(path)
        known = self._journals[writer].known(opened_at)[number]
        if known.busy:
            self._check_newer(path, number, content)
            return
        problem = differences(content, number, known)
        if problem:
            self._record.mismatches.append(f"{path} opened at {opened_at:.2f}: {problem}")

    def _check_newer(self, path: Path, number: int, content: bytes) -> None:
        """Of a file that changes under the reader, at most one block may be between two states."""
        broken = [index for index in range(len(content) // BLOCK)
                  if generation_of(content[index * BLOCK : (index + 1) * BLOCK],
                                   number, index) is None]
        if len(broken) > 1 or len(content) % BLOCK:
            self._record.mismatches.append(
                f"{path}: blocks {broken} of {len(content)} bytes are of no generation")

    def _content(self, path: Path) -> bytes:
        timed = self._record.timed
        descriptor = timed("open", lambda: os.open(path, os.O_RDONLY))
        try:
            # What this kernel still remembers would not test the cluster.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            pieces: list[bytes] = []
            while True:
                piece = timed("read", lambda: os.read(descriptor, 8 * BLOCK))
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
        finally:
            timed("close", lambda: os.close(descriptor))


def differences(content: bytes, number: int, known: Known) -> str:
    """Why a file that nobody changes is wrong, or ""."""
    if len(content) != len(known.generations) * BLOCK:
        return f"{len(content)} bytes instead of {len(known.generations) * BLOCK}"
    for index, expected in enumerate(known.generations):
        found = generation_of(content[index * BLOCK : (index + 1) * BLOCK], number, index)
        if found != expected:
            return f"block {index} is of generation {found} instead of {expected}"
    return ""


def main() -> None:
    """Works until SIGTERM; `check` reads everything once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("write", "read", "check"))
    parser.add_argument("root", type=Path, help="mount point")
    parser.add_argument("journals", type=Path, help="directory of the journals")
    parser.add_argument("record", type=Path)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    record = Record(args.record)
    journals = [Journal(args.journals / f"{number}.journal") for number in range(args.writers)]
    if args.role == "check":
        Reader(args.root, journals, record, args.seed).check_everything()
        record.save()
        sys.exit(0)
    worker = Writer(args.number, args.root, journals[args.number], record, args.seed) \
        if args.role == "write" else Reader(args.root, journals, record, args.seed)
    while not stop.is_set():
        with contextlib.suppress(OSError):  # recorded
            worker.step()
        stop.wait(PAUSE_S)
    record.save()


if __name__ == "__main__":
    main()
