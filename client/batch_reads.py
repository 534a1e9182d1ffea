"""Many reads of open files in one call, each with a result of its own.

Layer: shell. Reads of all files of a batch travel together (client/remote/packed.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.client.files import found_hole
from luciole.client.operations import Operations
from luciole.client.remote.packed import Wanted
from luciole.errors import FsError
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2

Read = tuple[int, int, memoryview]  # handle, offset, where the bytes go (one dimension of bytes)


async def read_many(operations: Operations, reads: Sequence[Read]) -> list[int | FsError]:
    """Fills all buffers; how many bytes each got, fewer at the end of its file, or its failure."""
    results: list[int | FsError] = []
    wanted: list[Wanted] = []
    owners: list[int] = []
    beginnings: list[int] = []  # of `wanted`, which may lie in the inline part by now
    known: dict[int, tuple[meta_pb2.Inode, int]] = {}  # handle -> its file, readable up to there
    for owner, (handle, offset, view) in enumerate(reads):
        size, room = len(view), view
        found = known.get(handle)
        if found is None or offset + size > found[1]:
            try:
                file = operations.file_to_read(handle)
                if file.reads_inline(offset):
                    results.append(len(await file.read(offset, size, view)))
                    continue
                size = await file.readable(offset, size)
            except FsError as failure:
                results.append(failure)
                continue
            found = known[handle] = file.inode, file.length
            room = view[:size]
        results.append(size)
        if size:
            if offset < INLINE_BYTES_MAX:
                beginnings.append(len(wanted))
            wanted.append((found[0], offset, room))
            owners.append(owner)
    failures = await operations.packed.read(wanted)
    for number, failed in failures.items():
        results[owners[number]] = failed
    for number in beginnings:
        _, offset, data = wanted[number]
        if number not in failures and found_hole(offset, data):
            owner = owners[number]
            results[owner] = await _read_again(operations, *reads[owner])
    return results


async def _read_again(
    operations: Operations, handle: int, offset: int, view: memoryview
) -> int | FsError:
    """Reads what may be inline by now."""
    try:
        return len(await operations.read(handle, offset, len(view), view))
    except FsError as failure:
        return failure
