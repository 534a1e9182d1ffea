"""How many requests that nobody waits for the kernel sends at once: few while large reads come.

Layer: shell. The kernel reads ahead, and does asynchronous I/O, by requests in the background, of
which it sends `max_background` before the first is answered. Each wakes a thread up, which takes
the interpreter's lock from those that work, and a mebibyte of memory that no cache has. Of large
ones two keep two processors busy; with more of them under way each costs up to twice as much
(docs/performance.md). Small ones are many to a message and gain by it.

The number is changed through the control filesystem, fusectl (filesystems/fuse in the kernel's
documentation). Where it is not mounted, root mounts it for a thread of its own alone and keeps the
open file. Who may not do that goes on with the number that INIT named.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from luciole.client.core.streaming import Streaming
from luciole.client.fuse.direct.negotiation import BACKGROUND
from luciole.client.fuse.mount_table import device_of_mount
from luciole.errors import FsError
from luciole.log import get_logger

log = get_logger("mount")
FEW_MAX = 8
CONTROL = Path("/sys/fs/fuse/connections")
OPEN_SECONDS = 10.0
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def few() -> int:
    """Large reads at once: each keeps a processor of the mount and one of a service busy."""
    return max(2, min(FEW_MAX, len(os.sched_getaffinity(0)) // 2))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open_privately(path: Path) -> int:
    """Opens a file of fusectl, mounted in a namespace that ends with the calling thread."""
    _checked(_libc.unshare(_CLONE_FS | _CLONE_NEWNS))
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    _checked(_libc.mount(b"fusectl", os.fsencode(CONTROL), b"fusectl", ctypes.c_ulong(0), None))
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def open_limit(mount_point: Path) -> int:
    """The file with `max_background` of a mount. Raises OSError, or FsError NOT_FOUND.

    Blocks until the mount answers: its number is known no sooner.
    """
    os.stat(mount_point)
    path = CONTROL / device_of_mount(mount_point).partition(":")[2] / "max_background"
    if path.exists():
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    found: list[int | OSError] = []

    def run() -> None:
        try:
            found.append(_open_privately(path))
        except OSError as failure:
            found.append(failure)

    # No thread that is used again: it does not come back from its namespace.
    thread = threading.Thread(target=run, name="fusectl", daemon=True)
    thread.start()
    thread.join(OPEN_SECONDS)
    outcome = found[0] if found else TimeoutError("fusectl was not mounted in time")
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


class Background:
    """That number, of one mount. The lock orders its changes."""

    def __init__(self) -> None:
        self._streaming = Streaming()
        self._file: int | None = None
        self._lock = threading.Lock()

    def open(self, mount_point: Path) -> None:
        """From now on the number may change, if that can be done here."""
        try:
            self._file = open_limit(mount_point)
        except (OSError, FsError) as failure:
            log.info("background_not_controlled", error=str(failure))

    def read(self, size: int) -> None:
        """The kernel asked for `size` bytes."""
        if self._streaming.read(size):
            self._change()

    def _change(self) -> None:
        with self._lock:
            if self._file is None:
                return
            try:
                os.write(self._file, b"%d" % (few() if self._streaming.now else BACKGROUND))
            except OSError as failure:  # the mount has ended
                log.info("background_not_changed", error=str(failure))
                os.close(self._file)
                self._file = None
