"""What must hold among cores, whatever happens to their messages.

Layer: tests. The content of a chunk is modelled by its history: a content is an update laid over
another content, and has a number. So "nothing acknowledged is lost" is: what was acknowledged or
read is an ancestor of whatever is acknowledged, read or served later.
"""

from __future__ import annotations

from typing import NamedTuple

Operation = tuple[int, int]  # client, sequence


class Content(NamedTuple):
    """An update over what was there before."""

    parent: int
    operation: Operation
    depth: int


class BrokenError(AssertionError):
    """A rule does not hold."""


class Judge:
    """Knows all contents, and what nobody may forget."""

    def __init__(self, chunks: int) -> None:
        self.contents = [Content(0, (0, 0), 0)]  # number 0: the chunk before its first update
        self._numbers: dict[tuple[int, Operation], int] = {}
        self._made: dict[tuple[int, int], int] = {}  # (chunk, version) -> content
        self.floor = [0] * chunks  # what was acknowledged or read last
        self.acknowledged = 0
        self.reads = 0

    def content(self, parent: int, operation: Operation) -> int:
        """The number of a content; the same wherever it is made."""
        key = parent, operation
        number = self._numbers.get(key)
        if number is None:
            if self.holds(parent, operation):
                raise BrokenError(f"operation {operation} is laid over itself")
            number = self._numbers[key] = len(self.contents)
            self.contents.append(Content(parent, operation, self.contents[parent].depth + 1))
        return number

    def holds(self, content: int, operation: Operation) -> bool:
        """Whether an update is part of a content. Looks back over the last fifty."""
        for _ in range(50):
            found = self.contents[content]
            if found.operation == operation:
                return True
            if content == 0:
                return False
            content = found.parent
        return False

    def covers(self, content: int, older: int) -> bool:
        """Whether `older` is the content or an ancestor of it."""
        depth = self.contents[older].depth
        while self.contents[content].depth > depth:
            content = self.contents[content].parent
        return content == older

    def committed(self, chunk: int, version: int, content: int) -> None:
        """A replica committed a version: it has one content."""
        if self._made.setdefault((chunk, version), content) != content:
            raise BrokenError(f"version {version:#x} of chunk {chunk} has two contents")

    def acknowledge(self, chunk: int, content: int, operation: Operation) -> None:
        """A client hears that its update is done."""
        self.acknowledged += 1
        if not self.holds(content, operation):
            raise BrokenError(f"operation {operation} on chunk {chunk} is acknowledged, not done")
        self._raise(chunk, content)

    def read(self, chunk: int, content: int, floor: int) -> None:
        """A client reads, who began when `floor` was known."""
        self.reads += 1
        if not self.covers(content, floor):
            raise BrokenError(f"a read of chunk {chunk} finds content {content}, after {floor}")
        self._raise(chunk, content)

    def _raise(self, chunk: int, content: int) -> None:
        known = self.floor[chunk]
        if self.covers(content, known):
            self.floor[chunk] = content
        elif not self.covers(known, content):
            raise BrokenError(f"chunk {chunk} has contents {known} and {content} side by side")
