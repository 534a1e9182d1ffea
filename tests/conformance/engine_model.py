"""What a `ChunkEngine` must hold after any sequence of calls: a dict of bytes, and a comparison.

Knows nothing of blocks, files or records, so that it can judge every engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from luciole.checksum import BLOCK_SIZE, block_checksums, crc32c
from luciole.proto import storage_pb2
from luciole.runtime import drive
from luciole.storage.engine.interface import (
    ChunkEngine,
    ChunkState,
    ReadOutcome,
    Tag,
    Update,
    Version,
)

WRITE = int(storage_pb2.WRITE)
TRUNCATE = int(storage_pb2.TRUNCATE)
REPLACE = int(storage_pb2.REPLACE)
REMOVE = int(storage_pb2.REMOVE)
PUNCH = int(storage_pb2.PUNCH)
MIB = 1024 * 1024
KIB = 1024


def chunk_name(number: int) -> bytes:
    """A chunk id; ids sort as their numbers do."""
    return number.to_bytes(16, "big")


def pattern(seed: int, length: int) -> bytes:
    """Bytes that differ for every seed."""
    return random.Random(seed).randbytes(length)


def write(
    offset: int, data: bytes | bytearray, *, size: int = MIB, tag: Tag | None = None
) -> Update:
    """A WRITE with right checksums."""
    checksums = tuple(block_checksums(offset, memoryview(data)))
    return Update(WRITE, offset, len(data), size, checksums, tag)


def replace(data: bytes, *, size: int = MIB, tag: Tag | None = None) -> Update:
    """A REPLACE with right checksums."""
    checksums = tuple(block_checksums(0, memoryview(data)))
    return Update(REPLACE, 0, len(data), size, checksums, tag)


def truncate(length: int, *, size: int = MIB) -> Update:
    """A TRUNCATE."""
    return Update(TRUNCATE, 0, length, size)


def punch(offset: int, length: int, *, size: int = MIB, tag: Tag | None = None) -> Update:
    """A PUNCH."""
    return Update(PUNCH, offset, length, size, (), tag)


def remove(*, size: int = MIB, tag: Tag | None = None) -> Update:
    """A REMOVE."""
    return Update(REMOVE, 0, 0, size, (), tag)


def after(content: bytes, update: Update, data: bytes) -> bytes | None:
    """The model: what a chunk's content is after an update; None: removed."""
    if update.kind == REMOVE:
        return None
    if update.kind == REPLACE:
        return data
    if update.kind == PUNCH:
        end = update.offset + update.length
        if end >= len(content):
            return content[: update.offset] if update.length else content
        return content[: update.offset] + bytes(update.length) + content[end:]
    if update.kind == TRUNCATE:
        return content[: update.length].ljust(update.length, b"\0")
    if not data:
        return content
    end = update.offset + len(data)
    return content[: update.offset].ljust(update.offset, b"\0") + data + content[end:]


@dataclass
class Driver:
    """An engine with its methods called to their end, and bytes in place of buffers."""

    engine: ChunkEngine

    def stage(
        self, chunk: bytes, version: int, update: Update, data: bytes | bytearray = b""
    ) -> Version:
        return drive(self.engine.stage(chunk, version, update, memoryview(data)))

    def commit(self, chunk: bytes, version: int) -> Version:
        return drive(self.engine.commit(chunk, version))

    def put(
        self, chunk: bytes, version: int, update: Update, data: bytes | bytearray = b""
    ) -> Version:
        """Stages and commits."""
        self.stage(chunk, version, update, data)
        return self.commit(chunk, version)

    def abandon(self, chunk: bytes) -> None:
        drive(self.engine.abandon(chunk))

    def state(self, chunk: bytes) -> ChunkState | None:
        return drive(self.engine.state(chunk))

    def read_outcome(
        self, chunk: bytes, offset: int, length: int, *, pending: bool = False
    ) -> tuple[bytes, ReadOutcome]:
        buffer = bytearray(b"\xee" * length)
        outcome = drive(self.engine.read(chunk, offset, memoryview(buffer), pending=pending))
        assert bytes(buffer[outcome.length :]) == b"\xee" * (length - outcome.length)
        data = bytes(buffer[: outcome.length])
        assert list(outcome.checksums) == block_checksums(offset, memoryview(data))
        return data, outcome

    def read(
        self, chunk: bytes, offset: int = 0, length: int = MIB, *, pending: bool = False
    ) -> bytes:
        return self.read_outcome(chunk, offset, length, pending=pending)[0]

    def sync(self) -> None:
        drive(self.engine.sync())


@dataclass
class Expected:
    """The model of one chunk: (version, content) committed and pending; content None: removed."""

    committed: tuple[int, bytes] | None = None
    pending: tuple[int, bytes | None] | None = None


@dataclass
class Model:
    """What a store must hold: a dict of bytes, no blocks, no files."""

    chunks: dict[bytes, Expected] = field(default_factory=dict)

    def stage(self, chunk: bytes, version: int, update: Update, data: bytes) -> None:
        expected = self.chunks.setdefault(chunk, Expected())
        content = expected.committed[1] if expected.committed else b""
        expected.pending = (version, after(content, update, data))

    def commit(self, chunk: bytes) -> None:
        expected = self.chunks[chunk]
        assert expected.pending is not None
        version, content = expected.pending
        expected.committed = None if content is None else (version, content)
        expected.pending = None
        self._tidy(chunk)

    def abandon(self, chunk: bytes) -> None:
        if chunk in self.chunks:
            self.chunks[chunk].pending = None
            self._tidy(chunk)

    def remove_range(self, begin: bytes, end: bytes) -> int:
        doomed = [chunk for chunk in self.chunks if begin <= chunk < end]
        for chunk in doomed:
            del self.chunks[chunk]
        return len(doomed)

    def check(self, driver: Driver, chunks: list[bytes]) -> None:
        """Compares every chunk, whole, byte for byte, with what the engine says and reads."""
        for chunk in chunks:
            check_chunk(driver, chunk, self.chunks.get(chunk))
        listed, more = drive(driver.engine.list(b"", None, 1000))
        assert not more
        assert [state.chunk_id for state in listed] == sorted(self.chunks)
        assert drive(driver.engine.space()).chunks == len(self.chunks)

    def _tidy(self, chunk: bytes) -> None:
        if self.chunks[chunk] == Expected():
            del self.chunks[chunk]


