"""Many writes in one call, each with a result of its own (reads: client/batch_reads.py).

Layer: shell. They go through the files' write buffers as any other, and are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

from luciole.client.native.file import Data
from luciole.client.session import Client
from luciole.errors import FsError

Write = tuple[int, int, memoryview]  # handle, offset, bytes


def as_bytes(data: Data) -> memoryview:
    """Any contiguous buffer as one dimension of bytes."""
    if isinstance(data, memoryview) and data.format == "B" and data.ndim == 1:
        return data
    return memoryview(data).cast("B")


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
