"""A directory listing in progress: positions, and the entries around the one that is read.

Layer: shell. The kernel names a place in a directory by a number; here it counts the entries before
it. Only a window of entries is kept, so that a million of them cost no more memory than a thousand,
and of what left it every 1024th name, from which a seek backwards walks on. Within the window a
position stays behind the very name that it followed, whatever is removed meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from luciole.proto import common_pb2, meta_pb2

WINDOW_MAX = 2048  # a reply of the largest size for entries with attributes has half of that
MARK_EVERY = 1024


@dataclass
class DirectoryHandle:
    """`entries` stand at positions from `start` on; `before` is the name at `start` - 1."""

    inode_id: int
    credential: common_pb2.Credential
    entries: list[meta_pb2.DirEntry]
    parent: int = 0
    complete: bool = False
    start: int = 0
    before: bytes = b""
    marks: list[bytes] = field(default_factory=lambda: [b""])  # names before each 1024th position

    @property
    def end(self) -> int:
        """The position behind the window."""
        return self.start + len(self.entries)

    @property
    def last_name(self) -> bytes:
        """The name before `end`; b"" at the beginning."""
        return self.entries[-1].dentry.name if self.entries else self.before

    def at(self, position: int) -> meta_pb2.DirEntry | None:
        """The entry at a position, if the window has it."""
        return self.entries[position - self.start] if self.start <= position < self.end else None

    def forget_from(self, position: int) -> None:
        """What stands at `position` and behind is to be fetched anew."""
        if position < self.start:
            mark = min(position // MARK_EVERY, len(self.marks) - 1)
            self.start, self.before, self.entries = mark * MARK_EVERY, self.marks[mark], []
        else:
            del self.entries[position - self.start:]
        self.complete = False

    def extend(self, entries: Sequence[meta_pb2.DirEntry]) -> None:
        """Puts a page behind the window, and lets go of what is too far before it."""
        for position, entry in enumerate(entries, self.end + 1):
            if position % MARK_EVERY == 0:
                self.marks[position // MARK_EVERY:] = [entry.dentry.name]
        self.entries.extend(entries)
        excess = len(self.entries) - WINDOW_MAX
        if excess > 0:
            self.before = self.entries[excess - 1].dentry.name
            self.start += excess
            del self.entries[:excess]
