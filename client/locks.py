"""Locks of this client's processes: asked for, waited for, given up, and lost with the lease.

Layer: shell. The metadata service keeps the locks; here is what this client may hold: an entry is
made before a lock is asked for and removed before it is given up, so that whatever was granted is
given up in the end, also if no answer came. What could not be given up is tried again (`settle`).

A client that the manager takes for dead loses its locks, and others get them. So it counts for
itself, from before it sent its last sign of life that was answered. When that is longer ago than
`LEASE_PART` of the lease, its locks count as lost: files that they were on fail with LOCKS_LOST
until they are opened anew, since what is written now might meet another holder's writes. The rest
of the lease is for requests that are under way.

Whoever holds a lock sees what its holders before did to anything: the answer to a request tells
what others have changed up to the grant, and that is forgotten (`Told`) before it returns.

Concurrency: any number of threads or tasks. The lock guards the tables and is never held over a
wait.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import NamedTuple, Protocol

from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, services
from luciole.runtime import Runtime

LEASE_PART = 0.8
POLL_SECONDS = 8.0
POLL_PART = 0.5  # at most, of the time that one attempt of a call may take
WHOLE_FILE = (0, (1 << 63) - 1)


class Holder(NamedTuple):
    """Who has locks on a file."""

    inode_id: int
    flock: bool
    owner: int


class Waiting:
    """One request that may wait, and may be told to stop."""

    def __init__(self) -> None:
        self.interrupted = False
        self.inode_id = self.wait_id = 0  # of the place in the queue, while there is one
        self.withdrawn = False


class Told(Protocol):
    """Others' changes, as far as they were told: `ChangeFeed`."""

    @property
    def position(self) -> bytes:
        """Up to where all changes are forgotten; empty: not known."""

    def take(self, after: bytes, behind: meta_pb2.WatchReply | None) -> None:
        """Forgets what was changed up to a grant; None: that may be anything."""


