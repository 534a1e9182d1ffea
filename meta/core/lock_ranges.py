"""Locks on ranges of one file: which conflict, and what an owner holds after taking or giving one.

Layer: pure. Source: POSIX.1-2017, fcntl(), "F_SETLK"; fcntl(2) "Advisory record locking"; flock(2).
An owner's locks of one kind never overlap: a new one takes the place of what it covers, and joins
its neighbours of the same type. Locks made by flock are such locks over all bytes, so that the same
rules give its conversions; the two kinds do not see each other, as on Linux.

Invariant: the held locks of one owner and kind are disjoint, and two that touch differ in type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from luciole.errors import Kind, require
from luciole.proto import meta_pb2

LAST_BYTE = (1 << 63) - 1  # the kernel's OFFSET_MAX: "to the end, wherever it may be"

Owner = tuple[bytes, int]


def check(lock: meta_pb2.FileLock) -> None:
    """Raises FsError INVALID_ARGUMENT unless the range is one."""
    require(lock.first <= lock.last <= LAST_BYTE, Kind.INVALID_ARGUMENT,
            "a lock's range begins before it ends, below 2^63", f"{lock.first}-{lock.last}")
    require(not lock.flock or (lock.first, lock.last) == (0, LAST_BYTE), Kind.INVALID_ARGUMENT,
            "flock locks whole files", f"{lock.first}-{lock.last}")


def owner_of(lock: meta_pb2.FileLock) -> Owner:
    """Who holds it: client and the client's own name for the owner."""
    return lock.client_id, lock.owner


def blockers(
    held: Iterable[meta_pb2.FileLock], wanted: meta_pb2.FileLock
) -> list[meta_pb2.FileLock]:
    """The locks that are in the way of another one."""
    return [
        lock for lock in held
        if lock.flock == wanted.flock and owner_of(lock) != owner_of(wanted)
        and lock.first <= wanted.last and wanted.first <= lock.last
        and (lock.write or wanted.write)]


def without(
    held: Iterable[meta_pb2.FileLock], freed: meta_pb2.FileLock
) -> list[meta_pb2.FileLock]:
    """What is held after the owner of `freed` gave up that range."""
    left: list[meta_pb2.FileLock] = []
    for lock in held:
        mine = lock.flock == freed.flock and owner_of(lock) == owner_of(freed)
        if not mine or lock.last < freed.first or freed.last < lock.first:
            left.append(lock)
            continue
        if lock.first < freed.first:
            left.append(_cut(lock, lock.first, freed.first - 1))
        if freed.last < lock.last:
            left.append(_cut(lock, freed.last + 1, lock.last))
    return left


def added(
    held: Sequence[meta_pb2.FileLock], taken: meta_pb2.FileLock
) -> list[meta_pb2.FileLock]:
    """What is held after `taken`, with which nothing conflicts, was granted."""
    joined = _cut(taken, taken.first, taken.last)
    joined.ClearField("wait_id")
    rest = []
    for lock in without(held, taken):
        alike = (lock.flock == taken.flock and lock.write == taken.write
                 and owner_of(lock) == owner_of(taken))
        if alike and lock.last + 1 == taken.first:
            joined.first = lock.first
        elif alike and taken.last + 1 == lock.first:
            joined.last = lock.last
        else:
            rest.append(lock)
    return [*rest, joined]


def _cut(lock: meta_pb2.FileLock, first: int, last: int) -> meta_pb2.FileLock:
    piece = meta_pb2.FileLock()
    piece.CopyFrom(lock)
    piece.first, piece.last = first, last
    return piece
