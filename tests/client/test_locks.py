"""Locks as a client has them: fresh data, lost leases, interrupted waits, answers that are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from luciole.client.handles import Fresh, OpenFlags
from luciole.client.locks import LEASE_PART, WHOLE_FILE, Waiting
from luciole.client.operations import Operations
from luciole.clock import ManualClock, SeededEntropy
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.conformance.kv_subject import wait_until
from luciole.tests.fuse.memory_cluster import MemoryCluster

WHO = common_pb2.Credential(uid=0, gid=0)
ROOT = 1
BOTH = OpenFlags(read=True, write=True)
LEASE_S = 30.0


def lock_of(owner: int, *, write: bool = True, flock: bool = False) -> meta_pb2.FileLock:
    return meta_pb2.FileLock(
        owner=owner, write=write, flock=flock, first=WHOLE_FILE[0], last=WHOLE_FILE[1])


class Two:
    """Two clients that have one file open."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        cluster = MemoryCluster(ThreadRuntime(self.clock, SeededEntropy(1)))
        drive(cluster.start())
        self.one, self.other = (cluster.client(name * 16, None) for name in (b"1", b"2"))
        self.mine, inode = drive(self.one.create(WHO, ROOT, b"f", 0o644, flags=BOTH))
        self.theirs, _ = drive(self.other.open(WHO, inode.inode_id, BOTH))
        self.inode_id = inode.inode_id


def put(operations: Operations, handle: int, content: bytes, offset: int = 0) -> None:
    drive(operations.write(handle, offset, memoryview(content)))


def get(operations: Operations, handle: int) -> bytes:
    return bytes(drive(operations.read(handle, 0, 100)))


def refused(kind: Kind, call: Callable[[], object]) -> None:
    with pytest.raises(FsError) as caught:
        call()
    assert caught.value.kind == kind


def test_a_lock_shows_what_its_last_holder_wrote_and_tells_when_pages_are_old() -> None:
    two = Two()
    assert drive(two.one.lock(two.mine, lock_of(1))).pages  # what was cached before is unknown
    put(two.one, two.mine, b"first")
    drive(two.one.unlock(two.mine, lock_of(1)))
    assert not drive(two.one.lock(two.mine, lock_of(1))).pages  # its own writes are in its pages
    drive(two.one.unlock(two.mine, lock_of(1)))
    assert drive(two.other.lock(two.theirs, lock_of(1))) == Fresh(pages=True, end=5)
    assert drive(two.other.getattr(two.inode_id)).length == 5
    assert get(two.other, two.theirs) == b"first"
    put(two.other, two.theirs, b"later")  # neither longer nor, by this clock, newer
    drive(two.other.unlock(two.theirs, lock_of(1)))
    assert drive(two.one.lock(two.mine, lock_of(1))).pages


def test_closing_and_releasing_free_locks() -> None:
    two = Two()
    drive(two.one.lock(two.mine, lock_of(1)))
    drive(two.one.lock(two.mine, lock_of(2, flock=True)))
    refused(Kind.LOCKED, lambda: drive(two.other.lock(two.theirs, lock_of(1))))
    drive(two.one.flush(two.mine, 7))  # another process closes
    refused(Kind.LOCKED, lambda: drive(two.other.lock(two.theirs, lock_of(1))))
    drive(two.one.flush(two.mine, 1))
    drive(two.other.lock(two.theirs, lock_of(1)))
    refused(Kind.LOCKED, lambda: drive(two.other.lock(two.theirs, lock_of(1, flock=True))))
    drive(two.one.release(two.mine))
    drive(two.other.lock(two.theirs, lock_of(1, flock=True)))


def test_an_interrupted_wait_leaves_the_queue() -> None:
    two = Two()
    drive(two.one.lock(two.mine, lock_of(1)))
    early = Waiting()
    drive(two.other.locks.interrupt(early))
    refused(Kind.INTERRUPTED, lambda: drive(two.other.lock(two.theirs, lock_of(1), early)))
    late = Waiting()
    failures: list[Kind] = []

    def wait() -> None:
        try:
            drive(two.other.lock(two.theirs, lock_of(2), late))
        except FsError as failure:
            failures.append(failure.kind)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: late.wait_id > 0)  # it has joined the queue
    drive(two.other.locks.interrupt(late))
    thread.join(10)
    assert failures == [Kind.INTERRUPTED]
    drive(two.one.unlock(two.mine, lock_of(1)))
    drive(two.one.lock(two.mine, lock_of(3)))  # nobody was granted it


def test_a_client_out_of_touch_knows_that_its_locks_are_lost() -> None:
    two = Two()
    two.one.locks.extend_lease(two.clock.now(), LEASE_S)
    drive(two.one.lock(two.mine, lock_of(1)))
    put(two.one, two.mine, b"kept")
    two.clock.advance(LEASE_S * LEASE_PART)
    refused(Kind.LOCKS_LOST, lambda: put(two.one, two.mine, b"lost"))
    refused(Kind.LOCKS_LOST, lambda: get(two.one, two.mine))
    refused(Kind.LOCKS_LOST, lambda: drive(two.one.lock(two.mine, lock_of(1))))
    # Heard again, it gives up what it no longer believes in, and still refuses that file.
    two.one.locks.extend_lease(two.clock.now(), LEASE_S)
    drive(two.one.locks.settle())
    drive(two.other.lock(two.theirs, lock_of(1)))
    refused(Kind.LOCKS_LOST, lambda: get(two.one, two.mine))
    # Nothing of what it had buffered comes after the other's writes.
    put(two.other, two.theirs, b"now!")
    drive(two.other.unlock(two.theirs, lock_of(1)))
    refused(Kind.LOCKS_LOST, lambda: drive(two.one.release(two.mine)))
    again, _ = drive(two.one.open(WHO, two.inode_id, BOTH))
    assert get(two.one, again) == b"now!"


def test_a_lapse_that_nobody_looked_at_counts_as_well() -> None:
    two = Two()
    two.one.locks.extend_lease(two.clock.now(), LEASE_S)
    drive(two.one.lock(two.mine, lock_of(1)))
    two.clock.advance(10 * LEASE_S)  # stopped, say
    two.one.locks.extend_lease(two.clock.now(), LEASE_S)
    refused(Kind.LOCKS_LOST, lambda: get(two.one, two.mine))


def test_files_without_locks_do_not_mind_a_lapse() -> None:
    two = Two()
    two.one.locks.extend_lease(two.clock.now(), LEASE_S)
    two.clock.advance(10 * LEASE_S)
    put(two.one, two.mine, b"fine")
    assert get(two.one, two.mine) == b"fine"
