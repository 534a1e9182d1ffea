"""How far the kernel reads ahead on a mount.

Layer: shell.
"""

from __future__ import annotations

import os
from pathlib import Path

from luciole.client.fuse.mount_table import device_of_mount
from luciole.errors import FsError
from luciole.log import get_logger

log = get_logger("mount")


def set_read_ahead(mount_point: Path, size: int) -> None:
    """Tells the kernel to read `size` bytes ahead instead of its 128 KiB; only root may, others do
    without.

    The kernel sets its own value while it takes the session up, so the first answer is awaited:
    the call blocks until the mount answers.
    """
    try:
        os.stat(mount_point)
        device = device_of_mount(mount_point)
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(size // 1024))
    except (OSError, FsError) as failure:
        log.info("read_ahead_not_set", error=str(failure))
