"""What the workload writes: blocks that say themselves what they are, and what may be read when.

A block of a file holds its file, its position and a generation, followed by bytes derived from
these three: a reader can check any block without having written it. What writers have done is in
journals beside the file system, with times, so that a reader knows the least generation that it
must see.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 64 * 1024
_HEADER = struct.Struct("<8sQQQ")
_MAGIC = b"luciole\0"
# A name or attribute may be as old as the mounts' caches (1 s); the rest is for slow readers.
CACHE_SECONDS = 2.0


def block(file: int, index: int, generation: int) -> bytes:
    """The content of a block."""
    head = _HEADER.pack(_MAGIC, file, index, generation)
    return head + hashlib.shake_128(head).digest(BLOCK - len(head))


def generation_of(data: bytes, file: int, index: int) -> int | None:
    """The generation of a whole and right block, or None."""
    if len(data) != BLOCK:
        return None
    _, _, _, generation = _HEADER.unpack_from(data)
    found: int = generation
    return found if data == block(file, index, found) else None


@dataclass
class Known:
    """What a file must hold."""

    generations: list[int]  # by block: at least this
    busy: bool = False  # something was begun later, so blocks may be newer or torn


@dataclass
class Journal:
    """What one writer did, appended by it and followed by the others.

    Lines: [seconds, "begin" or "end", file number, generations by block].
    """

    path: Path
    _position: int = 0
    _lines: list[tuple[float, str, int, list[int]]] = field(default_factory=list)

    def note(self, at: float, what: str, file: int, generations: list[int]) -> None:
        """Appends a line, whole."""
        with self.path.open("a") as output:
            output.write(json.dumps([at, what, file, generations]) + "\n")

    def _follow(self) -> Iterator[tuple[float, str, int, list[int]]]:
        if self.path.exists():
            with self.path.open() as source:
                source.seek(self._position)
                text = source.read()
            whole = text[: text.rfind("\n") + 1]
            self._position += len(whole)
            self._lines += [tuple(json.loads(line)) for line in whole.splitlines()]
        yield from self._lines

    def known(self, opened_at: float) -> dict[int, Known]:
        """By file number, what an open at `opened_at` must show, as the journal stands now."""
        found: dict[int, Known] = {}
        for at, what, file, generations in self._follow():
            if what == "end" and at < opened_at - CACHE_SECONDS:
                found[file] = Known(generations)
            elif file in found:
                found[file].busy = True
        return found
