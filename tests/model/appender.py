"""Appends records of which every byte is known: `python -m luciole.tests.model.appender …`.

Layer: tests. Arguments: path, one letter for the writer, how many records, fsync after so many (0:
never). Each record begins with who wrote it, its number and its length, and ends with the same.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

MARK = 11  # bytes: writer, five digits of the number, five of the length
SIZE_MAX = 65_000


def start(path: Path, name: str, count: int, often: int) -> subprocess.Popen[bytes]:
    """A process that appends."""
    return subprocess.Popen(
        [sys.executable, "-m", "luciole.tests.model.appender", str(path), name, str(count),
         str(often)])


def records(content: bytes) -> list[tuple[str, int]]:
    """Writer and number of all records in order. Raises AssertionError for anything else."""
    found = []
    position = 0
    while position < len(content):
        mark = content[position : position + MARK]
        size = int(mark[6:])
        assert content[position : position + size] == _record(mark, size), f"torn at {position}"
        found.append((chr(mark[0]), int(mark[1:6])))
        position += size
    return found


def _record(mark: bytes, size: int) -> bytes:
    return mark + b"." * (size - 2 * MARK - 1) + mark[::-1] + b"\n"


def main() -> None:
    """Runs from the command line."""
    path, name, count, often = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(name)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(count):
        size = chance.choice([24, 100, 1000, chance.randint(24, SIZE_MAX)])
        record = _record(b"%s%05d%05d" % (name.encode(), number, size), size)
        assert os.write(file, record) == len(record)
        if often and number % often == 0:
            os.fsync(file)
    os.close(file)


if __name__ == "__main__":
    main()
