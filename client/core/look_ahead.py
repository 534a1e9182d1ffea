"""How many names to fetch behind one that was asked for alone.

Layer: pure. Programs that walk a directory name by name, without listing it, ask for one name after
another. A few in a row make it likely that the next ones follow, so a page of them is fetched with
their attributes: 16 at first, four times as many whenever most of a page was asked for. A page of
which little was used makes the next one wait for four times as many names asked for in vain, 256 at
most: random names of a large directory cost a percent more.

Source: the growing windows of Linux' read-ahead (Fengguang et al., On the design of a new Linux
readahead framework, 2008), of names.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

PAGE_FIRST = 16
PAGE_MAX = 256
MISSES_FIRST = 3
MISSES_MAX = 256
DIRECTORIES_MAX = 256
_GROWTH = 4


@dataclass
class _Window:
    page: int = PAGE_FIRST
    needed: int = MISSES_FIRST  # names asked for in vain before the next page
    misses: int = 0
    fetched: int = 0  # the size of the last page
    used: int = 0  # of it


class LookAhead:
    """Where names are asked for one by one. The caller serialises calls."""

    def __init__(self) -> None:
        self._windows: OrderedDict[int, _Window] = OrderedDict()

    def missed(self, directory: int) -> int:
        """A name had to be asked for; returns how many behind it are to be fetched, perhaps 0."""
        window = self._windows.setdefault(directory, _Window())
        self._windows.move_to_end(directory)
        if len(self._windows) > DIRECTORIES_MAX:
            self._windows.popitem(last=False)
        window.misses += 1
        if window.fetched and window.misses == 1:
            self._judge(window)
        if window.misses < window.needed:
            return 0
        window.misses = 0
        return window.page

    @staticmethod
    def _judge(window: _Window) -> None:
        """The first miss behind a page tells what the page was good for."""
        if 2 * window.used >= window.fetched:
            window.page = min(window.page * _GROWTH, PAGE_MAX)
            window.needed = 1
        else:
            window.page = PAGE_FIRST
            window.needed = min(max(window.needed, MISSES_FIRST) * _GROWTH, MISSES_MAX)
        window.fetched = window.used = 0

    def fetched(self, directory: int, count: int) -> None:
        """So many names came."""
        window = self._windows.get(directory)
        if window is not None:
            window.fetched, window.used = count, 0

    def used(self, directory: int) -> None:
        """A name of the last page was asked for."""
        window = self._windows.get(directory)
        if window is not None:
            window.used += 1
