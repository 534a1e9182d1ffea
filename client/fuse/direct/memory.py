"""Buffers for requests, whose payload stays where the kernel wrote it until it has been sent.

Layer: shell. A write request's bytes are sent to the storage services from the very memory into
which the kernel copied them, in the background: so a buffer is used again only when the last view
of it is gone. Only the interpreter knows when that is, and tells through a weak reference to the
object that all views keep alive.

The memory is cut from regions, several pieces of each: services on this machine reach it in place.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import NamedTuple

from luciole.client.fuse.direct.protocol import IN_HEADER, PAGE, WRITE_IN
from luciole.rpc.memory import Region

BEFORE_PAYLOAD = IN_HEADER.size + WRITE_IN.size
FREE_MAX = 16  # pieces that keep their pages while they are free
PIECES = 8  # of one region
_Hold = ctypes.Array[ctypes.c_char]


class _Piece(NamedTuple):
    region: Region
    offset: int


class Buffer:
    """Views of one piece of memory. Drop it, and the memory is free when all views are dropped."""

    __slots__ = ("payload", "whole")

    def __init__(self, hold: _Hold) -> None:
        view = memoryview(hold).cast("B")
        # A write's payload begins at a page, which the kernel copies best.
        self.whole = view[PAGE - BEFORE_PAYLOAD :]
        self.payload = view[PAGE:]


class Pool:
    """Memory that is used again. Its lock guards the free list."""

    def __init__(self, payload_bytes: int) -> None:
        """Args: payload_bytes: the largest write or read, a multiple of the page size."""
        self._size = PAGE + payload_bytes + PAGE
        self._type = ctypes.c_char * self._size
        # Re-entrant: a weak reference may call back at any allocation, also under the lock.
        self._guard = threading.RLock()
        self._fresh: list[_Piece] = []
        self._free: list[_Piece] = []
        self._out: dict[int, tuple[weakref.ref[_Hold], _Piece]] = {}

    def take(self) -> Buffer:
        """Memory that nobody looks at. Pages are only made when they are first written."""
        with self._guard:
            piece = (self._free or self._unused()).pop()
        hold = self._type.from_buffer(piece.region.view, piece.offset)
        key = id(hold)

        def ended(_: weakref.ref[_Hold]) -> None:
            with self._guard:
                _, back = self._out.pop(key)
                if len(self._free) >= FREE_MAX:
                    back.region.give_back(back.offset, self._size)
                self._free.append(back)

        with self._guard:
            self._out[key] = (weakref.ref(hold, ended), piece)
        return Buffer(hold)

    def _unused(self) -> list[_Piece]:
        if not self._fresh:
            region = Region(PIECES * self._size)
            self._fresh = [_Piece(region, number * self._size) for number in range(PIECES)]
        return self._fresh

    @property
    def free_count(self) -> int:
        """How many pieces wait to be used again."""
        return len(self._free)
