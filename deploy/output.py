"""What people and scripts see: tables and progress, or one JSON object.

Layer: shell. Answers go to standard output, everything else to standard error, so that a pipe
carries answers only. Colours and moving bars appear on a terminal only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

PLAIN_WIDTH = 160  # of tables that nobody's window limits


def answers() -> Console:
    """Standard output."""
    return Console(
        width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False)


def notes() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    """One JSON object, readable by people too."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def error(message: str) -> None:
    """One line that begins with `luciole: error:`, red on a terminal."""
    notes().print(f"luciole: error: {message}", style="bold red")


class Reporter(Protocol):
    """Shows how far something long has come."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        """`done` of `total` (0: unknown) of the step that `text` names."""


class _PlainReporter:
    """One line for each step, for logs."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        if text != self._last:
            print(text, file=sys.stderr, flush=True)
            self._last = text


class _BarReporter:
    """A spinner with a bar, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        self._progress.update(
            self._task, description=text, completed=done, total=total or None)


def silent(text: str, done: int = 0, total: int = 0) -> None:
    """A reporter that shows nothing."""


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Reporter]:
    """A reporter for the length of a block; `quiet` for scripts that asked for JSON."""
    if quiet:
        yield silent
    elif not sys.stderr.isatty():
        yield _PlainReporter()
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
                   MofNCompleteColumn())
        with Progress(*columns, console=notes(), transient=True) as bar:
            yield _BarReporter(bar)
