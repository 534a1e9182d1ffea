"""Names that are known without asking are what an answer would say, whoever changed them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from luciole.client import known_names
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.remote.feed import ChangeFeed
from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, services
from luciole.proto.method import Method
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import two_clients

WHO = common_pb2.Credential(uid=0, gid=0)
OTHER = common_pb2.Credential(uid=7, gid=7)
ROOT = 1
NAMES = [b"%d" % number for number in range(12)]
BOTH = OpenFlags(read=True, write=True)


class Asked(list[str]):
    """The methods that one client calls."""

    def __init__(self, client: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
        ask = MetaClient.ask

        async def counted(
            this: MetaClient, method: Method[Message, Message], request: Message
        ) -> Message:
            if this is client._meta:
                self.append(method.path.rsplit("/")[-1])
            return await ask(this, method, request)

        monkeypatch.setattr(MetaClient, "ask", counted)


def make(client: Operations, parent: int, name: bytes) -> int:
    handle, inode = drive(client.create(WHO, parent, name, 0o644, flags=BOTH))
    drive(client.release(handle))
    return inode.inode_id


def seen(
    client: Operations, parent: int, name: bytes, *, believe: bool,
    who: common_pb2.Credential = WHO,
) -> meta_pb2.Inode | None:
    try:
        return drive(client.lookup(who, parent, name, believe=believe))
    except FsError as failure:
        if failure.kind != Kind.NOT_FOUND:
            raise
        return None


def filled() -> tuple[Operations, Operations, int]:
    """Two clients, and a directory of 100 files that the second one made."""
    here, there = two_clients(ThreadRuntime(), 1.0)
    parent = drive(there.mkdir(WHO, ROOT, b"d", 0o755)).inode_id
    for number in range(100):
        make(there, parent, b"%03d" % number)
    return here, there, parent


def test_a_walk_asks_for_pages_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, parent = filled()
    asked = Asked(here, monkeypatch)
    walked = [seen(here, parent, b"%03d" % number, believe=True) for number in range(100)]
    assert asked == [*["Lookup"] * 3, "ReadDir", "Lookup", "ReadDir", "Lookup", "ReadDir"]
    assert walked == [seen(there, parent, b"%03d" % number, believe=False) for number in range(100)]


def test_who_may_not_see_is_not_shown_what_another_was(monkeypatch: pytest.MonkeyPatch) -> None:
    here, _, parent = filled()
    for number in range(3):
        seen(here, parent, b"%03d" % number, believe=True)
    asked = Asked(here, monkeypatch)
    seen(here, parent, b"004", believe=True, who=OTHER)
    assert asked == ["Lookup"]


def test_in_a_new_directory_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here, _, _ = filled()
    asked = Asked(here, monkeypatch)
    parent = drive(here.mkdir(WHO, ROOT, b"mine", 0o755)).inode_id
    assert seen(here, parent, b"a", believe=True) is None
    inode_id = make(here, parent, b"a")
    assert "Lookup" not in asked
    found = seen(here, parent, b"a", believe=True)
    assert found is not None
    assert found.inode_id == inode_id
    drive(here.unlink(WHO, parent, b"a"))
    asked.clear()
    assert seen(here, parent, b"a", believe=True) is None
    assert asked == []


def test_names_that_are_not_there_are_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a page was fetched, and as far as pages adjoin; not beyond."""
    here, there, parent = filled()
    for number in range(3):
        seen(here, parent, b"%03d" % number, believe=True)
    asked = Asked(here, monkeypatch)
    for number in range(3, 18):
        assert seen(here, parent, b"%03d new" % number, believe=True) is None
    assert asked == []
    for name in (b"018 new", b"001 new"):
        assert seen(here, parent, name, believe=True) is None
    assert asked == ["Lookup", "ReadDir", "Lookup"]
    make(there, parent, b"005 new")
    here.forget([parent])
    assert seen(here, parent, b"005 new", believe=True) is not None


def test_names_behind_all_others_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of files that are copied into a directory that others made."""
    here, _, parent = filled()
    asked = Asked(here, monkeypatch)
    for number in range(50):
        assert seen(here, parent, b"new %03d" % number, believe=True) is None
        make(here, parent, b"new %03d" % number)
    assert [method for method in asked if method in {"Lookup", "ReadDir"}] == [
        *["Lookup"] * 3, "ReadDir"]
    assert seen(here, parent, b"new 001", believe=True) is not None


def test_a_name_moves_within_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, parent = filled()
    for number in range(3):
        seen(here, parent, b"%03d" % number, believe=True)
    asked = Asked(here, monkeypatch)
    for number in range(4, 12):
        assert seen(here, parent, b"%03d" % number, believe=True) is not None
        assert seen(here, parent, b"%03d.new" % number, believe=True) is None
        drive(here.rename(meta_pb2.RenameRequest(
            credential=WHO, parent=parent, name=b"%03d" % number, new_parent=parent,
            new_name=b"%03d.new" % number)))
    assert asked == ["Rename"] * 8
    for name in (b"004", b"004.new", b"012", b"012.new"):
        assert seen(here, parent, name, believe=True) == seen(there, parent, name, believe=False)


def test_two_names_of_one_file_in_a_page_are_both_there() -> None:
    here, there, parent = filled()
    inode_id = drive(there.lookup(WHO, parent, b"004")).inode_id
    for name in (b"004 two", b"007 two"):
        drive(there.link(WHO, inode_id, parent, name))
    walk(here, parent)
    for name in (b"004", b"004 two", b"007 two"):
        assert seen(here, parent, name, believe=True) is not None


def test_a_directory_with_many_names_is_walked_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is remembered of it has a bound."""
    monkeypatch.setattr(known_names, "NAMES_MAX", 70)
    here, _, parent = filled()
    asked = Asked(here, monkeypatch)
    for number in range(100):
        assert seen(here, parent, b"%03d" % number, believe=True) is not None
        assert len(here.names._directories[parent].names if number > 3 else ()) <= 70
    assert len(asked) < 20


