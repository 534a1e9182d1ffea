"""Memory that a network card may reach: regions of callers, and arenas of connections.

Layer: shell. A caller's `Region` is registered once per device, on first use, whole; from then on
the region keeps its pages, for the card holds them by their physical place. A connection's own
bytes (payloads that lie in no region, replies on a server) go through its `RegisteredArena`, which
peers cannot reach unless it is made `remote`: no client reaches into a server's memory.

Invariants: what is registered is counted, process-wide, and bounded. A memory region ends before
its memory does. The table of regions is guarded by its lock, which a collection may enter again.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from typing import Any

from luciole.errors import FsError, Kind
from luciole.rpc.interface import ARENA_BYTES_MAX, Arena, Memory, pages
from luciole.rpc.memory import PAGE, Region, address_of, place_of
from luciole.rpc.rdma_device import Device
from luciole.rpc.rdma_table import Piece

REGISTERED_BYTES_MAX = 16 << 30  # of a process
_BYTE = ctypes.c_char
_guard = threading.RLock()
_registered = 0


def registered_bytes() -> int:
    """How much memory the cards of this process hold now."""
    return _registered


class Registered:
    """Memory that a device's card may reach, from `address`, until `close`.

    Args:
        remote: whether peers who know the key may read and write it.
        memory: kept for as long as the card has it.

    Raises FsError NO_SPACE.
    """

    def __init__(
        self, device: Device, address: int, size: int, *, remote: bool, memory: object = None
    ) -> None:
        global _registered  # noqa: PLW0603 - one bound for the process
        self.address = address
        self.memory = memory
        self.size = 0
        with _guard:
            if _registered + size > REGISTERED_BYTES_MAX:
                raise FsError(
                    Kind.NO_SPACE,
                    f"{_registered} bytes are registered for RDMA, of at most "
                    f"{REGISTERED_BYTES_MAX}: {size} more would be too many",
                )
            _registered += size
        e = device.verbs.e
        access = e.IBV_ACCESS_LOCAL_WRITE
        if device.iwarp:  # there, what a read brings arrives as the peer's write
            access |= e.IBV_ACCESS_REMOTE_WRITE
        if remote:
            access |= e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE
        try:
            self._region: Any = device.verbs.mr.MR(device.domain, size, access, address=address)
        except Exception as failure:
            self._count_down(size)
            raise FsError(
                Kind.NO_SPACE,
                f"{device.name} cannot register {size} bytes ({failure}): see `ulimit -l`",
            ) from failure
        self.size = size
        self.local_key: int = self._region.lkey
        self.remote_key: int = self._region.rkey

    def close(self) -> None:
        """The card lets go of it. Idempotent; takes no lock that a finalizer could wait for."""
        size, self.size = self.size, 0
        if size:
            with suppress(Exception):  # the device is gone, and its registrations with it
                self._region.close()
            self._count_down(size)

    @staticmethod
    def _count_down(size: int) -> None:
        global _registered  # noqa: PLW0603
        with _guard:
            _registered -= size


class Shareable:
    """The regions of this process that peers of one device may reach."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[int, Registered | None] = {}
        self._guard = threading.RLock()

    def piece(self, view: memoryview) -> Piece | None:
        """How a peer reaches a view; None: it lies in no region, or the region is refused."""
        place = place_of(view)
        if place is None:
            return None
        region = place.region
        known = self._known.get(region.number)
        if known is None:
            known = self._introduce(region)
            if known is None:
                return None
        return Piece(region.address + place.offset, view.nbytes, known.remote_key)

    def _introduce(self, region: Region) -> Registered | None:
        with self._guard:
            if region.number in self._known:
                return self._known[region.number]
            if region.closed:
                return None
            # What was taken from peers before has other pages now: they would be reachable again.
            made: Registered | None = None
            if not region.has_lost:
                region.keep_pages()
                with suppress(FsError):  # bytes can be copied instead
                    made = Registered(self._device, region.address, region.size, remote=True)
            self._known[region.number] = made
        number = region.number
        region.on_close(lambda: self._forget(number))
        return made

    def _forget(self, number: int) -> None:
        known = self._known.pop(number, None)
        if known is not None:
            known.close()


_shareable: dict[str, Shareable] = {}


def shareable(device: Device) -> Shareable:
    """The regions that peers of a device may reach."""
    with _guard:
        return _shareable.setdefault(device.name, Shareable(device))


class RegisteredArena(Arena):
    """An arena that the card may reach. `remote`: peers too, while the connection lives.

    `memory` is as for `Arena`; what it gives is shared, or a fork would take pages from under the
    card.
    """

    __slots__ = ("_current", "_device", "_old", "_remote")

    def __init__(self, device: Device, *, remote: bool, memory: Memory = pages) -> None:
        super().__init__(memory)
        self._device = device
        self._remote = remote
        self._current: Registered | None = None
        self._old: list[Registered] = []

    def make(self, size: int) -> memoryview:
        """As `Arena.make`. Raises FsError NO_SPACE."""
        whole = -(-size // PAGE) * PAGE
        view, made = registered_memory(
            self._device, whole, remote=self._remote, memory=self._memory)
        if self._current is not None:
            self._old.append(self._current)  # views of it may be in use until `reset`
        self._current = made
        return view

    def find(self, address: int, size: int) -> Registered | None:
        """What holds these bytes; None: they are not of this arena."""
        for known in (self._current, *self._old):
            if known and known.address <= address and address + size <= known.address + known.size:
                return known
        return None

    def piece(self, view: memoryview) -> Piece:
        """How a peer reaches a view of this arena."""
        address = address_of(view)
        known = self.find(address, view.nbytes)
        assert known is not None, "a view of another arena"
        return Piece(address, view.nbytes, known.remote_key)

    def reset(self, keep: int = ARENA_BYTES_MAX) -> None:
        """As `Arena.reset`; the card is done with all of it."""
        super().reset(keep)
        for old in self._old:
            old.close()
        self._old.clear()
        if self._current is not None and self._current.size > keep:
            self._current.close()
            self._current = None

    def close(self) -> None:
        """The card lets go of everything. Call when its queue pair is gone."""
        self.reset(keep=-1)


def registered_memory(
    device: Device, size: int, *, remote: bool, memory: Memory = pages
) -> tuple[memoryview, Registered]:
    """Fresh memory, and its registration. Raises FsError NO_SPACE."""
    try:
        view = memory(size)
    except OSError as failure:
        raise FsError(Kind.NO_SPACE, f"no memory of {size} bytes: {failure}") from failure
    address = ctypes.addressof(_BYTE.from_buffer(view))
    return view, Registered(device, address, size, remote=remote, memory=view)
