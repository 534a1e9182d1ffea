"""What every `ChunkEngine` keeps. A test module derives from the classes here."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from luciole.checksum import BLOCK_SIZE, crc32c
from luciole.errors import FsError, Kind
from luciole.runtime import drive
from luciole.storage.engine.interface import ReadOutcome, Tag, Update, Version
from luciole.tests.conformance.engine_model import (
    MIB,
    REPLACE,
    WRITE,
    A,
    B,
    Driver,
    Expected,
    after,
    check_chunk,
    chunk_name,
    pattern,
    punch,
    remove,
    replace,
    truncate,
    write,
)


class EngineConformance:
    """Every rule of the interface."""

    @pytest.fixture
    def driver(self) -> Iterator[Driver]:
        raise NotImplementedError

    def test_a_staged_version_is_pending_and_not_committed(self, driver: Driver) -> None:
        data = pattern(1, 1000)
        assert driver.stage(A, 1, write(0, data), data) == Version(1, 1000)
        check_chunk(driver, A, Expected(None, (1, data)))
        with pytest.raises(FsError) as raised:
            driver.read(A)
        assert raised.value.kind == Kind.CHUNK_NOT_FOUND
        assert driver.commit(A, 1) == Version(1, 1000)
        check_chunk(driver, A, Expected((1, data), None))
        with pytest.raises(FsError) as raised:
            driver.read(A, pending=True)
        assert raised.value.kind == Kind.CHUNK_NOT_FOUND

    def test_commit_of_the_committed_version_changes_nothing(self, driver: Driver) -> None:
        data = pattern(1, 1000)
        driver.put(A, 1, write(0, data), data)
        driver.stage(A, 2, truncate(10))
        assert driver.commit(A, 1) == Version(1, 1000)
        check_chunk(driver, A, Expected((1, data), (2, data[:10])))

    def test_commit_of_an_unknown_version_is_refused(self, driver: Driver) -> None:
        data = pattern(1, 10)
        with pytest.raises(FsError) as raised:
            driver.commit(A, 1)
        assert raised.value.kind == Kind.CHUNK_NOT_FOUND
        driver.put(A, 1, write(0, data), data)
        with pytest.raises(FsError) as raised:
            driver.commit(A, 2)
        assert raised.value.kind == Kind.CHUNK_NOT_FOUND

    def test_staging_again_replaces_the_pending_version(self, driver: Driver) -> None:
        first, second = pattern(1, 5000), pattern(2, 3000)
        driver.put(A, 1, write(0, first), first)
        driver.stage(A, 2, write(5000, first), first)
        driver.stage(A, 3, write(5000, second), second)
        check_chunk(driver, A, Expected((1, first), (3, first + second)))
        driver.commit(A, 3)
        check_chunk(driver, A, Expected((3, first + second), None))

    def test_an_abandoned_append_leaves_no_trace(self, driver: Driver) -> None:
        first, second = pattern(1, 5000), pattern(2, 3000)
        driver.put(A, 1, write(0, first), first)
        driver.stage(A, 2, write(5000, second), second)
        driver.abandon(A)
        check_chunk(driver, A, Expected((1, first), None))
        driver.put(A, 2, truncate(9000))
        check_chunk(driver, A, Expected((2, first + bytes(4000)), None))

    def test_abandon_of_a_new_chunk_removes_it(self, driver: Driver) -> None:
        driver.abandon(A)
        driver.stage(A, 1, write(0, b"x"), b"x")
        driver.abandon(A)
        assert driver.state(A) is None
        assert drive(driver.engine.space()).chunks == 0

    @pytest.mark.parametrize("offset", [0, 1, 65535, 65536, 70000, 131072, 200000, 300000])
    @pytest.mark.parametrize("length", [1, 4096, 65536, 70000, 200000])
    def test_a_write_anywhere(self, driver: Driver, offset: int, length: int) -> None:
        base, data = pattern(1, 200_000), pattern(2, length)
        driver.put(A, 1, write(0, base), base)
        driver.stage(A, 2, write(offset, data), data)
        expected = after(base, write(offset, data), data)
        check_chunk(driver, A, Expected((1, base), (2, expected)))
        driver.commit(A, 2)
        for start, size in ((0, 10), (65530, 12), (65536, 65536), (65537, 131072), (130000, 10**6)):
            assert driver.read(A, start, size) == (expected or b"")[start : start + size]

    @pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 131072, 199_999, 200_000])
    def test_shrinking_and_growing_again_reads_zeros(self, driver: Driver, length: int) -> None:
        base = pattern(1, 200_000)
        driver.put(A, 1, write(0, base), base)
        driver.stage(A, 2, truncate(length))
        check_chunk(driver, A, Expected((1, base), (2, base[:length])))
        driver.commit(A, 2)
        data = pattern(3, 100)
        driver.stage(A, 3, write(210_000, data), data)
        grown = base[:length].ljust(210_000, b"\0") + data
        check_chunk(driver, A, Expected((2, base[:length]), (3, grown)))
        driver.put(A, 4, truncate(205_000))
        check_chunk(driver, A, Expected((4, base[:length].ljust(205_000, b"\0")), None))

    @pytest.mark.parametrize(("offset", "length"), [
        (0, 1), (0, 65536), (65536, 65536), (70_000, 100), (60_000, 80_000), (150_000, 50_000),
        (150_000, 90_000), (0, 200_000), (200_000, 10), (300_000, 10), (100, 0),
    ])
    def test_a_punch_leaves_zeros_or_an_end(
        self, driver: Driver, offset: int, length: int
    ) -> None:
        base = pattern(1, 200_000)
        driver.put(A, 1, write(0, base), base)
        driver.stage(A, 2, punch(offset, length))
        expected = after(base, punch(offset, length), b"")
        assert expected is not None
        assert expected.ljust(len(base), b"\0") == (
            base[:offset] + bytes(min(length, max(0, len(base) - offset)))
            + base[offset + length :])
        check_chunk(driver, A, Expected((1, base), (2, expected)))
        driver.commit(A, 2)
        check_chunk(driver, A, Expected((2, expected), None))

    def test_a_punch_up_to_the_end_frees_blocks(self, driver: Driver) -> None:
        base = pattern(1, MIB)
        driver.put(A, 1, write(0, base), base)
        driver.put(A, 2, punch(65536, MIB - 65536))
        state = driver.state(A)
        assert state is not None
        assert state.allocated == 65536

    def test_truncate_makes_a_chunk(self, driver: Driver) -> None:
        driver.put(A, 1, truncate(70_000))
        check_chunk(driver, A, Expected((1, bytes(70_000)), None))

    def test_appends_stay_in_the_smallest_block_that_holds_them(self, driver: Driver) -> None:
        content = b""
        for version in range(1, 40):
            data = pattern(version, 4096)
            driver.put(A, version, write(len(content), data), data)
            content += data
            state = driver.state(A)
            assert state is not None
            smallest = 65536 if len(content) <= 65536 else 131072
            assert state.allocated == max(smallest, 262144 if len(content) > 131072 else 0)
        check_chunk(driver, A, Expected((39, content), None))

    def test_a_pending_append_takes_no_second_block(self, driver: Driver) -> None:
        driver.put(A, 1, write(0, b"a" * 100), b"a" * 100)
        driver.stage(A, 2, write(100, b"b" * 100), b"b" * 100)
        state = driver.state(A)
        assert state is not None
        assert state.allocated == 65536

    def test_small_overwrites_leave_the_rest_where_it_is(self, driver: Driver) -> None:
        content = bytearray(pattern(1, MIB))
        driver.put(A, 1, write(0, content), content)
        numbers = random.Random(5)
        patched: set[int] = set()
        for version in range(2, 80):
            offset = numbers.randrange(MIB - 4096)
            data = pattern(version, numbers.choice([1, 4096]))
            before = bytes(content)
            driver.stage(A, version, write(offset, data), data)
            content[offset : offset + len(data)] = data
            check_chunk(driver, A, Expected((version - 1, before), (version, bytes(content))))
            if version % 5 == 0:
                driver.abandon(A)
                content[:] = before
                driver.stage(A, version, truncate(MIB))
            driver.commit(A, version)
            state = driver.state(A)
            assert state is not None
            assert state.allocated <= MIB + 15 * 65536
            patched.add(state.allocated)
        assert len(patched) > 10  # grows patch by patch, and ends with a copy
        check_chunk(driver, A, Expected((79, bytes(content)), None))

    @pytest.mark.parametrize("end", [131_072, 140_000, 199_999, 200_000])
    def test_a_patched_chunk_grows_and_shrinks(self, driver: Driver, end: int) -> None:
        base = pattern(1, 200_000)
        driver.put(A, 1, write(0, base), base)
        driver.put(A, 2, write(end - 100, b"p" * 100), b"p" * 100)
        driver.put(A, 3, write(65_536, b"q" * 10), b"q" * 10)
        content = base[: end - 100] + b"p" * 100 + base[end:]
        content = content[:65_536] + b"q" * 10 + content[65_546:]
        check_chunk(driver, A, Expected((3, content), None))
        driver.put(A, 4, truncate(end))
        driver.stage(A, 5, write(end, b"r" * 70_000), b"r" * 70_000)
        check_chunk(driver, A, Expected((4, content[:end]), (5, content[:end] + b"r" * 70_000)))
        driver.commit(A, 5)
        driver.put(A, 6, truncate(70_000))
        check_chunk(driver, A, Expected((6, content[:70_000]), None))
        driver.put(A, 7, remove())
        driver.sync()
        driver.sync()
        assert drive(driver.engine.space()).used == 0

    def test_an_empty_write_and_an_empty_chunk(self, driver: Driver) -> None:
        driver.put(A, 1, write(500, b""))
        check_chunk(driver, A, Expected((1, b""), None))
        assert driver.read_outcome(A, 0, 10)[1] == ReadOutcome(0, 1, ())
        driver.put(A, 2, replace(b"abc"), b"abc")
        driver.put(A, 3, write(500, b""))
        check_chunk(driver, A, Expected((3, b"abc"), None))
        driver.put(A, 4, replace(b""))
        check_chunk(driver, A, Expected((4, b""), None))
        state = driver.state(A)
        assert state is not None
        assert state.allocated == 0

    def test_reads_end_where_the_chunk_ends(self, driver: Driver) -> None:
        data = pattern(1, 100_000)
        driver.put(A, 7, write(0, data), data)
        assert driver.read(A, 90_000, 50_000) == data[90_000:]
        assert driver.read_outcome(A, 100_000, 10)[1] == ReadOutcome(0, 7, ())
        assert driver.read_outcome(A, 500_000, 10)[1] == ReadOutcome(0, 7, ())
        assert driver.read_outcome(A, 0, 0)[1] == ReadOutcome(0, 7, ())

    def test_a_chunk_of_64_mib(self, driver: Driver) -> None:
        size = 64 * MIB
        driver.put(A, 1, truncate(size - 10, size=size))
        driver.put(A, 2, write(size - 10, b"0123456789", size=size), b"0123456789")
        assert driver.read(A, size - 12, 100) == b"\0\0" + b"0123456789"
        state = driver.state(A)
        assert state is not None
        assert state.allocated == size

    def test_bytes_that_differ_from_their_checksums_are_refused(self, driver: Driver) -> None:
        data = pattern(1, 200_000)
        driver.put(A, 1, write(0, data), data)
        bad = bytearray(data)
        bad[140_000] ^= 1
        for update in (write(300_000, data), replace(data)):
            with pytest.raises(FsError) as raised:
                driver.stage(A, 2, update, bytes(bad))
            block = (update.offset + 140_000) // BLOCK_SIZE
            assert raised.value.kind == Kind.CHECKSUM_MISMATCH
            assert f"block {block} " in raised.value.message
            assert raised.value.subject == A.hex()
            check_chunk(driver, A, Expected((1, data), None))

    @pytest.mark.parametrize(
        ("chunk", "version", "update", "data"),
        [
            (b"short", 1, write(0, b"x"), b"x"),
            (A, 0, write(0, b"x"), b"x"),
            (A, 1, write(0, b"xy"), b"x"),
            (A, 1, write(MIB - 1, b"xy"), b"xy"),
            (A, 1, write(0, b"x", size=100_000), b"x"),
            (A, 1, write(0, b"x", size=128 * MIB), b"x"),
            (A, 1, Update(WRITE, 0, 1, MIB, ()), b"x"),
            (A, 1, Update(WRITE, -1, 1, MIB, (crc32c(b"x"),)), b"x"),
            (A, 1, Update(REPLACE, 1, 1, MIB, (crc32c(b"x"),)), b"x"),
            (A, 1, Update(9, 0, 0, MIB), b""),
            (A, 1, truncate(MIB + 1), b""),
            (A, 1, truncate(1), b"x"),
            (A, 1, remove(tag=Tag(b"", 1, 1)), b""),
        ],
    )
    def test_updates_that_make_no_sense_are_refused(
        self, driver: Driver, chunk: bytes, version: int, update: Update, data: bytes
    ) -> None:
        with pytest.raises(FsError) as raised:
            driver.stage(chunk, version, update, data)
        assert raised.value.kind == Kind.INVALID_ARGUMENT
        assert drive(driver.engine.space()).chunks == 0

    def test_removal_is_pending_until_committed(self, driver: Driver) -> None:
        data = pattern(1, 1000)
        driver.put(A, 1, write(0, data), data)
        assert driver.stage(A, 2, remove()) == Version(2, 0, removed=True)
        check_chunk(driver, A, Expected((1, data), (2, None)))
        with pytest.raises(FsError) as raised:
            driver.read(A, pending=True)
        assert raised.value.kind == Kind.CHUNK_NOT_FOUND
        assert driver.commit(A, 2) == Version(2, 0, removed=True)
        assert driver.state(A) is None
        driver.sync()
        driver.sync()
        assert drive(driver.engine.space()).used == 0

    def test_removal_of_nothing_and_repair_of_the_same_version(self, driver: Driver) -> None:
        driver.put(A, 1, remove())
        assert driver.state(A) is None
        driver.put(A, 2, replace(b"old"), b"old")
        driver.put(A, 2, replace(b"new"), b"new")
        check_chunk(driver, A, Expected((2, b"new"), None))

    def test_the_channel_remembers_its_last_update(self, driver: Driver) -> None:
        client = b"c" * 16

        def applied() -> tuple[int, bytes, int, int] | None:
            found = drive(driver.engine.applied(client, 3))
            if found is None:
                return None
            return found.sequence, found.chunk_id, found.version, found.length

        first = write(0, b"x" * 10, tag=Tag(client, 3, 5))
        assert driver.stage(A, 1, first, b"x" * 10).tag == Tag(client, 3, 5)
        assert applied() is None
        driver.commit(A, 1)
        assert applied() == (5, A, 1, 10)
        assert drive(driver.engine.applied(client, 4)) is None
        driver.put(B, 9, write(0, b"y" * 20, tag=Tag(client, 3, 6)), b"y" * 20)
        assert applied() == (6, B, 9, 20)
        # Resync brings an older update of the channel: the newer one is not forgotten.
        driver.put(A, 1, replace(b"x" * 10, tag=Tag(client, 3, 5)), b"x" * 10)
        assert applied() == (6, B, 9, 20)
        driver.put(B, 10, remove(tag=Tag(client, 3, 7)))
        assert applied() == (7, B, 10, 0)
        state = driver.state(A)
        assert state is not None
        assert state.committed == Version(1, 10, False, Tag(client, 3, 5))

    def test_list_is_ordered_and_paged(self, driver: Driver) -> None:
        names = [chunk_name(number) for number in (5, 1, 9, 3, 7)]
        for name in names:
            driver.put(name, 1, write(0, name), name)
        driver.stage(chunk_name(4), 1, write(0, b"p"), b"p")

        def listed(begin: bytes, end: bytes | None, limit: int) -> tuple[list[int], bool]:
            states, more = drive(driver.engine.list(begin, end, limit))
            return [int.from_bytes(state.chunk_id, "big") for state in states], more

        assert listed(b"", None, 10) == ([1, 3, 4, 5, 7, 9], False)
        assert listed(b"", None, 6) == ([1, 3, 4, 5, 7, 9], False)
        assert listed(b"", None, 5) == ([1, 3, 4, 5, 7], True)
        assert listed(chunk_name(3), chunk_name(7), 10) == ([3, 4, 5], False)
        assert listed(chunk_name(6), None, 1) == ([7], True)

    def test_remove_range_removes_both_versions(self, driver: Driver) -> None:
        for number in range(1, 10):
            driver.put(chunk_name(number), 1, write(0, b"x"), b"x")
        driver.stage(chunk_name(3), 2, replace(b"y"), b"y")
        assert drive(driver.engine.remove_range(chunk_name(2), chunk_name(6), 3)) == (3, True)
        assert drive(driver.engine.remove_range(chunk_name(2), chunk_name(6), 3)) == (1, False)
        assert drive(driver.engine.remove_range(chunk_name(2), chunk_name(6), 3)) == (0, False)
        states, _ = drive(driver.engine.list(b"", None, 100))
        assert [state.chunk_id[-1] for state in states] == [1, 6, 7, 8, 9]
        driver.sync()
        driver.sync()
        space = drive(driver.engine.space())
        assert (space.chunks, space.used) == (5, 5 * 65536)

    def test_freed_blocks_are_used_again(self, driver: Driver) -> None:
        for version in range(1, 200):
            data = pattern(version, 100)
            driver.put(A, version, replace(data), data)
            if version % 10 == 0:
                driver.sync()
        driver.sync()
        driver.sync()
        assert drive(driver.engine.space()).used == 65536

    def test_close_twice(self, driver: Driver) -> None:
        driver.put(A, 1, write(0, b"x"), b"x")
        driver.engine.close()
        driver.engine.close()


class QuotaConformance:
    """A target that is full. The fixture's engine has a quota of 4 MiB."""

    @pytest.fixture
    def small(self) -> Iterator[Driver]:
        raise NotImplementedError

    def test_a_full_target_serves_all_but_new_blocks(self, small: Driver) -> None:
        data = pattern(1, MIB)
        for number in range(1, 4):
            small.put(chunk_name(number), 1, write(0, data), data)
        small.stage(chunk_name(4), 1, write(0, data), data)
        for update, payload in ((write(0, data), data), (truncate(100), b"")):
            with pytest.raises(FsError) as raised:
                small.stage(chunk_name(5), 1, update, payload)
            assert raised.value.kind == Kind.NO_SPACE
            assert small.state(chunk_name(5)) is None
        with pytest.raises(FsError) as raised:
            small.stage(chunk_name(1), 2, write(10, b"x"), b"x")
        assert raised.value.kind == Kind.NO_SPACE
        assert drive(small.engine.space()).free == 0
        small.commit(chunk_name(4), 1)
        for number in range(1, 5):
            assert small.read(chunk_name(number)) == data
        small.put(chunk_name(2), 2, remove())
        small.put(chunk_name(5), 1, write(0, data), data)
        assert small.read(chunk_name(5)) == data
