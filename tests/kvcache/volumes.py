"""Volumes for tests, and blocks whose content follows from their key."""

from __future__ import annotations

import hashlib
from pathlib import Path

from luciole.checksum import block_checksums
from luciole.clock import ManualClock, SeededEntropy
from luciole.kvcache.volume.disk import LINUX, VolumeDisk
from luciole.kvcache.volume.reading import read_blocks
from luciole.kvcache.volume.volume import Limits, Volume
from luciole.storage.engine.calls import FileCalls

SLAB = 1 << 20
SPACE = 7
NO_LIMIT = Limits(None, 0)


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def content(name: bytes, length: int) -> bytes:
    """The bytes that belong to a key."""
    return hashlib.shake_128(name).digest(length)


def open_volume(
    path: Path, *, calls: FileCalls = LINUX, slabs: int = 4, slab: int = SLAB, boot: str = "first",
    clock: ManualClock | None = None, limits: dict[int, Limits] | None = None,
) -> Volume:
    disk = VolumeDisk.open(path, cluster_id="cluster-a", slab_bytes=slab, calls=calls)
    try:
        volume = Volume(disk, slabs * slab, clock or ManualClock(), SeededEntropy(1), boot)
        volume.configure({SPACE: NO_LIMIT} if limits is None else limits)
    except BaseException:
        disk.close()
        raise
    return volume


def put(volume: Volume, name: bytes, length: int, space: int = SPACE) -> int:
    data = memoryview(content(name, length))
    return volume.put(space, name, data, block_checksums(0, data))


def get(volume: Volume, name: bytes, space: int = SPACE) -> bytes | None:
    """The block, compared with its key; None for a miss."""
    blocks = read_blocks(volume, space, [name])
    if not blocks.views:
        return None
    data = bytes(blocks.views[0])
    assert data == content(name, len(data))
    return data
