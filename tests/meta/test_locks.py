"""Locks at the metadata service: fcntl's ranges against bytes, queues, cycles, dead clients."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.kv.memory import Faults
from luciole.meta.core import lock_ranges, schema
from luciole.meta.core.locks import LOCKS_PER_FILE_MAX
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, World

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
LAST = lock_ranges.LAST_BYTE
BYTES = 12  # that the oracle looks at, one by one

steps = st.lists(st.tuples(
    st.sampled_from([1, 2, 3]), st.sampled_from(["read", "write", "give"]),
    st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_ranges_are_as_if_every_byte_had_its_locks(
    steps: list[tuple[int, str, int, int]]
) -> None:
    oracle: list[dict[int, str]] = [{} for _ in range(BYTES)]  # of each byte: owner -> type
    held: list[meta_pb2.FileLock] = []
    for owner, what, one, other in steps:
        first, last = sorted((one, other))
        covered = range(first, last + 1)
        lock = meta_pb2.FileLock(
            client_id=A, owner=owner, write=what == "write", first=first, last=last)
        if what == "give":
            held = lock_ranges.without(held, lock)
            for byte in covered:
                oracle[byte].pop(owner, None)
        else:
            expected = {who for byte in covered for who, kind in oracle[byte].items()
                        if who != owner and "write" in {kind, what}}
            found = lock_ranges.blockers(held, lock)
            assert {blocker.owner for blocker in found} == expected
            if not found:
                held = lock_ranges.added(held, lock)
                for byte in covered:
                    oracle[byte][owner] = what
        _compare(held, oracle)


def _compare(held: list[meta_pb2.FileLock], oracle: list[dict[int, str]]) -> None:
    """Every byte as the oracle says, and no more pieces than there are runs of equal bytes."""
    for byte, owners in enumerate(oracle):
        covering = [lock for lock in held if lock.first <= byte <= lock.last]
        assert {lock.owner: "write" if lock.write else "read" for lock in covering} == owners
        assert len(covering) == len(owners)
    runs = sum(
        owners.get(owner) != (oracle[byte - 1].get(owner) if byte else None)
        for byte, owners in enumerate(oracle) for owner in owners)
    assert len(held) == runs


class Locking:
    """A file, and short words for requests about its locks."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.world = World()
        self.inode_id = self.world.file(b"f").inode_id
        if faults is not None:
            self.world.store.faults = faults

    def lock(
        self, client: bytes, owner: int = 1, *, write: bool = True, first: int = 0,
        last: int = LAST, flock: bool = False, wait_id: int = 0, inode_id: int = 0,
    ) -> bool:
        """Whether it was granted; with a `wait_id` it queues."""
        reply = drive(self.world.meta.lock(meta_pb2.LockRequest(
            request_id=self.world.request_id(client), inode_id=inode_id or self.inode_id,
            wait=wait_id > 0, lock=meta_pb2.FileLock(
                owner=owner, write=write, first=first, last=last, flock=flock,
                wait_id=wait_id)), CALL))
        return reply.granted

    def unlock(
        self, client: bytes, owner: int = 1, *, first: int = 0, last: int = LAST,
        flock: bool = False, inode_id: int = 0,
    ) -> None:
        drive(self.world.other.unlock(meta_pb2.UnlockRequest(
            request_id=self.world.request_id(client), inode_id=inode_id or self.inode_id,
            lock=meta_pb2.FileLock(owner=owner, first=first, last=last, flock=flock)), CALL))

    def waits(self, client: bytes, wait_id: int, wait_ms: int = 0) -> bool:
        return drive(self.world.other.await_lock(meta_pb2.AwaitLockRequest(
            inode_id=self.inode_id, client_id=client, wait_id=wait_id, wait_ms=wait_ms),
            CALL)).waiting

    def cancel(self, client: bytes, wait_id: int) -> bool:
        return drive(self.world.meta.cancel_lock(meta_pb2.CancelLockRequest(
            request_id=self.world.request_id(client), inode_id=self.inode_id,
            wait_id=wait_id), CALL)).withdrawn

    def records(self) -> int:
        return sum(len(self.world.keys(prefix)) for prefix in (
            schema.LOCKS, schema.CLIENT_LOCKS, schema.WAITS))


def test_owners_of_two_clients_exclude_each_other() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B)  # the same number means another owner there
    assert it.lock(B, flock=True)
    assert not it.lock(A, flock=True)
    it.unlock(A)
    assert it.lock(B)
    it.unlock(B)
    it.unlock(B, flock=True)
    assert it.records() == 0


