"""The parts under the engines that a whole engine shows only after rare accidents."""

from __future__ import annotations

import threading

import pytest

from luciole.checksum import BLOCK_SIZE, block_checksums
from luciole.errors import FsError, Kind
from luciole.group_flush import GroupFlush
from luciole.storage.engine.allocator import Allocator
from luciole.storage.engine.blockmath import (
    append_data,
    append_zeros,
    class_bytes,
    class_for,
    pack,
)
from luciole.storage.engine.memory import MemoryDisk, MemoryStore
from luciole.storage.engine.ports import Batch
from luciole.storage.engine.records import (
    Block,
    Record,
    StoredVersion,
    chunk_key,
    decode_record,
    encode_record,
    undo_key,
)
from luciole.storage.engine.recovery import settle_last_epoch

A = bytes(16)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 0), (65536, 0), (65537, 1), (131072, 1), (131073, 2), (1 << 20, 4), (64 << 20, 10)],
)
def test_the_smallest_class_that_holds_a_length(length: int, expected: int) -> None:
    assert class_for(length) == expected
    assert class_bytes(expected) >= length


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 70000])
@pytest.mark.parametrize("zeros", [0, 1, 65536, 200_000])
def test_checksums_continue_over_zeros_and_data(length: int, zeros: int) -> None:
    content = bytes(range(251)) * 300
    content = content[:length]
    data = b"z" * 100_000
    checksums = block_checksums(0, memoryview(content))
    append_zeros(checksums, length, zeros)
    verified = block_checksums(length + zeros, memoryview(data))
    append_data(checksums, length + zeros, memoryview(data), verified)
    assert checksums == block_checksums(0, memoryview(content + bytes(zeros) + data))


def test_a_freed_block_waits_for_two_flushes() -> None:
    allocator = Allocator(None)
    block, _ = allocator.allocate(0, fresh=True)
    allocator.retire([block])
    assert allocator.used == BLOCK_SIZE
    allocator.end_flush(allocator.begin_flush())
    assert allocator.allocate(0, fresh=True)[0] != block
    allocator.end_flush(allocator.begin_flush())
    assert allocator.allocate(0, fresh=False)[0] == block


def test_a_block_claimed_twice_is_refused() -> None:
    with pytest.raises(FsError) as raised:
        Allocator(None).restore([Block(3, 5), Block(3, 5)])
    assert raised.value.kind == Kind.INTERNAL


@pytest.mark.parametrize(("damaged", "expected"), [((), 3), ((3,), 2), ((3, 2), 1)])
def test_recovery_takes_the_newest_version_whose_bytes_verify(
    damaged: tuple[int, ...], expected: int
) -> None:
    store, disk = MemoryStore(), MemoryDisk(1 << 30)
    values = {}
    for number in (1, 2, 3):
        block = Block(0, number)
        data = bytes([number]) * 100
        disk.prepare(block, hole=False)
        disk.write(block, 0, [memoryview(data)])
        checksums = pack(block_checksums(0, memoryview(data)))
        version = StoredVersion(number, 100, block=block, written=100, checksums=checksums)
        values[number] = encode_record(Record(version, None))
        if number in damaged:
            disk.flip(block, 50)
    batch = Batch()
    batch.put(undo_key(8, A), values[1])
    batch.put(undo_key(9, A), values[2])
    batch.put(chunk_key(A), values[3])
    store.write(batch)
    assert settle_last_epoch(store, disk) == (1 if damaged else 0)
    committed = decode_record(store.get(chunk_key(A)) or b"").committed
    assert committed is not None
    assert committed.number == expected
    assert list(store.scan(b"u", b"v")) == []


def test_a_caller_waits_for_a_flush_that_began_after_its_call() -> None:
    entered, proceed = threading.Semaphore(0), threading.Semaphore(0)
    flushes: list[int] = []

    def flush() -> None:
        flushes.append(len(flushes))
        entered.release()
        assert proceed.acquire(timeout=10)

    group = GroupFlush(flush)
    threads = [threading.Thread(target=group.wait) for _ in range(6)]
    threads[0].start()
    assert entered.acquire(timeout=10)
    for thread in threads[1:]:
        thread.start()
    proceed.release()
    threads[0].join(10)
    # The five came while flush 0 ran (or after): it does not cover them, one more covers all.
    assert entered.acquire(timeout=10)
    assert any(thread.is_alive() for thread in threads[1:])
    for _ in range(len(threads)):
        proceed.release()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert 2 <= len(flushes) <= len(threads)


def test_a_failed_flush_is_final() -> None:
    calls: list[None] = []

    def flush() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise FsError(Kind.DISK_FAILED, "EIO", "/disk")

    group = GroupFlush(flush)
    for _ in range(2):
        with pytest.raises(FsError) as raised:
            group.wait()
        assert raised.value.kind == Kind.DISK_FAILED
    assert len(calls) == 1
