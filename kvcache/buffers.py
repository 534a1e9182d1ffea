"""Memory of callers: whatever has the buffer protocol, in one piece or many, without a copy.

Layer: shell. A block's buffer is one object or a sequence of them (a view for each layer, say); its
bytes are those of the views, end to end.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from luciole.checksum import BLOCK_SIZE, block_checksums, crc32c
from luciole.errors import FsError, Kind

# An object with the buffer protocol, a CPU tensor of torch, or a sequence of such. Python has no
# type for the protocol before 3.12, and torch's tensors lack it.
BlockBuffer = Any


def views_of(buffer: BlockBuffer, *, writable: bool = False) -> list[memoryview]:
    """The memory of a block as flat views of bytes. Raises FsError INVALID_ARGUMENT."""
    parts = buffer if isinstance(buffer, list | tuple) else [buffer]
    return [_view(part, writable=writable) for part in parts]


def _view(part: Any, *, writable: bool) -> memoryview:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(part, torch.Tensor):
        if part.device.type != "cpu" or not part.is_contiguous():
            raise FsError(Kind.INVALID_ARGUMENT, "a tensor must be contiguous and in the memory "
                          "of the CPU (pinned, at best)", str(part.device))
        part = part.detach().reshape(-1).view(torch.uint8).numpy()
    try:
        view = memoryview(part).cast("B")
    except (TypeError, ValueError) as failure:
        raise FsError(Kind.INVALID_ARGUMENT, f"not a contiguous buffer: {failure}",
                      type(part).__name__) from failure
    if writable and view.readonly:
        raise FsError(Kind.INVALID_ARGUMENT, "the buffer cannot be written: give a bytearray or "
                      "an array", type(part).__name__)
    return view


def size_of(views: Sequence[memoryview]) -> int:
    """Bytes of a block's memory."""
    return len(views[0]) if len(views) == 1 else sum(map(len, views))


def checksums_over(offset: int, views: Sequence[memoryview]) -> list[int]:
    """As `block_checksums`, for bytes in several pieces that lie at `offset` of their block."""
    if len(views) == 1:
        return block_checksums(offset, views[0])
    found: list[int] = []
    position = offset
    for whole in views:
        view = whole
        while len(view):
            step = min(len(view), BLOCK_SIZE - position % BLOCK_SIZE)
            if position % BLOCK_SIZE and found:
                found[-1] = crc32c(view[:step], found[-1])
            else:
                found.append(crc32c(view[:step]))
            view = view[step:]
            position += step
    return found


def copy_into(source: memoryview, views: Sequence[memoryview]) -> None:
    """Fills `views`, which together are as long as `source`."""
    at = 0
    for view in views:
        view[:] = source[at : at + len(view)]
        at += len(view)
