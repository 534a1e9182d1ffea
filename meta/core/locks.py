"""The locks of all clients: one record for each file that has any.

Layer: pure. The record of a file holds its locks and the queue of those who wait. Whatever frees a
range also grants, in the same transaction and in the order of the queue, all waits that nothing
blocks any more; so a lock is never free while somebody waits for it, and who waits only looks
whether he is still in the queue. As on Linux, a lock that nobody holds is given to whoever asks,
also past those who wait for a larger range or another type.

Two indexes are kept with the record: the files on which a client has locks or waits, so that a dead
client's are found, and the waits of each owner of POSIX locks, which make the graph that is
searched for cycles before anybody waits. Two waits that close a cycle at the same time read each
other's place in the index, so that one of them is judged again. Locks of flock take no part in the
search, as on Linux.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind, require
from luciole.kv.interface import Transaction, prefix_end
from luciole.meta.core import inodes, schema
from luciole.meta.core.lock_ranges import (
    Owner,
    added,
    blockers,
    check,
    owner_of,
    without,
)
from luciole.proto import common_pb2, meta_pb2

LOCKS_PER_FILE_MAX = 1024  # of at most 80 bytes: a record stays below the store's 100 kB
OWNERS_SEARCHED_MAX = 64


async def acquire(txn: Transaction, request: meta_pb2.LockRequest) -> meta_pb2.LockReply:
    """Takes a lock; or says what is in the way, and queues if asked to.

    As flock(2) says, a conversion that cannot be granted at once has given up the old lock. Raises
    FsError DEADLOCK when the wait would not end, NO_LOCKS when the file has too many.
    """
    inode = await inodes.load_record(txn, request.inode_id)
    locks = await _load(txn, request.inode_id)
    wanted = request.lock
    wanted.client_id = request.request_id.client_id
    check(wanted)
    before = _copy(locks)
    in_the_way = blockers(locks.held, wanted)
    if not in_the_way:
        _replace_held(locks, added(locks.held, wanted))
    elif wanted.flock:
        _replace_held(locks, without(locks.held, wanted))
    elif request.wait and await _would_deadlock(txn, wanted, in_the_way):
        raise FsError(Kind.DEADLOCK, "whoever holds the lock waits for the one who asks for it",
                      f"inode {request.inode_id}")
    if in_the_way and request.wait:
        locks.waiting.append(wanted)
    _grant(locks)
    require(len(locks.held) + len(locks.waiting) <= LOCKS_PER_FILE_MAX, Kind.NO_LOCKS,
            f"a file has at most {LOCKS_PER_FILE_MAX} locks and waits", f"inode {request.inode_id}")
    _store(txn, request.inode_id, before, locks)
    return meta_pb2.LockReply(
        granted=not in_the_way, inode=inode, blocker=in_the_way[0] if in_the_way else None)


async def release(txn: Transaction, request: meta_pb2.UnlockRequest) -> common_pb2.Empty:
    """Gives up what an owner holds in a range. Nothing there is no error."""
    locks = await _load(txn, request.inode_id)
    request.lock.client_id = request.request_id.client_id
    check(request.lock)
    before = _copy(locks)
    _replace_held(locks, without(locks.held, request.lock))
    _grant(locks)
    _store(txn, request.inode_id, before, locks)
    return common_pb2.Empty()


async def test(txn: Transaction, request: meta_pb2.TestLockRequest) -> meta_pb2.LockReply:
    """Whether a lock could be taken now, else what is in the way."""
    check(request.lock)
    locks = await _load(txn, request.inode_id)
    in_the_way = blockers(locks.held, request.lock)
    return meta_pb2.LockReply(
        granted=not in_the_way, blocker=in_the_way[0] if in_the_way else None)


def still_waits(record: bytes | None, request: meta_pb2.AwaitLockRequest) -> bool:
    """Whether the record of a file (its value, None: no record) has the wait in its queue."""
    return any(
        wait.wait_id == request.wait_id and wait.client_id == request.client_id
        for wait in _decode(record, request.inode_id).waiting)


async def withdraw(
    txn: Transaction, request: meta_pb2.CancelLockRequest
) -> meta_pb2.CancelLockReply:
    """Ends a wait, unless it was granted or never came."""
    locks = await _load(txn, request.inode_id)
    before = _copy(locks)
    client_id = request.request_id.client_id
    left = [wait for wait in locks.waiting
            if (wait.client_id, wait.wait_id) != (client_id, request.wait_id)]
    withdrawn = len(left) < len(locks.waiting)
    if withdrawn:
        _replace_waiting(locks, left)
        _store(txn, request.inode_id, before, locks)
    return meta_pb2.CancelLockReply(withdrawn=withdrawn)


async def drop_client(txn: Transaction, client_id: bytes, limit: int) -> int:
    """Ends all locks and waits of a client on up to `limit` files; returns on how many."""
    prefix = schema.CLIENT_LOCKS + client_id
    rows = await txn.get_range(prefix, prefix_end(prefix), limit=limit)
    for row in rows:
        inode_id = int.from_bytes(row.key[len(prefix):], "little")
        locks = await _load(txn, inode_id)
        before = _copy(locks)
        _replace_held(locks, [lock for lock in locks.held if lock.client_id != client_id])
        _replace_waiting(locks, [wait for wait in locks.waiting if wait.client_id != client_id])
        _grant(locks)
        _store(txn, inode_id, before, locks)
        txn.clear(row.key)
    return len(rows)


async def _would_deadlock(
    txn: Transaction, wanted: meta_pb2.FileLock, in_the_way: list[meta_pb2.FileLock]
) -> bool:
    """Whether one of those who are in the way waits, through any number of others, for the asker.

    Depth-first search of the graph of waits. Beyond its bound a cycle is not found, as on Linux.
    """
    asker = owner_of(wanted)
    seen: set[Owner] = set()
    pending = [owner_of(lock) for lock in in_the_way]
    while pending and len(seen) < OWNERS_SEARCHED_MAX:
        owner = pending.pop()
        if owner == asker:
            return True
        if owner in seen:
            continue
        seen.add(owner)
        prefix = schema.waits_prefix(*owner)
        for row in await txn.get_range(prefix, prefix_end(prefix)):
            inode_id, wait_id = (
                int.from_bytes(row.key[at:at + 8], "little")
                for at in (len(prefix), len(prefix) + 8))
            locks = await _load(txn, inode_id)
            for wait in locks.waiting:
                if (owner_of(wait), wait.wait_id) == (owner, wait_id):
                    pending += [owner_of(lock) for lock in blockers(locks.held, wait)]
    return False


def _grant(locks: meta_pb2.FileLocks) -> None:
    """Grants what nothing blocks, the first in the queue first."""
    granted = True
    while granted:
        granted = False
        for wait in locks.waiting:
            if not blockers(locks.held, wait):
                _replace_held(locks, added(locks.held, wait))
                locks.waiting.remove(wait)
                granted = True  # it may have made a lock of its owner weaker
                break


def _replace_held(locks: meta_pb2.FileLocks, held: list[meta_pb2.FileLock]) -> None:
    held = [_copied(lock) for lock in held]
    del locks.held[:]
    locks.held.extend(held)


def _replace_waiting(locks: meta_pb2.FileLocks, waiting: list[meta_pb2.FileLock]) -> None:
    waiting = [_copied(wait) for wait in waiting]
    del locks.waiting[:]
    locks.waiting.extend(waiting)


def _copied(lock: meta_pb2.FileLock) -> meta_pb2.FileLock:
    copy = meta_pb2.FileLock()
    copy.CopyFrom(lock)
    return copy


def _copy(locks: meta_pb2.FileLocks) -> meta_pb2.FileLocks:
    copy = meta_pb2.FileLocks()
    copy.CopyFrom(locks)
    return copy


async def _load(txn: Transaction, inode_id: int) -> meta_pb2.FileLocks:
    return _decode(await txn.get(schema.locks_key(inode_id)), inode_id)


def _decode(value: bytes | None, inode_id: int) -> meta_pb2.FileLocks:
    if value is None:
        return meta_pb2.FileLocks()
    return schema.decode(value, meta_pb2.FileLocks, f"locks of inode {inode_id}")


def _store(
    txn: Transaction, inode_id: int, before: meta_pb2.FileLocks, after: meta_pb2.FileLocks
) -> None:
    """Writes the record, or removes it when it is empty, and brings the indexes up to date."""
    if before == after:
        return
    if after.held or after.waiting:
        txn.set(schema.locks_key(inode_id), schema.encode(after))
    else:
        txn.clear(schema.locks_key(inode_id))
    old, new = _index_keys(inode_id, before), _index_keys(inode_id, after)
    for key in old - new:
        txn.clear(key)
    for key in new - old:
        txn.set(key, b"")


def _index_keys(inode_id: int, locks: meta_pb2.FileLocks) -> set[bytes]:
    every = [*locks.held, *locks.waiting]
    keys = {schema.client_locks_key(lock.client_id, inode_id) for lock in every}
    for wait in locks.waiting:
        if not wait.flock:
            keys.add(schema.wait_key(wait.client_id, wait.owner, inode_id, wait.wait_id))
    return keys
