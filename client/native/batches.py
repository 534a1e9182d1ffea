"""Many reads or writes in one call, each with a result of its own.

Layer: shell. Reads of all files of a batch travel together (client/remote/packed.py). Writes go
through the files' write buffers as any other, and are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.client.files import found_hole
from luciole.client.native.file import Data
from luciole.client.remote.packed import Wanted
from luciole.client.session import Client
from luciole.errors import FsError
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2

Read = tuple[int, int, memoryview]  # handle, offset, where the bytes go (one dimension of bytes)
Write = tuple[int, int, memoryview]  # handle, offset, bytes


def as_bytes(data: Data) -> memoryview:
    """Any contiguous buffer as one dimension of bytes."""
    if isinstance(data, memoryview) and data.format == "B" and data.ndim == 1:
        return data
    return memoryview(data).cast("B")


async def read_many(client: Client, reads: Sequence[Read]) -> list[int | FsError]:
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
                file = client.operations.file_to_read(handle)
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
    failures = await client.packed.read(wanted)
    for number, failed in failures.items():
        results[owners[number]] = failed
    for number in beginnings:
        _, offset, data = wanted[number]
        if number not in failures and found_hole(offset, data):
            owner = owners[number]
            results[owner] = await _read_again(client, *reads[owner])
    return results


async def _read_again(
    client: Client, handle: int, offset: int, view: memoryview
) -> int | FsError:
    """Reads what may be inline by now."""
    try:
        return len(await client.operations.read(handle, offset, len(view), view))
    except FsError as failure:
        return failure


async def write_many(client: Client, writes: Sequence[Write]) -> list[int | FsError]:
    """Writes all, and returns when they are on every replica: each one's bytes, or its failure.

    A failure that a file's write buffer finds later is that of each of the file's writes here.
    """
    results: list[int | FsError] = []
    for handle, offset, view in writes:
        try:
            # Nobody changes the memory before this returns, so it is sent from where it lies.
            results.append(await client.operations.write(handle, offset, view.toreadonly()))
        except FsError as failure:
            results.append(failure)
    for handle in dict.fromkeys(handle for handle, _, _ in writes):
        try:
            await client.operations.settle(handle)
        except FsError as failure:
            for number, write in enumerate(writes):
                if write[0] == handle:
                    results[number] = failure
    return results