def test_what_is_in_the_way_can_be_asked() -> None:
    it = Locking()
    assert it.lock(A, write=False, first=10, last=19)
    request = meta_pb2.TestLockRequest(inode_id=it.inode_id, lock=meta_pb2.FileLock(
        client_id=B, owner=1, first=0, last=LAST, write=True))
    found = drive(it.world.meta.test_lock(request, CALL)).blocker
    assert (found.client_id, found.first, found.last, found.write) == (A, 10, 19, False)
    request.lock.write = False
    assert drive(it.world.meta.test_lock(request, CALL)).granted


def test_waits_are_granted_in_order_and_at_once() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B, wait_id=1)
    assert not it.lock(C, wait_id=1, write=False)
    assert not it.lock(C, owner=2, wait_id=2, write=False)
    assert it.waits(B, 1)
    assert it.waits(C, 1)
    it.unlock(A)
    assert not it.waits(B, 1)
    assert it.waits(C, 1)
    it.unlock(B)
    assert not it.waits(C, 1)
    assert not it.waits(C, 2)  # readers together


def test_a_wait_ends_with_the_unlock_and_not_with_its_time() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B, wait_id=1)
    ended: list[bool] = []
    waiter = threading.Thread(target=lambda: ended.append(it.waits(B, 1, 20_000)))
    waiter.start()
    it.unlock(A)
    waiter.join(10)
    assert ended == [False]


def test_a_withdrawn_wait_is_not_granted() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B, wait_id=1)
    assert it.cancel(B, 1)
    it.unlock(A)
    assert it.lock(C)
    assert not it.cancel(B, 1)
    it.unlock(C)
    assert it.records() == 0


def test_a_downgrade_lets_readers_in() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B, wait_id=1, write=False)
    assert it.lock(A, write=False, first=0, last=9)
    assert it.waits(B, 1)
    assert it.lock(A, write=False)
    assert not it.waits(B, 1)


def test_a_conversion_by_flock_that_fails_has_lost_the_lock() -> None:
    it = Locking()
    assert it.lock(A, write=False, flock=True)
    assert it.lock(B, write=False, flock=True)
    assert not it.lock(A, flock=True)
    assert it.lock(B, flock=True)


def test_a_cycle_of_waits_is_refused() -> None:
    it = Locking()
    other = it.world.file(b"g").inode_id
    assert it.lock(A, first=0, last=9)
    assert it.lock(B, first=10, last=19)
    assert it.lock(C, inode_id=other)
    assert not it.lock(A, first=10, last=19, wait_id=1)
    assert not it.lock(B, inode_id=other, wait_id=1)
    with pytest.raises(FsError) as caught:
        it.lock(C, first=5, last=5, wait_id=1)
    assert caught.value.kind == Kind.DEADLOCK
    assert not it.lock(C, first=5, last=5)  # asking without waiting is none
    it.unlock(C, inode_id=other)
    assert not it.lock(C, first=5, last=5, wait_id=2)  # nor is a wait that can end


def test_the_end_of_a_client_frees_its_locks_and_waits() -> None:
    it = Locking()
    assert it.lock(A)
    assert not it.lock(B, wait_id=1)
    assert not it.lock(C, wait_id=1)
    it.world.cluster.alive = {C}
    it.world.collect()
    assert it.waits(C, 1)  # on the second pass in a row, not before
    it.world.collect()
    assert not it.waits(C, 1)
    it.unlock(C)
    assert it.records() == 0


def test_a_retry_is_the_same_request_also_after_an_unknown_commit() -> None:
    it = Locking(Faults(unknown_applied=0.5, conflict=0.2))
    for _ in range(20):
        assert it.lock(A)
        assert not it.lock(B, wait_id=1)
        it.unlock(A)
        it.unlock(B)
    assert it.records() == 0


def test_locks_of_a_file_have_a_bound() -> None:
    it = Locking()
    for number in range(LOCKS_PER_FILE_MAX):
        assert it.lock(A, first=2 * number, last=2 * number)
    with pytest.raises(FsError) as caught:
        it.lock(B, first=2 * LOCKS_PER_FILE_MAX, last=2 * LOCKS_PER_FILE_MAX)
    assert caught.value.kind == Kind.NO_LOCKS
    it.unlock(A)
    assert it.records() == 0


def test_malformed_ranges_are_refused() -> None:
    it = Locking()
    for first, last, flock in ((5, 4, False), (0, 1 << 63, False), (0, 5, True)):
        with pytest.raises(FsError) as caught:
            it.lock(A, first=first, last=last, flock=flock)
        assert caught.value.kind == Kind.INVALID_ARGUMENT
