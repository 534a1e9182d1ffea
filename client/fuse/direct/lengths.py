"""Lengths that the kernel may have missed, although it asked and was answered.

Layer: shell. Linux throws an answer to GETATTR away when the inode was invalidated after it had
asked, and goes on with the length that it had: a read then ends too early, also before bytes that
it has been told of long ago, because the newer change overtook the answer that brought the older.
So of an invalidated file the answer is not relied upon. The kernel is given the file's last byte
first: a page that reaches beyond the length that it knows lengthens the file at once.

Source: fuse_change_attributes_i (attr_version) and fuse_notify_store in Linux.

Invariant: a file that is not doubted was not invalidated since the kernel was given its length. Of
one truncate version (without a cut) the kernel's length never shrinks. The lock guards the table.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from luciole.client.fuse.direct.messages import Request
from luciole.client.fuse.direct.protocol import GETATTR_FH, GETATTR_IN
from luciole.proto import meta_pb2

FILES_MAX = 16384  # those invalidated last


@dataclass
class _Known:
    invalidated: int = 0  # how often
    settled: int = 0  # as often it had been when the kernel was given its length
    truncate_version: int = -1
    end: int = 0  # that length


class Lengths:
    """The files of one mount whose attributes were taken back from the kernel."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: OrderedDict[int, _Known] = OrderedDict()

    def invalidated(self, inode_id: int) -> None:
        """Attributes are about to be taken back. Comes before the kernel is told."""
        with self._guard:
            self._files.setdefault(inode_id, _Known()).invalidated += 1
            self._files.move_to_end(inode_id)
            if len(self._files) > FILES_MAX:
                self._files.popitem(last=False)

    def forget(self, inode_id: int) -> None:
        """The kernel does not know the inode."""
        with self._guard:
            self._files.pop(inode_id, None)

    def doubt(self, request: Request) -> int:
        """Not 0 if the kernel asks for an open file and may not take the answer; for `settle`.

        Args:
            request: a GETATTR that was not answered yet.
        """
        known = self._files.get(request.node)
        if known is None or known.invalidated == known.settled:
            return 0
        return known.invalidated if request.fields(GETATTR_IN)[0] & GETATTR_FH else 0

    def missing(self, inode: meta_pb2.Inode) -> bool:
        """Whether the kernel may take a file to be shorter than it is."""
        known = self._files.get(inode.inode_id)
        return known is not None and inode.length > (
            known.end if known.truncate_version == inode.truncate_version else 0)

    def settle(self, inode: meta_pb2.Inode, doubt: int) -> None:
        """The kernel has the length of `inode`, which was asked for after `doubt`."""
        with self._guard:
            known = self._files.get(inode.inode_id)
            if known is not None:
                known.settled = doubt
                known.truncate_version, known.end = inode.truncate_version, inode.length
