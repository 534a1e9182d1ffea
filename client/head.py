"""The inline part of an open file (luciole/inline.py): what was written to it, and what it holds.

Layer: pure; the owner guards it. What this client wrote since its last report lies over the content
as the metadata service knows it, each byte marked. The content is used again for a while: it must
be of the newest data version that any answer has named, and no change may have been told since it
was asked for.
"""

from __future__ import annotations

from luciole.inline import overlaid
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2


class Head:
    """The inline part of one open file.

    Args: believe_seconds: so long content may be used without asking again.
    """

    def __init__(self, believe_seconds: float) -> None:
        self._believe_seconds = believe_seconds
        self._bytes = bytearray()
        self._marks = bytearray()  # 1 for each byte that was written
        self.end = 0  # so far the writes of these bytes make the file reach
        self._content = b""
        self._version = -1  # the data version of the content; -1: there is none
        self._newest = 0
        self._until = 0.0
        self._told = 0

    # What was written here and not reported.

    @property
    def pending(self) -> bool:
        """Whether there is something to report."""
        return bool(self._marks)

    def write(self, offset: int, data: bytes | memoryview, *, grows: bool = True) -> None:
        """Takes bytes, all below `INLINE_BYTES_MAX`; zeros of a punch do not make a file grow."""
        end = offset + len(data)
        assert end <= INLINE_BYTES_MAX
        missing = bytes(max(0, end - len(self._marks)))
        self._bytes += missing
        self._marks += missing
        self._bytes[offset:end] = data
        self._marks[offset:end] = b"\1" * len(data)
        if grows:
            self.end = max(self.end, end)

    def patches(self) -> list[meta_pb2.Patch]:
        """What was written, in the order of the bytes."""
        found = []
        begin = self._marks.find(1)
        while begin >= 0:
            end = self._marks.find(0, begin)
            end = len(self._marks) if end < 0 else end
            found.append(meta_pb2.Patch(offset=begin, data=bytes(self._bytes[begin:end])))
            begin = self._marks.find(1, end)
        return found

    def clear(self) -> None:
        """What was written has gone somewhere else."""
        self._bytes, self._marks, self.end = bytearray(), bytearray(), 0

    def reported(self, data_version: int, now: float, *, made: bool) -> None:
        """A report with all patches counted, and gave the file a data version.

        Args: made: the file was empty before.
        """
        known = made or (self._version == data_version - 1 == self._newest)
        patches = self.patches()
        self.clear()
        self.seen(data_version)
        if known and self._newest == data_version:
            self._content = overlaid(b"" if made else self._content, patches)
            self._version, self._until = data_version, now + self._believe_seconds

    # What the metadata service has.

    def seen(self, data_version: int) -> None:
        """An answer says that the file has this data version."""
        self._newest = max(self._newest, data_version)

    @property
    def told(self) -> int:
        """Counts the changes by others that were told: to be looked at before asking."""
        return self._told

    def forget(self) -> None:
        """Others changed the file."""
        self._told += 1
        self._version, self._content = -1, b""

    def learn(self, inode: meta_pb2.Inode, content: bytes, told: int, now: float) -> None:
        """Takes over an answer to what was asked for when `told` was the count."""
        self.seen(inode.data_version)
        if told == self._told and inode.data_version == self._newest:
            self._content, self._version = content, inode.data_version
            self._until = now + self._believe_seconds

    def content(self, now: float) -> bytes | None:
        """The content, if it may be used."""
        fresh = self._version == self._newest and now < self._until
        return self._content if fresh else None

    def read(self, content: bytes, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of `content` under what was written, with zeros behind."""
        whole = overlaid(content, self.patches()) if self.pending else content
        return whole[offset : offset + size].ljust(size, b"\0")
