"""How many bytes of blocks a file has gained through this client since its last report.

Layer: pure; the caller guards it. What is on its way in a report is apart from what comes
meanwhile, so that neither is counted twice or not at all.
"""

from __future__ import annotations

from typing import NamedTuple


class Gain(NamedTuple):
    """What a report says."""

    change: int | None  # bytes; None: not known
    uncertain: bool  # an update failed, and may yet take effect


NOTHING = Gain(0, False)


class Growth:
    """The count of one open file."""

    def __init__(self) -> None:
        self._since = NOTHING
        self._under_way = NOTHING

    @property
    def shown(self) -> int:
        """Bytes gained that no answered report has told, as far as they are known."""
        return (self._since.change or 0) + (self._under_way.change or 0)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to tell."""
        return self._since == NOTHING

    def add(self, change: int) -> None:
        """An update has made the file take `change` bytes more."""
        if self._since.change is not None:
            self._since = self._since._replace(change=self._since.change + change)

    def forget(self) -> None:
        """Another client's cut took some of it: nobody knows how much."""
        self._since = self._since._replace(change=None)

    def doubt(self) -> None:
        """An update or a report failed, and may have been done or be done later."""
        self._since = Gain(None, True)
        self._under_way = NOTHING

    def begin_report(self) -> Gain:
        """What to tell now; what comes from now on is told in the next report."""
        self._under_way, self._since = self._since, NOTHING
        return self._under_way

    def end_report(self, *, counted: bool) -> None:
        """The report was answered; if it did not count, what it told is not known any more."""
        self._under_way = NOTHING
        if not counted:
            self.forget()

    def withdraw(self) -> None:
        """The report was refused, and changed nothing: what it told is told again."""
        told, since = self._under_way, self._since
        known = told.change is not None and since.change is not None
        change = (told.change or 0) + (since.change or 0) if known else None
        self._since = Gain(change, told.uncertain or since.uncertain)
        self._under_way = NOTHING

    def restart(self) -> None:
        """The file's blocks were counted on the way: nothing is open."""
        self._since = self._under_way = NOTHING
