"""What the metadata service asks of the rest of the cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from luciole.proto import meta_pb2


class Chunks(Protocol):
    """The chunks of files, on their chains. Every method may be repeated."""

    async def trim(
        self, inode: meta_pb2.Inode, pending: Callable[[], Awaitable[bool]]
    ) -> None:
        """Removes everything beyond `inode.length`, unless `pending`, asked when it is known what
        that is, says that this cut is finished. Raises FsError when a chain is out of reach.
        """

    async def data_end(self, inode: meta_pb2.Inode) -> int:
        """The end of the last byte that any chain holds of the file."""

    async def allocated(self, inode: meta_pb2.Inode) -> int:
        """Bytes of blocks that all chunks of the file take, each counted on one replica."""

    async def remove_all(
        self, inodes: Sequence[meta_pb2.Inode], *, everywhere: bool = False
    ) -> None:
        """Removes every chunk of files whose recorded length is exact; `everywhere`: also where
        none should be.
        """


class Cluster(Protocol):
    """What the cluster manager knows."""

    async def new_layout(self) -> meta_pb2.Layout:
        """Where a new file shall lie. Raises FsError UNAVAILABLE before there are chains."""

    async def space(self) -> tuple[int, int, int]:
        """(capacity, free, used) bytes of user data."""

    async def live_clients(self) -> set[bytes] | None:
        """Clients whose lease runs; None when the manager cannot tell."""