def check_clean(driver: Driver, chunk: bytes, expected: Expected | None) -> None:
    """What is read at once is the committed version, and never one beside a pending one."""
    clean = expected is not None and expected.committed is not None and expected.pending is None
    content = expected.committed[1] if expected and expected.committed else b""
    for offset, size in ((0, 100), (BLOCK_SIZE - 50, 100), (0, 2 * BLOCK_SIZE), (77, len(content))):
        buffer = bytearray(size)
        found = driver.engine.read_clean([(chunk, offset, size)], [memoryview(buffer)])[0]
        assert found == (len(content[offset : offset + size]) if clean else None)
        assert bytes(buffer[: found or 0]) == (content[offset : offset + size] if clean else b"")


def check_chunk(driver: Driver, chunk: bytes, expected: Expected | None) -> None:
    """The engine's two versions of a chunk are the expected ones, byte for byte."""
    state = driver.state(chunk)
    check_clean(driver, chunk, expected)
    if expected is None:
        assert state is None
        return
    assert state is not None
    assert (state.committed is None) == (expected.committed is None)
    if expected.committed is not None and state.committed is not None:
        version, content = expected.committed
        assert (state.committed.number, state.committed.length) == (version, len(content))
        assert driver.read(chunk, 0, len(content) + 10) == content
        packed = b"".join(
            value.to_bytes(4, "little") for value in block_checksums(0, memoryview(content))
        )
        assert state.checksum == crc32c(packed)
    assert (state.pending is None) == (expected.pending is None)
    if expected.pending is not None and state.pending is not None:
        number, pending_content = expected.pending
        assert state.pending.number == number
        assert state.pending.removed == (pending_content is None)
        if pending_content is not None:
            assert state.pending.length == len(pending_content)
            length = len(pending_content) + 10
            assert driver.read(chunk, 0, length, pending=True) == pending_content


NEAR_BLOCKS = st.one_of(
    st.sampled_from([0, 1, 4096, 65535, 65536, 65537, 131071, 131072, 131073, 262144]),
    st.integers(0, 300_000),
)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(0, 2), NEAR_BLOCKS, NEAR_BLOCKS, st.integers(0, 1000)
    ),
    max_size=30,
)

A = chunk_name(1)
B = chunk_name(2)


Reopen = Callable[[Driver], Driver]


def run_steps(driver: Driver, steps: list[tuple[int, ...]], reopen: Reopen) -> Driver:
    """Runs random steps on the engine and on the model and compares after each.

    Args:
        driver: an empty engine.
        steps: (what, chunk, offset, length, seed), any numbers.
        reopen: closes the engine, or kills it, and opens it again.
    """
    model = Model()
    chunks = [chunk_name(number) for number in range(3)]
    large = pattern(0, 300_000)  # so that there is something to patch
    driver.put(chunks[0], 1, replace(large), large)
    model.stage(chunks[0], 1, replace(large), large)
    model.commit(chunks[0])
    for version, (what, which, offset, length, seed) in enumerate(steps, start=2):
        chunk = chunks[which % len(chunks)]
        expected = model.chunks.get(chunk, Expected())
        if what < 12 or what > 16:
            update, data = _random_update(what, expected, offset, length, seed)
            driver.stage(chunk, version, update, data)
            model.stage(chunk, version, update, data)
            if 6 <= what < 12 or what > 18:
                driver.commit(chunk, version)
                model.commit(chunk)
        elif what == 12 and expected.pending is not None:
            driver.commit(chunk, expected.pending[0])
            model.commit(chunk)
        elif what == 13:
            driver.abandon(chunk)
            model.abandon(chunk)
        elif what == 14:
            driver.sync()
        elif what == 15:
            driver = reopen(driver)
        elif what == 16:
            removed, more = drive(driver.engine.remove_range(chunks[0], chunk, 100))
            assert (removed, more) == (model.remove_range(chunks[0], chunk), False)
        check_chunk(driver, chunk, model.chunks.get(chunk))
    model.check(driver, chunks)
    return driver


def _random_update(
    what: int, expected: Expected, offset: int, length: int, seed: int
) -> tuple[Update, bytes]:
    kind = (WRITE, WRITE, PUNCH, WRITE, TRUNCATE, REPLACE, REMOVE)[what % 7] if what < 12 else WRITE
    if what > 16:  # small, so that most overwrites become patches
        length = length % 5000 + 1
    committed = len(expected.committed[1]) if expected.committed else 0
    offset = committed if seed % 3 == 0 else offset
    offset = min(offset, MIB)
    length = min(length, MIB - offset)
    if kind == REMOVE:
        return remove(), b""
    if kind == TRUNCATE:
        return truncate(length), b""
    if kind == PUNCH:
        return punch(offset, length), b""
    data = pattern(seed, length)
    return (replace(data) if kind == REPLACE else write(offset, data)), data
