"""The caller's half of shared memory: which of a call's buffers the server may reach, and when not.

Layer: shell. One `Lender` per connection. A call is lent all of its payload or none, and all of its
rooms or none: bytes that lie elsewhere travel. Rooms are lent as whole pages only, because they are
taken back when the call fails: a server that stands still may wake up much later and write, so
its pages are exchanged under the address (`Region.lend_no_more`), and nothing else may lie on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from ctypes import addressof
from typing import NamedTuple

from luciole.errors import FsError
from luciole.proto.services import Buffer
from luciole.rpc.memory import PAGE, Region, address_of, first_byte, place_of
from luciole.rpc.shared import PIECES_MAX, encode_table

Show = Callable[[Region], int]
REFUSED = -1


class Loan(NamedTuple):
    """What one call lends. `landed`: as for `stream.read_reply`."""

    table: bytes = b""
    rooms: Sequence[memoryview] = ()
    landed: Callable[[Sequence[memoryview]], None] | None = None

    def take_back(self) -> None:
        """The call failed: what the server still writes is to go nowhere."""
        for room in self.rooms:
            place = place_of(room)  # None: an overlapping one took it back
            if place is not None:
                place.region.lend_no_more(place.offset, room.nbytes)


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
        self._last: Callable[[], Region | None] = _no_region  # where the last room was

    def lend(self, payload: Sequence[Buffer], into: Sequence[memoryview]) -> Loan:
        """What the server may reach of a call's buffers. Raises what `show` raises of I/O."""
        if payload:
            pieces = self._pieces(payload, align=1)
            return Loan(encode_table(pieces, [])) if pieces else NOTHING
        rooms = self._pieces(into, align=PAGE)
        return Loan(encode_table([], rooms), into) if rooms else NOTHING

    def lend_room(self, room: memoryview) -> tuple[int, int] | None:
        """Region and offset of a call's one room, if it can be lent: all of it, as whole pages.

        `Loan.take_back` ends it. Raises what `show` raises of I/O.
        """
        try:
            address = addressof(first_byte(room))
        except (TypeError, ValueError):
            return None
        size = room.nbytes
        region = self._last()
        if region is None or region.has_lost \
                or not 0 <= address - region.address <= region.size - size:
            place = place_of(room)
            if place is None:
                return None
            region = place.region
            self._last = weakref.ref(region)
        number = self._numbers.get(region.number)
        if number is None:
            number = self._introduce(region)
        offset = address - region.address
        return None if number == REFUSED or (offset | size) % PAGE else (number, offset)

    def _pieces(self, buffers: Sequence[Buffer], *, align: int) -> list[int] | None:
        """Region, length and offset of each; None: not all of them can be lent."""
        if len(buffers) > PIECES_MAX:
            return None
        pieces: list[int] = []
        begin = room = 0  # the region of the last one: those of one call mostly lie in one
        number = REFUSED
        places = 0  # offsets and sizes, or-ed: their lowest bits tell whether all are aligned
        for buffer in buffers:
            if not isinstance(buffer, memoryview) or not (size := buffer.nbytes):
                return None
            try:
                address = addressof(first_byte(buffer))
            except TypeError:
                if not buffer.contiguous:
                    return None
                address = address_of(buffer)
            if not 0 <= address - begin <= room - size:
                place = place_of(buffer)
                if place is None:
                    return None
                region = place.region
                known = self._numbers.get(region.number)
                number = self._introduce(region) if known is None else known
                if number == REFUSED:
                    return None
                begin = region.address
                # Of a region that has lost pages each buffer is looked up by itself.
                room = 0 if region.has_lost else region.size
            offset = address - begin
            places |= offset | size
            pieces += (number, size, offset)
        return None if places % align else pieces

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


def _no_region() -> None:
    """Before the first room."""
