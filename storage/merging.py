"""What a merge writes: runs of bytes laid over what the chunk holds, as one update.

Layer: shell. A MERGE becomes a WRITE of its whole range before it is ordered; replicas behind the
head see only that. The caller holds the chunk's lock from before the look at what is there until
the update is ordered, so nothing that came in between is undone.
"""

from __future__ import annotations

from collections.abc import Iterator

from luciole.checksum import block_checksums
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.storage.engine.checks import verify_data
from luciole.storage.engine.interface import ChunkEngine, Update


def runs_problem(io: storage_pb2.WriteIO) -> str:
    """What is wrong with the runs of an update, or nothing."""
    if io.kind != storage_pb2.MERGE:
        return "runs belong to a merge alone" if io.runs else ""
    if not io.runs or len(io.runs) % 2:
        return "a merge has one run at least, each of two numbers"
    end = -1
    for begin, size in _pairs(io):
        if begin <= end or not size:
            return "the runs of a merge are not empty, in order and apart"
        end = begin + size
    if io.runs[0] or end != io.length:
        return "the runs of a merge reach from its first byte to its last"
    return ""


def _pairs(io: storage_pb2.WriteIO) -> Iterator[tuple[int, int]]:
    return zip(io.runs[::2], io.runs[1::2], strict=True)


async def merge(
    engine: ChunkEngine, io: storage_pb2.WriteIO, data: memoryview, held: int
) -> memoryview:
    """Turns a MERGE, in place, into the WRITE that it means; returns the bytes of that.

    Args:
        engine: has the chunk, of which no version is pending.
        io: an update without `runs_problem`.
        data: its bytes; those between the runs do not matter.
        held: bytes that the chunk has; what lies behind them reads as zeros.

    Raises FsError CHECKSUM_MISMATCH if `data` or what is there is damaged.
    """
    verify_data(io.chunk_id, Update(
        io.kind, io.offset, io.length, io.chunk_size, tuple(io.checksums), None), data)
    merged = memoryview(bytearray(io.length))
    if held > io.offset:
        outcome = await engine.read(io.chunk_id, io.offset, merged)
        if outcome.length != min(io.length, held - io.offset):
            raise FsError(Kind.BUSY, "the chunk has changed under its lock", io.chunk_id.hex())
    for begin, size in _pairs(io):
        merged[begin : begin + size] = data[begin : begin + size]
    io.kind = storage_pb2.WRITE
    io.checksums[:] = block_checksums(io.offset, merged)
    io.ClearField("runs")
    return merged.toreadonly()
