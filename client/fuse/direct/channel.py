"""The device: requests are read from it, replies and notifications written to it.

Layer: shell. Any number of threads may use a `Channel`. The kernel takes and gives messages whole.
A reply belongs on the descriptor from which its request was read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from struct import Struct

from luciole.client.fuse.direct import messages, protocol
from luciole.client.fuse.direct.mounting import DEVICE

_CLONE_OF = Struct("=I")
# ENODEV: unmounted. ECONNABORTED: aborted, for those who asked for FUSE_ABORT_ERROR.
_GONE = {errno.ENODEV, errno.ECONNABORTED}
# ENOENT: a request was taken back before it was read.
_AGAIN = {errno.ENOENT, errno.EAGAIN, errno.EINTR}
# The kernel has neither the request any more (ENOENT) nor the mount.
_TOO_LATE = {errno.ENOENT, *_GONE}


class Channel:
    """One descriptor of a mounted device."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def clone(self) -> Channel:
        """Another descriptor of the same mount, with a queue of its own for requests under way.

        Raises OSError.
        """
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, protocol.DEVICE_CLONE, _CLONE_OF.pack(self._descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return Channel(descriptor)

    def close(self) -> None:
        """The mount ends with its last descriptor."""
        os.close(self._descriptor)

    def read(self, buffer: memoryview) -> int:
        """Waits for a request, puts it into `buffer`; returns its length, 0 once unmounted."""
        while True:
            try:
                return os.readv(self._descriptor, [buffer])
            except OSError as failure:
                if failure.errno in _GONE:
                    return 0
                if failure.errno not in _AGAIN:
                    raise

    def _write(self, pieces: Sequence[bytes | memoryview]) -> bool:
        try:
            os.writev(self._descriptor, pieces)
        except OSError as failure:
            if failure.errno in _TOO_LATE:
                return False
            raise
        return True

    def answer(self, unique: int, data: bytes | memoryview) -> bool:
        """Answers a request with data; returns whether anybody still waited for it.

        Raises OSError when the kernel finds the reply wrong; then the request still waits.
        """
        try:
            os.writev(self._descriptor, messages.reply(unique, data))
        except OSError as failure:
            if failure.errno in _TOO_LATE:
                return False
            raise
        return True

    def answer_error(self, unique: int, number: int) -> bool:
        """Answers with an errno, or with success and no data (0)."""
        return self._write([messages.error_reply(unique, number)])

    # Notifications. Each returns whether the kernel knew what it was about. None may be sent by a
    # thread that answers a request: the kernel may hold the very lock that it needs.

    def invalidate_inode(self, inode_id: int, offset: int = 0, length: int = 0) -> bool:
        """Attributes of an inode, and its pages in the range, are out of date.

        Args:
            offset: of the first byte; negative: attributes only.
            length: in bytes; 0: to the end.
        """
        return self._write(messages.notification(protocol.NOTIFY_INVAL_INODE, [
            protocol.NOTIFY_INVAL_INODE_OUT.pack(inode_id, offset, length)]))

    def invalidate_entry(self, parent: int, name: bytes) -> bool:
        """What a name leads to must be looked up again."""
        return self._write(messages.notification(protocol.NOTIFY_INVAL_ENTRY, [
            protocol.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0), name + b"\0"]))

    def forget_names(self) -> None:
        """Every name must be looked up again. Kernels before protocol 7.44 do not know how."""
        with contextlib.suppress(OSError):
            self._write(messages.notification(protocol.NOTIFY_INC_EPOCH, []))

    def deleted(self, parent: int, child: int, name: bytes) -> bool:
        """A name is gone; unlike an invalidation, watchers (inotify) hear of it."""
        return self._write(messages.notification(protocol.NOTIFY_DELETE, [
            protocol.NOTIFY_DELETE_OUT.pack(parent, child, len(name), 0), name + b"\0"]))

    def store(self, inode_id: int, offset: int, data: bytes | memoryview) -> bool:
        """Puts bytes into the kernel's pages of a file."""
        return self._write(messages.notification(protocol.NOTIFY_STORE, [
            protocol.NOTIFY_STORE_OUT.pack(inode_id, offset, len(data), 0), data]))
