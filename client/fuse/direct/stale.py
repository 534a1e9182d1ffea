"""ESTALE, which tells the kernel to walk a path anew, and must not reach who gave the path.

Layer: shell. A name that the kernel remembers may lead to a directory that another mount has
removed. Told ESTALE, it walks the path once more and asks for every step (LOOKUP_REVAL). When the
directory goes between two steps of that walk it would pass the second ESTALE on. But then the path
led nowhere while the call was under way, and that is ENOENT, as from a local filesystem.

A thread that was told ESTALE is remembered until its next request that is no step of a path, and
for `RETRY_S` at most, since the kernel walks again at once. The lock guards the table.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import OrderedDict

from luciole.client.fuse.direct.messages import Request
from luciole.client.fuse.direct.protocol import Opcode

RETRY_S = 0.5
REMEMBERED_MAX = 256
# What the kernel asks while it walks: names, and who may pass.
STEPS = {Opcode.LOOKUP, Opcode.GETATTR, Opcode.GETXATTR}
LISTING = {Opcode.READDIR, Opcode.READDIRPLUS}  # Linux says ENOENT of a directory that is gone
# What names a file by a path, or does so as a rule.
BY_PATH = {
    Opcode.LOOKUP, Opcode.GETATTR, Opcode.STATX, Opcode.SETATTR, Opcode.READLINK, Opcode.SYMLINK,
    Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2,
    Opcode.LINK, Opcode.OPEN, Opcode.OPENDIR, Opcode.CREATE, Opcode.TMPFILE, Opcode.STATFS,
    Opcode.SETXATTR, Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR,
}


class Walks:
    """Threads of applications whose path is walked a second time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.told: OrderedDict[int, float] = OrderedDict()  # thread -> when; others only look

    def errno_of(self, request: Request) -> int:
        """What a request is told whose inode is gone."""
        if request.opcode in LISTING:
            return errno.ENOENT
        if request.opcode not in BY_PATH or not request.pid:
            return errno.ESTALE
        now = time.monotonic()
        with self._guard:
            told = self.told.pop(request.pid, None)
            if told is not None and now - told < RETRY_S:
                return errno.ENOENT
            self.told[request.pid] = now
            if len(self.told) > REMEMBERED_MAX:
                self.told.popitem(last=False)
        return errno.ESTALE

    def other(self, request: Request) -> None:
        """A request had another outcome: unless it was a step, the walk is over."""
        if self.told and request.opcode not in STEPS:
            with self._guard:
                self.told.pop(request.pid, None)
