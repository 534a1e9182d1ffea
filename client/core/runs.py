"""Runs of bytes that were stored into a mapping, and which of them leave together.

Layer: pure. A page comes back with many short runs when a program changes the low bytes of numbers.
As updates of their own they would cost a request each; neighbours in one chunk leave as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

GAP_MAX = 16 * 1024  # between neighbours: so much is read and written for nothing


class Run(NamedTuple):
    """Bytes and their place in a file."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + len(self.data)


def updates(runs: Iterable[Run], chunk_size: int) -> Iterator[list[Run]]:
    """Groups of runs, each of one chunk, in order and apart; the last bytes of the file first.

    Runs are given in the order in which they came. One that lies before the end of the one before
    it may have come later than what it covers: it and all that follows leave after the others.
    """
    rising: list[list[Run]] = []
    last = 0
    for run in _cut(runs, chunk_size):
        if rising and run.offset < last:
            yield from reversed(rising)
            rising = []
        if not rising or not _join(rising[-1], run, chunk_size):
            rising.append([run])
        last = run.end
    yield from reversed(rising)


def _cut(runs: Iterable[Run], chunk_size: int) -> Iterator[Run]:
    for run in runs:
        begin = run.offset
        while begin < run.end:
            end = min(run.end, (begin // chunk_size + 1) * chunk_size)
            yield Run(begin, run.data[begin - run.offset : end - run.offset])
            begin = end


def _join(group: list[Run], run: Run, chunk_size: int) -> bool:
    """Puts a run behind a group, if it is near enough; returns whether it was."""
    last = group[-1]
    if run.offset // chunk_size != last.offset // chunk_size or run.offset - last.end > GAP_MAX:
        return False
    if run.offset == last.end:
        group[-1] = Run(last.offset, last.data + run.data)
    else:
        group.append(run)
    return True


def laid_out(runs: Sequence[Run]) -> memoryview:
    """The bytes from the first run to the end of the last, zeros between them."""
    begin = runs[0].offset
    whole = bytearray(runs[-1].end - begin)
    for run in runs:
        whole[run.offset - begin : run.end - begin] = run.data
    return memoryview(whole).toreadonly()
