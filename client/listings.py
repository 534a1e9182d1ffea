"""`Listings`: the directories that are open on one client.

Layer: shell, the part of `Operations` that lists, and looks ahead of those who do not. A listing
has a lock of its own, since its pages are fetched in turn.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

from luciole.client.known_names import KnownNames
from luciole.client.listing import DirectoryHandle
from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, services
from luciole.runtime import Runtime

DIRECTORY_PAGE = 256


class Listings(ABC):
    """See the module. Handles, their lock, names and the inodes shown are the filesystem's."""

    names: KnownNames
    _files: Mapping[int, object]  # those that are open here
    _runtime: Runtime
    _meta: MetaClient
    _guard: threading.Lock
    _directories: dict[int, DirectoryHandle]

    @abstractmethod
    def _take_number(self) -> int:
        """A handle number; under the guard."""

    @abstractmethod
    def _overlay(self, inode: meta_pb2.Inode) -> meta_pb2.Inode:
        """An inode with what this client knows better."""

    async def _look_ahead(
        self, credential: common_pb2.Credential, parent: int, name: bytes
    ) -> None:
        """Fetches what is likely to be asked for after `name`, if anything is."""
        limit = self.names.ahead_of(parent)
        if not limit:
            return
        with self.names.inquiry() as inquiry:
            try:
                page = await self._meta.ask(services.META_READ_DIR, meta_pb2.ReadDirRequest(
                    credential=credential, inode_id=parent, after=name, limit=limit,
                    with_inodes=True))
            except FsError:
                return  # perhaps they may not list it: they ask one by one
            # What is open here changes without a word.
            self.names.learn(credential, parent, page, inquiry, after=name, but=self._files)

    async def opendir(self, credential: common_pb2.Credential, inode_id: int) -> int:
        """Begins a listing."""
        listing = DirectoryHandle(inode_id, credential, [])
        await self._fetch_page(listing, 1)  # may it be read at all?
        with self._guard:
            number = self._take_number()
            self._directories[number] = listing
        return number

    async def fsyncdir(self, handle: int) -> None:
        """All that was done to names, by anybody, survives a power loss."""
        await self._meta.fsync(self.directory(handle).inode_id)

    async def _fetch_page(
        self, listing: DirectoryHandle, limit: int = DIRECTORY_PAGE, *, inodes: bool = True
    ) -> None:
        reply = await self._meta.ask(services.META_READ_DIR, meta_pb2.ReadDirRequest(
            credential=listing.credential, inode_id=listing.inode_id, after=listing.last_name,
            limit=limit, with_inodes=inodes))
        listing.extend(reply.entries)
        listing.parent = reply.parent
        listing.complete = not reply.more

    async def readdir(
        self, handle: int, position: int, *, inodes: bool = True
    ) -> meta_pb2.DirEntry | None:
        """The entry at a position of the listing, or None behind the last.

        Entries that went since then have no inode, nor have those that are fetched without.
        """
        listing = self.directory(handle)
        found = listing.at(position)
        if found is None:
            async with self._runtime.lock(("listing", handle)):
                if position < listing.start:
                    listing.forget_from(position)
                while position >= listing.end and not listing.complete:
                    await self._fetch_page(listing, inodes=inodes)
                found = listing.at(position)
        if found is None or not inodes or not found.inode.inode_id:
            return found
        return meta_pb2.DirEntry(dentry=found.dentry, inode=self._overlay(found.inode))

    async def refresh_listing(
        self, handle: int, position: int, limit: int = DIRECTORY_PAGE
    ) -> None:
        """Fetches the entries from `position` on anew, `limit` of them at first.

        A kernel that is given attributes takes them for as new as its request: those of a page that
        was fetched for an earlier one would take back what has changed since. Position 0 is a
        rewind.
        """
        listing = self.directory(handle)
        async with self._runtime.lock(("listing", handle)):
            listing.forget_from(position)
            while position > listing.end and not listing.complete:
                await self._fetch_page(
                    listing, min(position - listing.end, DIRECTORY_PAGE), inodes=False)
            if not listing.complete:
                await self._fetch_page(listing, limit)

    def directory(self, handle: int) -> DirectoryHandle:
        """The state of a listing. Raises FsError NO_SESSION."""
        listing = self._directories.get(handle)
        if listing is None:
            raise FsError(Kind.NO_SESSION, "not an open directory", str(handle))
        return listing

    def releasedir(self, handle: int) -> None:
        """Ends a listing."""
        self._directories.pop(handle, None)
