"""What an open(2) is to this client, and what a lock on it tells.

Layer: pure. Data only: `client/files.py` and `client/operations.py` keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from luciole.proto import meta_pb2


@dataclass(frozen=True)
class OpenFlags:
    """The flags of open(2) that a filesystem acts on."""

    read: bool = False
    write: bool = False
    truncate: bool = False
    exclusive: bool = False
    append: bool = False


@dataclass
class Handle:
    """One open(2)."""

    number: int
    inode_id: int
    readable: bool
    writable: bool
    session_id: bytes
    opened_at: float
    append: bool = False
    session_open: bool = False  # meta has the session; a flush ends it, a write begins it again
    registered: bool = False  # meta was told of a handle without a session

    def reading_session(self, client_id: bytes) -> meta_pb2.Session:
        """The session by which meta knows a handle that is not writing."""
        # The sessions of one inode are told apart by their ids alone, whosever they are.
        return meta_pb2.Session(
            client_id=client_id, session_id=client_id[:8] + self.number.to_bytes(8, "little"),
            inode_id=self.inode_id, write=False)


class Fresh(NamedTuple):
    """What a lock found newer than this client's kernel may know it."""

    pages: bool = False  # those of the kernel have to go
    end: int = 0  # the file ends there; 0: where the kernel was last told
