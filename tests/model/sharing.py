"""Processes that share state through two mounts, as programs do that know of no second machine.

By hand: `python -m luciole.tests.model.sharing KIND AMOUNT MOUNT OTHER-MOUNT`; it runs workers on
both and checks what they leave. Short runs are in tests/integration/test_sharing.py.

- `database-normal`, `database-full`: each adds AMOUNT rows to one SQLite database in WAL mode,
  counts them in another table, and moves the log into the database all the time. Its index of the
  log is a shared mapping whose parts different locks guard.
- `page`: each counts to AMOUNT in a place of its own of one mapped page, under a lock of its own,
  and in a place that all share, under another.
- `mapped`: each counts to AMOUNT in a mapped page, under a lock on another file.
- `replace`: for AMOUNT seconds one replaces a file by rename while others read it on both mounts.

Layer: tests.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

BUSY_S = 60.0
CHECKPOINT_PAGES = 20
WHOLE_BYTES = 200_000
WORD = 8


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """A worker of this module."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "luciole.tests.model.sharing", *map(str, arguments)],
        stdin=subprocess.DEVNULL)


def run_all(workers: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Waits until all have ended well. Raises AssertionError."""
    try:
        for worker in workers:
            assert worker.wait(seconds) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)


# A database.


def _connect(path: Path, synchronous: str = "NORMAL") -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return connection


def add_rows(path: Path, name: str, times: int, synchronous: str) -> None:
    connection = _connect(path, synchronous)
    for number in range(times):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE counter SET value = value + 1")
        connection.execute("INSERT INTO rows VALUES (?, ?, ?)", (name, number, name * 300))
        connection.execute("COMMIT")
    connection.close()


def database(mounts: list[Path], times: int, synchronous: str) -> None:
    """Runs it and checks what is left. Raises AssertionError."""
    name = f"database-{synchronous}"
    connection = _connect(mounts[0] / name)
    connection.execute("CREATE TABLE counter (value)")
    connection.execute("INSERT INTO counter VALUES (0)")
    connection.execute("CREATE TABLE rows (writer, number, text)")
    connection.close()
    run_all([start("add-rows", place / name, f"writer{index}", times, synchronous)
             for index, place in enumerate(mounts)], times + BUSY_S)
    for place in mounts:
        connection = _connect(place / name)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT value FROM counter").fetchall() == [(2 * times,)]
        assert connection.execute(
            "SELECT writer, count(*), count(DISTINCT number) FROM rows GROUP BY 1 ORDER BY 1"
        ).fetchall() == [("writer0", times, times), ("writer1", times, times)]
        connection.close()


# Mapped pages.


def _add_one(memory: mmap.mmap, place: int) -> None:
    value = int.from_bytes(memory[place : place + WORD], "little")
    memory[place : place + WORD] = (value + 1).to_bytes(WORD, "little")


def count_mapped(path: Path, lock_path: Path, index: int, times: int) -> None:
    """Counts at word `index` + 1 under byte `index` + 1, and at word 0 under byte 0."""
    with path.open("r+b") as file, lock_path.open("r+b") as locks, mmap.mmap(
            file.fileno(), mmap.PAGESIZE) as memory:
        for _ in range(times):
            for place in (index + 1, 0):
                fcntl.lockf(locks, fcntl.LOCK_EX, 1, place)
                _add_one(memory, place * WORD)
                fcntl.lockf(locks, fcntl.LOCK_UN, 1, place)


def mapped(mounts: list[Path], times: int, *, lock_name: str) -> None:
    """Two workers on each mount; raises AssertionError unless every store is there in the end."""
    name = f"page-{lock_name}"
    (mounts[0] / name).write_bytes(bytes(mmap.PAGESIZE))
    (mounts[0] / (lock_name or name)).touch()
    places = [*mounts, *mounts]
    run_all([start("count-mapped", place / name, place / (lock_name or name), index, times)
             for index, place in enumerate(places)], times + BUSY_S)
    for place in mounts:
        content = (place / name).read_bytes()
        counts = [int.from_bytes(content[at : at + WORD], "little")
                  for at in range(0, (len(places) + 1) * WORD, WORD)]
        assert counts == [len(places) * times, *[times] * len(places)], counts
        assert content.rstrip(b"\0") == content[: (len(places) + 1) * WORD].rstrip(b"\0")


# A file that is replaced.


def read_whole(path: Path, end: float) -> None:
    """Reads in every way until the clock (monotonic, of this machine) says `end`."""
    seen = 0
    while time.monotonic() < end:
        with path.open("rb", buffering=0) as file:
            content = file.readall()
            assert os.fstat(file.fileno()).st_size == WHOLE_BYTES
        assert len(content) == WHOLE_BYTES
        assert {content[at] for at in range(0, WHOLE_BYTES, 1000)} == {content[0]}, "torn"
        number = int.from_bytes(content[:1], "little")
        assert (number - seen) % 256 < 128, "older than what was read before"
        seen = number
        assert path.stat().st_size == WHOLE_BYTES


def replace(mounts: list[Path], seconds: float) -> None:
    """Replaces while others read. Raises AssertionError."""
    path, following = mounts[0] / "whole", mounts[0] / "next"
    path.write_bytes(bytes(WHOLE_BYTES))
    end = time.monotonic() + seconds
    readers = [start("read-whole", place / "whole", end) for place in [*mounts, *mounts]]
    number = 0
    while time.monotonic() < end:
        number += 1
        following.write_bytes(bytes([number % 256]) * WHOLE_BYTES)
        following.rename(path)
    run_all(readers, BUSY_S)
    print(f"replaced {number} times")


def main() -> None:
    """Runs from the command line."""
    kind, first, *others = sys.argv[1:]
    if kind == "add-rows":
        add_rows(Path(first), others[0], int(others[1]), others[2])
    elif kind == "count-mapped":
        count_mapped(Path(first), Path(others[0]), int(others[1]), int(others[2]))
    elif kind == "read-whole":
        read_whole(Path(first), float(others[0]))
    else:
        mounts = [Path(place) for place in others]
        if kind == "replace":
            replace(mounts, float(first))
        elif kind.startswith("database-"):
            database(mounts, int(first), kind.removeprefix("database-").upper())
        else:
            mapped(mounts, int(first), lock_name={"page": "", "mapped": "lock"}[kind])


if __name__ == "__main__":
    main()
