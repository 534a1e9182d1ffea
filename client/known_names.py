"""Names that this client knows without asking: fetched ahead, or of a directory that it has made.

Layer: shell. Two things are known of a directory: the inodes behind some names, which a page
fetched ahead has told (client/core/look_ahead.py), and that between two names there are no others,
since pages come in order. So a name which is not there need not be asked for before something is
created or renamed to it. Of a directory that this client has made itself that holds for all names.

It may be believed while others' changes are told (client/remote/feed.py): they take away what they
touch, and this client's own changes do so, too, as nobody tells it of those. What is asked for
while something changes is not kept: each *inquiry* under way notes what was touched meanwhile.

An inode is given once, as its receiver, the kernel, keeps it. What somebody was shown counts for
him alone: the metadata service has checked whether he may.

Invariant: what is held is true, or the feed will tell. The lock guards the tables.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from luciole.client.core.look_ahead import LookAhead
from luciole.proto import common_pb2, meta_pb2

DIRECTORIES_MAX = 256
NAMES_MAX = 4096  # of one directory


class Answer(NamedTuple):
    """What is known of a name; None: nothing has it."""

    inode: meta_pb2.Inode | None


@dataclass
class _Directory:
    """`names` has an inode once, or None: there may be something, ask.

    No name exists behind `after` up to and with `last` (None: however far) but those in `names`.
    """

    who: bytes
    after: bytes = b""
    last: bytes | None = b""
    names: dict[bytes, meta_pb2.Inode | None] = field(default_factory=dict)

    def covers(self, name: bytes) -> bool:
        """Whether it is known if the name exists."""
        return self.after < name and (self.last is None or name <= self.last)

    def cover(self, after: bytes, last: bytes | None) -> None:
        """Names behind `after` up to `last` are all in `names`; others only if they adjoin."""
        apart = (last is not None and last < self.after) or (
            self.last is not None and self.last < after)
        if apart or self.after == self.last:
            self.after, self.last = after, last
            return
        self.after = min(self.after, after)
        self.last = None if last is None or self.last is None else max(self.last, last)

    def doubt(self, name: bytes) -> None:
        """What is behind the name is not known any more."""
        if self.covers(name):
            self.names[name] = None
        else:
            self.names.pop(name, None)


class Inquiry:
    """What was touched while an answer was under way."""

    def __init__(self) -> None:
        self.everything = False
        self.inodes: set[int] = set()
        self.names: set[tuple[int, bytes]] = set()

    def spoils(self, inode_id: int) -> bool:
        """Whether an answer may be out of date about an inode."""
        return self.everything or inode_id in self.inodes


class KnownNames:
    """See the module."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._directories: OrderedDict[int, _Directory] = OrderedDict()
        self._places: dict[int, tuple[int, bytes]] = {}  # inode -> where it is held
        self._inquiries: set[Inquiry] = set()
        self._ahead = LookAhead()

    @contextmanager
    def inquiry(self) -> Iterator[Inquiry]:
        """While an answer is under way and put in."""
        inquiry = Inquiry()
        with self._guard:
            self._inquiries.add(inquiry)
        try:
            yield inquiry
        finally:
            with self._guard:
                self._inquiries.remove(inquiry)

    # Asking.

    def find(
        self, who: common_pb2.Credential, directory: int, name: bytes
    ) -> Answer | None:
        """What is known of a name; None: it must be asked for."""
        known = self._directories.get(directory)
        if known is None or known.who != _key(who):
            return None
        with self._guard:
            if name not in known.names:
                if directory not in self._directories or not known.covers(name):
                    return None
                self._ahead.used(directory)
                return Answer(None)
            inode = known.names[name]
            if inode is None:
                return None
            self._places.pop(inode.inode_id, None)
            known.doubt(name)
            self._ahead.used(directory)
            return Answer(inode)

    def ahead_of(self, directory: int) -> int:
        """A name of it had to be asked for; how many behind that are to be fetched, perhaps 0."""
        with self._guard:
            return self._ahead.missed(directory)

    # Learning.

    def learn(
        self, who: common_pb2.Credential, directory: int, page: meta_pb2.ReadDirReply,
        inquiry: Inquiry, *, after: bytes, but: Container[int] = (),
    ) -> None:
        """Takes in a page of a listing.

        Args:
            after: the name behind which it begins.
            but: inodes of which others may know better.
        """
        with self._guard:
            self._ahead.fetched(directory, len(page.entries))
            if inquiry.spoils(directory):
                return
            known = self._of(directory, _key(who))
            if len(known.names) + len(page.entries) > NAMES_MAX:
                self._drop(directory)
                known = self._of(directory, _key(who))
            last = page.entries[-1].dentry.name if page.entries else after
            known.cover(after, last if page.more else None)
            for entry in page.entries:
                name, inode = entry.dentry.name, entry.inode
                if known.names.setdefault(name, None) is None and inode.inode_id and not (
                        inode.inode_id in but or inquiry.spoils(inode.inode_id)):
                    self._forget_inode(inode.inode_id)  # it has another name, too
                    known.names[name] = inode
                    self._places[inode.inode_id] = directory, name
            for place, name in inquiry.names:
                if place == directory:
                    self._forget_name(known, name)

    def made(self, who: common_pb2.Credential, directory: int, inquiry: Inquiry) -> None:
        """This client has made the directory: it is empty."""
        with self._guard:
            if not inquiry.spoils(directory):
                self._drop(directory)
                self._of(directory, _key(who)).last = None

    def _of(self, directory: int, who: bytes) -> _Directory:
        known = self._directories.get(directory)
        if known is not None and known.who != who:
            self._drop(directory)
            known = None
        if known is None:
            known = self._directories[directory] = _Directory(who)
            if len(self._directories) > DIRECTORIES_MAX:
                self._drop(next(iter(self._directories)))
        self._directories.move_to_end(directory)
        return known

    # Forgetting.

    def forget(self, inode_ids: Iterable[int]) -> None:
        """Others changed these; of a directory, anything in it."""
        with self._guard:
            for inode_id in inode_ids:
                self._touch(inode_id)
                self._drop(inode_id)

    def changed(self, inode_ids: Iterable[int]) -> None:
        """This client has changed their attributes, or, as far as it knows, may have."""
        with self._guard:
            for inode_id in inode_ids:
                self._touch(inode_id)

    def changed_name(self, directory: int, name: bytes, *, gone: bool = False) -> None:
        """This client has changed what is behind a name, or may have; `gone`: nothing is."""
        with self._guard:
            for inquiry in self._inquiries:
                inquiry.names.add((directory, name))
            known = self._directories.get(directory)
            if known is None:
                return
            self._forget_name(known, name)
            if gone:
                known.names.pop(name, None)
            elif len(known.names) > NAMES_MAX:
                self._drop(directory)

    def _forget_name(self, known: _Directory, name: bytes) -> None:
        inode = known.names.get(name)
        if inode is not None:
            self._places.pop(inode.inode_id, None)
        known.doubt(name)

    def _touch(self, inode_id: int) -> None:
        for inquiry in self._inquiries:
            inquiry.inodes.add(inode_id)
        if inode_id in self._places:
            self._forget_inode(inode_id)

    def forget_all(self) -> None:
        """Anything may have changed."""
        with self._guard:
            for inquiry in self._inquiries:
                inquiry.everything = True
            self._directories.clear()
            self._places.clear()

    def _drop(self, directory: int) -> None:
        known = self._directories.pop(directory, None)
        if known is not None:
            for inode in known.names.values():
                if inode is not None:
                    self._places.pop(inode.inode_id, None)

    def _forget_inode(self, inode_id: int) -> None:
        directory, name = self._places.pop(inode_id, (0, b""))
        known = self._directories.get(directory)
        if known is not None:
            known.doubt(name)


def _key(who: common_pb2.Credential) -> bytes:
    return who.SerializeToString(deterministic=True)