class Locks:
    """What this client holds."""

    def __init__(self, runtime: Runtime, meta: MetaClient) -> None:
        self._runtime = runtime
        self._meta = meta
        self._guard = threading.Lock()
        self._held: dict[Holder, set[int]] = {}  # and through which handles
        self._writing: dict[Holder, list[tuple[int, int]]] = {}  # ranges locked to write
        self._lost: set[int] = set()  # inodes
        self.told: Told | None = None  # set by whoever follows the changes of others
        self._abandoned: list[tuple[int, meta_pb2.FileLock]] = []
        self._lease_until = math.inf  # without a manager there is nobody who would take them away
        self._wait_ids = itertools.count(1)

    # The lease.

    def extend_lease(self, sent_at: float, seconds: float) -> None:
        """A sign of life that was sent at `sent_at` was answered with a lease of `seconds`."""
        self._look_at_lease()
        self._lease_until = sent_at + seconds * LEASE_PART

    def _look_at_lease(self) -> bool:
        """Whether the lease runs. If it does not, the locks are lost."""
        if self._runtime.clock.now() < self._lease_until:
            return True
        with self._guard:
            for holder in self._held:
                self._lost.add(holder.inode_id)
                self._abandoned.append((holder.inode_id, _everything_of(holder)))
            self._held.clear()
            self._writing.clear()
        return False

    def check_io(self, inode_id: int) -> None:
        """Raises FsError LOCKS_LOST when locks on this file were lost."""
        if self._held:
            self._look_at_lease()
        if inode_id in self._lost:
            raise FsError(Kind.LOCKS_LOST, "this client was out of touch with the manager and has "
                          "lost its locks on the file: close it everywhere, then open it again",
                          f"inode {inode_id}")

    def forget(self, inode_id: int) -> None:
        """The last handle of a file is gone."""
        self._lost.discard(inode_id)

    # Taking and giving.

    async def acquire(
        self, inode_id: int, handle: int, lock: meta_pb2.FileLock, waiting: Waiting | None
    ) -> meta_pb2.Inode:
        """Takes a lock; returns the inode as it was left by whoever held it before.

        Args:
            inode_id: of the file.
            handle: through which it is asked for.
            lock: owner, kind, type, range and pid.
            waiting: given: waits, until `interrupt` is called with it.

        Raises FsError LOCKED, DEADLOCK, NO_LOCKS, INTERRUPTED, LOCKS_LOST and what calls raise.
        """
        if not self._look_at_lease():
            raise FsError(Kind.LOCKS_LOST, "no locks can be had without a lease: the manager does "
                          "not answer", f"inode {inode_id}")
        self.check_io(inode_id)
        await self.settle()
        with self._guard:
            holder = Holder(inode_id, lock.flock, lock.owner)
            self._held.setdefault(holder, set()).add(handle)
        if waiting is not None:
            lock.wait_id = next(self._wait_ids)
        after = self.told.position if self.told else b""
        try:
            reply = await self._meta.change(services.META_LOCK, meta_pb2.LockRequest(
                inode_id=inode_id, lock=lock, wait=waiting is not None, after=after))
            if reply.granted or waiting is not None:
                inode = reply.inode
                if reply.granted:
                    self._hear(after, reply)
                elif waiting is not None:
                    inode = await self._wait(inode_id, lock, waiting)
                self._note_range(holder, lock)
                return inode
        except FsError as failure:
            if failure.facts.maybe_applied or failure.kind == Kind.UNAVAILABLE:
                self._abandon(inode_id, lock)
            raise
        raise FsError(Kind.LOCKED, "another holds a lock there", f"inode {inode_id}")

    def _hear(self, after: bytes, reply: meta_pb2.LockReply | meta_pb2.AwaitLockReply) -> None:
        if self.told is not None:
            self.told.take(after, reply.behind if reply.HasField("behind") else None)

    def _note_range(self, holder: Holder, lock: meta_pb2.FileLock) -> None:
        """Remembers what a holder may write under. A range that was cut counts on as a whole."""
        with self._guard:
            ranges = [part for part in self._writing.pop(holder, [])
                      if not (lock.first <= part[0] and part[1] <= lock.last)]
            if lock.write:
                ranges.append((lock.first, lock.last))
            if ranges:
                self._writing[holder] = ranges

    def weakens(self, inode_id: int, lock: meta_pb2.FileLock) -> bool:
        """Whether a request for `lock` may let others in where its owner has written."""
        holder = Holder(inode_id, lock.flock, lock.owner)
        if lock.flock:  # a conversion that is not granted at once gives the old one up
            return holder in self._held
        return not lock.write and any(
            first <= lock.last and lock.first <= last
            for first, last in self._writing.get(holder, ()))

    async def _wait(
        self, inode_id: int, lock: meta_pb2.FileLock, waiting: Waiting
    ) -> meta_pb2.Inode:
        """Waits for the end of a place in the queue."""
        seconds = min(POLL_SECONDS, POLL_PART * self._meta.attempt_seconds)
        waiting.inode_id, waiting.wait_id = inode_id, lock.wait_id
        while True:
            if waiting.interrupted:
                await self._withdraw(waiting)
            after = self.told.position if self.told else b""
            reply = await self._meta.ask(services.META_AWAIT_LOCK, meta_pb2.AwaitLockRequest(
                inode_id=inode_id, client_id=self._meta.client_id, wait_id=lock.wait_id,
                wait_ms=int(seconds * 1000), after=after))
            if reply.waiting:
                continue
            # Whoever interrupts may have taken it off the queue and not know it yet.
            async with self._runtime.lock(("lock wait", id(waiting))):
                waiting.wait_id = 0
            if waiting.withdrawn:
                raise FsError(Kind.INTERRUPTED, "the wait was ended by a signal")
            self._look_at_lease()
            self.check_io(inode_id)
            self._hear(after, reply)
            return reply.inode

    async def interrupt(self, waiting: Waiting) -> None:
        """Ends a wait with INTERRUPTED, unless it is granted first. May be called before it."""
        waiting.interrupted = True
        await self._withdraw(waiting)

    async def _withdraw(self, waiting: Waiting) -> None:
        async with self._runtime.lock(("lock wait", id(waiting))):
            if waiting.wait_id and not waiting.withdrawn:
                reply = await self._meta.change(
                    services.META_CANCEL_LOCK, meta_pb2.CancelLockRequest(
                        inode_id=waiting.inode_id, wait_id=waiting.wait_id))
                waiting.withdrawn = reply.withdrawn

    async def release(self, inode_id: int, lock: meta_pb2.FileLock) -> None:
        """Gives up the range of `lock`, whatever its owner has there."""
        holder = Holder(inode_id, lock.flock, lock.owner)
        if (lock.first, lock.last) == WHOLE_FILE:
            await self._release_holder(holder)
        elif holder in self._held:
            await self._unlock(inode_id, lock)
            lock.write = False
            self._note_range(holder, lock)

    async def test(self, inode_id: int, lock: meta_pb2.FileLock) -> meta_pb2.FileLock | None:
        """A lock that is in the way; its pid is 0 if it belongs to another client's process."""
        lock.client_id = self._meta.client_id
        reply = await self._meta.ask(services.META_TEST_LOCK, meta_pb2.TestLockRequest(
            inode_id=inode_id, lock=lock))
        if reply.granted:
            return None
        if reply.blocker.client_id != self._meta.client_id:
            reply.blocker.pid = 0
        return reply.blocker

    @property
    def any_held(self) -> bool:
        """Whether there may be any lock to give up."""
        return bool(self._held)

    def handle_holds(self, handle: int) -> bool:
        """Whether locks may go with a handle."""
        if not self._held:
            return False
        with self._guard:
            return any(handle in through for through in self._held.values())

    def holds(self, inode_id: int, owner: int) -> bool:
        """Whether a process may have fcntl locks on a file."""
        return bool(self._held) and Holder(inode_id, False, owner) in self._held

    async def release_owner(self, inode_id: int, owner: int) -> None:
        """A process closed a descriptor: its fcntl locks on the file go."""
        await self._release_holder(Holder(inode_id, False, owner))

    async def release_handle(self, handle: int) -> None:
        """A handle is gone, and with it the locks of flock and of open file descriptions."""
        if not self._held:
            return
        with self._guard:
            holders = [holder for holder, through in self._held.items() if handle in through]
        for holder in holders:
            await self._release_holder(holder)

    async def _release_holder(self, holder: Holder) -> None:
        with self._guard:
            self._writing.pop(holder, None)
            if self._held.pop(holder, None) is None:
                return
        await self._unlock(holder.inode_id, _everything_of(holder))

    async def _unlock(self, inode_id: int, lock: meta_pb2.FileLock) -> None:
        try:
            await self._meta.change(
                services.META_UNLOCK, meta_pb2.UnlockRequest(inode_id=inode_id, lock=lock))
        except FsError:
            self._abandon(inode_id, lock)
            raise

    def _abandon(self, inode_id: int, lock: meta_pb2.FileLock) -> None:
        with self._guard:
            self._abandoned.append((inode_id, lock))

    async def settle(self) -> None:
        """Gives up what could not be given up before. Raises what calls raise."""
        while self._abandoned:
            with self._guard:
                inode_id, lock = self._abandoned.pop()
            if lock.wait_id:
                try:
                    await self._meta.change(
                        services.META_CANCEL_LOCK, meta_pb2.CancelLockRequest(
                            inode_id=inode_id, wait_id=lock.wait_id))
                except FsError:
                    self._abandon(inode_id, lock)
                    raise
            await self._unlock(inode_id, lock)


def _everything_of(holder: Holder) -> meta_pb2.FileLock:
    first, last = WHOLE_FILE
    return meta_pb2.FileLock(flock=holder.flock, owner=holder.owner, first=first, last=last)