def chmod(client: Operations, inode_id: int) -> Awaitable[object]:
    return client.setattr(meta_pb2.SetAttrRequest(credential=WHO, inode_id=inode_id, mode=0o600))


async def write(client: Operations, inode_id: int) -> None:
    handle, _ = await client.open(WHO, inode_id, BOTH)
    await client.write(handle, 0, memoryview(b"content"))
    await client.release(handle)


async def replace(client: Operations, inode_id: int) -> None:
    parent = (await client.lookup(WHO, ROOT, b"d")).inode_id
    await client.unlink(WHO, parent, b"004")
    await client.symlink(WHO, parent, b"004", b"elsewhere")


CHANGES: dict[str, Callable[[Operations, int], Awaitable[object]]] = {
    "chmod": chmod, "write": write, "replace": replace,
    "truncate": lambda client, inode_id: client.truncate(WHO, inode_id, 5),
    "attribute": lambda client, inode_id: client.xattrs.set(meta_pb2.SetXattrRequest(
        credential=WHO, inode_id=inode_id, name=b"user.a", value=b"b")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("own", [True, False])
def test_a_page_under_way_while_something_changes_tells_nothing_old(
    change: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, parent = filled()
    inode = seen(there, parent, b"004", believe=False)
    assert inode is not None
    inode_id = inode.inode_id
    ask = MetaClient.ask

    async def overtaken(
        this: MetaClient, method: Method[Message, Message], request: Message
    ) -> Message:
        reply = await ask(this, method, request)
        if method is services.META_READ_DIR:
            await CHANGES[change](here if own else there, inode_id)
            if not own:
                here.forget([inode_id] if change != "replace" else [inode_id, parent])
        return reply

    monkeypatch.setattr(MetaClient, "ask", overtaken)
    for number in range(3):
        seen(here, parent, b"%03d" % number, believe=True)
    monkeypatch.undo()
    assert seen(here, parent, b"004", believe=True) == seen(there, parent, b"004", believe=False)


def walk(client: Operations, parent: int) -> None:
    for number in range(3):
        seen(client, parent, b"%03d" % number, believe=True)


@pytest.mark.parametrize("change", CHANGES)
def test_a_page_fetched_in_the_middle_of_a_change_is_forgotten_at_its_end(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, parent = filled()
    inode = seen(there, parent, b"004", believe=False)
    assert inode is not None
    commit = MetaClient.change

    async def late(
        this: MetaClient, method: Method[Message, Message], request: Message
    ) -> Message:
        if this is here._meta:
            monkeypatch.setattr(MetaClient, "change", commit)
            for number in range(3):
                await here.lookup(WHO, parent, b"%03d" % number, believe=True)
        return await commit(this, method, request)

    async def run() -> None:
        await CHANGES[change](here, inode.inode_id)

    monkeypatch.setattr(MetaClient, "change", late)
    drive(run())
    assert seen(here, parent, b"004", believe=True) == seen(there, parent, b"004", believe=False)


def test_a_close_while_a_page_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, parent = filled()
    inode = seen(there, parent, b"004", believe=False)
    assert inode is not None
    handle, _ = drive(here.open(WHO, inode.inode_id, BOTH))
    ask = MetaClient.ask

    async def overtaken(
        this: MetaClient, method: Method[Message, Message], request: Message
    ) -> Message:
        reply = await ask(this, method, request)
        if method is services.META_READ_DIR:
            await here.write(handle, 0, memoryview(b"content"))
            await here.release(handle)
        return reply

    monkeypatch.setattr(MetaClient, "ask", overtaken)
    walk(here, parent)
    monkeypatch.undo()
    held = here.names.find(WHO, parent, b"004")
    assert held is None or held.inode == seen(there, parent, b"004", believe=False)


def test_what_is_done_under_one_name_counts_for_the_other() -> None:
    here, there, parent = filled()
    drive(there.link(
        WHO, drive(there.lookup(WHO, parent, b"004")).inode_id, ROOT, b"other name"))
    walk(here, parent)
    drive(here.unlink(WHO, ROOT, b"other name"))
    assert seen(here, parent, b"004", believe=True) == seen(there, parent, b"004", believe=False)


def hear(client: Operations, change: meta_pb2.Change) -> None:
    client.forget(change.inode_ids)


class TwoClients(RuleBasedStateMachine):
    """Two clients change two directories; each is told of what the other did."""

    def __init__(self) -> None:
        super().__init__()
        self.runtime = ThreadRuntime()
        self.clients = two_clients(self.runtime, 1.0)
        self.feeds = [
            ChangeFeed(self.runtime, client._meta, heard=partial(hear, client),
                       lost=client.forget_all)
            for client in self.clients]
        self.directories = [
            drive(client.mkdir(WHO, ROOT, name, 0o755)).inode_id
            for client, name in zip(self.clients, (b"one", b"two"), strict=True)]
        for client in self.clients:
            client.forget_all()
        for feed in self.feeds:
            drive(feed.follow())

    def told(self) -> None:
        """Both hear of what was done; the marks that are made say up to where."""
        for client in self.clients:
            drive(client.setattr(meta_pb2.SetAttrRequest(
                credential=WHO, inode_id=ROOT, mode=0o755)))
        for feed in self.feeds:
            drive(feed.follow())

    def attempt(self, call: Awaitable[object]) -> None:
        async def run() -> None:
            try:
                await call
            except FsError as failure:
                if failure.kind not in {
                        Kind.NOT_FOUND, Kind.EXISTS, Kind.IS_DIRECTORY, Kind.NOT_DIRECTORY,
                        Kind.NOT_EMPTY, Kind.INVALID_ARGUMENT}:
                    raise

        drive(run())
        self.told()

    @rule(who=st.integers(0, 1), where=st.integers(0, 1), name=st.sampled_from(NAMES))
    def create(self, who: int, where: int, name: bytes) -> None:
        async def call() -> None:
            handle, _ = await self.clients[who].create(
                WHO, self.directories[where], name, 0o644, flags=BOTH)
            await self.clients[who].write(handle, 0, memoryview(name))
            await self.clients[who].release(handle)

        self.attempt(call())

    @rule(who=st.integers(0, 1), where=st.integers(0, 1), name=st.sampled_from(NAMES))
    def unlink(self, who: int, where: int, name: bytes) -> None:
        self.attempt(self.clients[who].unlink(WHO, self.directories[where], name))

    @rule(who=st.integers(0, 1), where=st.integers(0, 1), name=st.sampled_from(NAMES))
    def new_directory(self, who: int, where: int, name: bytes) -> None:
        """A directory of which its maker knows everything takes the place of one of the two."""
        async def call() -> None:
            made = await self.clients[who].mkdir(WHO, ROOT, b"new " + name, 0o755)
            self.directories[where] = made.inode_id

        self.attempt(call())

    @rule(who=st.integers(0, 1), places=st.tuples(
        *[st.tuples(st.integers(0, 1), st.sampled_from(NAMES))] * 2), how=st.integers(0, 2))
    def rename(self, who: int, places: tuple[tuple[int, bytes], ...], how: int) -> None:
        (where, name), (there, new_name) = places
        self.attempt(self.clients[who].rename(meta_pb2.RenameRequest(
            credential=WHO, parent=self.directories[where], name=name,
            new_parent=self.directories[there], new_name=new_name,
            exchange=how == 1, no_replace=how == 2)))

    @rule(who=st.integers(0, 1), places=st.tuples(
        *[st.tuples(st.integers(0, 1), st.sampled_from(NAMES))] * 2))
    def link(self, who: int, places: tuple[tuple[int, bytes], ...]) -> None:
        (where, name), (there, new_name) = places

        async def call() -> None:
            inode = await self.clients[who].lookup(WHO, self.directories[where], name)
            await self.clients[who].link(
                WHO, inode.inode_id, self.directories[there], new_name)

        self.attempt(call())

    @rule(who=st.integers(0, 1), where=st.integers(0, 1), name=st.sampled_from(NAMES),
          change=st.sampled_from(["chmod", "write", "truncate", "attribute"]))
    def change(self, who: int, where: int, name: bytes, change: str) -> None:
        async def call() -> None:
            inode = await self.clients[who].lookup(WHO, self.directories[where], name)
            await CHANGES[change](self.clients[who], inode.inode_id)

        self.attempt(call())

    @rule(who=st.integers(0, 1), where=st.integers(0, 1), count=st.integers(1, len(NAMES)))
    def walk(self, who: int, where: int, count: int) -> None:
        """Fetches pages, and uses up a part of them."""
        for name in sorted(NAMES)[:count]:
            seen(self.clients[who], self.directories[where], name, believe=True)

    @invariant()
    def what_is_known_is_true(self) -> None:
        for client in self.clients:
            for directory in self.directories:
                known = client.names._directories.get(directory)
                if known is None:
                    continue
                for name in NAMES:
                    if known.covers(name) or known.names.get(name) is not None:
                        asked = seen(client, directory, name, believe=False)
                        held = known.names.get(name)
                        assert held is None or held == asked
                        assert name in known.names or asked is None or not known.covers(name)


TwoClients.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_two_clients = TwoClients.TestCase
