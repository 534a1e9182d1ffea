"""The caller's half of shared memory: which of a call's buffers the server may reach, and when not.

Layer: shell. One `Lender` per connection. A call is lent all of its payload or none, and all of its
rooms or none: bytes that lie elsewhere travel. Rooms are lent as whole pages only, because they are
taken back when the call fails: a server that stands still may wake up much later and write, so
its pages are exchanged under the address (`Region.lend_no_more`), and nothing else may lie on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from luciole.errors import FsError
from luciole.proto.services import Buffer
from luciole.rpc.memory import PAGE, Place, Region, places_of
from luciole.rpc.shared import PIECES_MAX, Piece, encode_table

Show = Callable[[Region], int]
REFUSED = -1


class Loan(NamedTuple):
    """What one call lends."""

    table: bytes = b""
    rooms: Sequence[tuple[Place, int]] = ()

    def take_back(self) -> None:
        """The call failed: what the server still writes is to go nowhere."""
        for place, size in self.rooms:
            place.region.lend_no_more(place.offset, size)


NOTHING = Loan()


class Lender:
    """The regions that the peer of one connection knows.

    Args:
        show: sends a region over the connection; returns its number there. Raises FsError.
        retire: has the connection end when a region that it knows is closed.
    """

    def __init__(self, show: Show, retire: Callable[[], None]) -> None:
        self._show = show
        self._retire = retire
        self._numbers: dict[int, int] = {}

    def lend(self, payload: Sequence[Buffer], into: Sequence[memoryview]) -> Loan:
        """What the server may reach of a call's buffers. Raises what `show` raises of I/O."""
        pieces: list[Piece] = []
        if payload:
            found = _places(payload)
            numbered = self._numbered(found) if found is not None else None
            if numbered is None:
                return NOTHING
            pieces = numbered
        rooms = _places(into) if into and not payload else None
        if rooms is not None and any(place.offset % PAGE or size % PAGE for place, size in rooms):
            rooms = None
        lent = self._numbered(rooms) if rooms is not None else None
        if not pieces and lent is None:
            return NOTHING
        return Loan(encode_table(pieces, lent or ()), rooms if lent and rooms else ())

    def _numbered(self, places: Sequence[tuple[Place, int]]) -> list[Piece] | None:
        pieces = []
        known, number = None, REFUSED
        for (region, offset), size in places:
            if region is not known:
                found = self._numbers.get(region.number)
                known, number = region, self._introduce(region) if found is None else found
                if number == REFUSED:
                    return None
            pieces.append((number, size, offset))
        return pieces

    def _introduce(self, region: Region) -> int:
        if region.closed:
            return REFUSED
        try:
            number = self._show(region)
            region.on_close(self._retire)
        except FsError:
            number = REFUSED  # the server has its reasons, and bytes can travel
        self._numbers[region.number] = number
        return number


def _places(buffers: Sequence[Buffer]) -> list[tuple[Place, int]] | None:
    """Where all of them lie; None: one of them is in no region, or they are too many."""
    if len(buffers) > PIECES_MAX:
        return None
    views = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
    places = places_of(views) if len(views) == len(buffers) else None
    return None if places is None else [
        (place, view.nbytes) for place, view in zip(places, views, strict=True)
    ]
