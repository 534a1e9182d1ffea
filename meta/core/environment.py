"""What an operation takes from outside the transaction, fixed before it runs."""

from __future__ import annotations

import msgspec

from luciole.proto import meta_pb2


class Environment(msgspec.Struct, frozen=True):
    """Time, a fresh inode id and the layout of a new file. Unused ones cost an id at most."""

    now_ns: int
    new_inode_id: int = 0
    new_layout: meta_pb2.Layout | None = None
