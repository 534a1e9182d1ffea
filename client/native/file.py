"""An open file of the native client.

Layer: shell, over `Operations`.
"""

from __future__ import annotations

from types import TracebackType

from luciole.client.operations import Operations
from luciole.client.trees import own_credential
from luciole.runtime import drive

Writable = memoryview | bytearray  # or anything else with a buffer that may be written
Data = bytes | bytearray | memoryview


class File:
    """An open file; a context manager. Offsets are given with each call."""

    def __init__(self, operations: Operations, path: str, handle: int, inode_id: int) -> None:
        self._operations = operations
        self.path = path
        self.handle = handle
        self.inode_id = inode_id

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer at the end of the file. Raises FsError."""
        return bytes(drive(self._operations.read(self.handle, offset, size)))

    def read_into(self, view: Writable, offset: int) -> int:
        """Fills `view` from `offset`; returns how many bytes, fewer at the end of the file."""
        room = memoryview(view).cast("B")
        return len(drive(self._operations.read(self.handle, offset, len(room), room)))

    def write(self, data: Data, offset: int) -> int:
        """Writes all of `data`, which may be on its way still on return. Raises FsError.

        `data` may be used again at once: what is not `bytes` is copied unless it is sent.
        """
        view = memoryview(data).cast("B")
        return drive(self._operations.write(self.handle, offset, view))

    def flush(self) -> None:
        """Whoever opens the file from now on sees what was written. Raises FsError."""
        drive(self._operations.flush(self.handle))

    def fsync(self) -> None:
        """What was written survives a power loss of every server. Raises FsError."""
        drive(self._operations.fsync(self.handle))

    def truncate(self, length: int) -> None:
        """Makes it `length` bytes long. Raises FsError."""
        drive(self._operations.truncate(
            own_credential(), self.inode_id, length, self.handle))

    @property
    def size(self) -> int:
        """The length in bytes, as this client sees it."""
        return drive(self._operations.getattr(self.inode_id)).length

    def close(self) -> None:
        """Reports what was written and gives the handle up; idempotent. Raises FsError."""
        handle, self.handle = self.handle, 0
        if not handle:
            return
        try:
            drive(self._operations.flush(handle))
        finally:
            drive(self._operations.release(handle))

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
