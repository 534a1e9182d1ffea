"""What the answer to a change says of the directory: true, given once, and lost with any news."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
from google.protobuf.message import Message

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.client.remote.meta import MetaClient
from luciole.errors import FsError
from luciole.proto import common_pb2, meta_pb2
from luciole.proto.method import Method
from luciole.runtime import drive
from luciole.tests.fuse.memory_cluster import MemoryCluster, two_clients
from luciole.tests.meta.world import SteppedRuntime

WHO = common_pb2.Credential(uid=0, gid=0)
ROOT = 1
SECONDS = 1.0
WRITE = OpenFlags(write=True)


class Two(NamedTuple):
    """Two clients, and two directories of which the first holds a file and a directory."""

    runtime: SteppedRuntime
    here: Operations
    there: Operations
    one: int
    other: int
    below: int


@pytest.fixture
def two() -> Two:
    runtime = SteppedRuntime()
    here, there = two_clients(runtime, SECONDS)
    one, other = (
        drive(here.mkdir(WHO, ROOT, name, 0o755)).inode_id for name in (b"one", b"other"))
    make(here, one, b"file")
    below = drive(here.mkdir(WHO, one, b"below", 0o755)).inode_id
    here.parents.forget_all()
    return Two(runtime, here, there, one, other, below)


def make(client: Operations, parent: int, name: bytes) -> int:
    handle, inode = drive(client.create(WHO, parent, name, 0o644, flags=WRITE))
    drive(client.release(handle))
    return inode.inode_id


def rename(
    client: Operations, parent: int, name: bytes, new_parent: int, new_name: bytes,
    *, exchange: bool = False,
) -> None:
    drive(client.rename(meta_pb2.RenameRequest(
        credential=WHO, parent=parent, name=name, new_parent=new_parent, new_name=new_name,
        exchange=exchange)))


CHANGES: dict[str, Callable[[Two], object]] = {
    "create": lambda two: make(two.here, two.one, b"new"),
    "mkdir": lambda two: drive(two.here.mkdir(WHO, two.one, b"new", 0o755)),
    "mknod": lambda two: drive(two.here.make_node(meta_pb2.MakeNodeRequest(
        credential=WHO, parent=two.one, name=b"new", type=meta_pb2.FIFO))),
    "symlink": lambda two: drive(two.here.symlink(WHO, two.one, b"new", b"there")),
    "link": lambda two: drive(two.here.link(
        WHO, drive(two.here.lookup(WHO, two.one, b"file")).inode_id, two.one, b"new")),
    "unlink": lambda two: drive(two.here.unlink(WHO, two.one, b"file")),
    "rmdir": lambda two: drive(two.here.rmdir(WHO, two.one, b"below")),
    "rename": lambda two: rename(two.here, two.one, b"file", two.one, b"new"),
    "rename of a directory": lambda two: rename(two.here, two.one, b"below", two.one, b"new"),
    "move": lambda two: rename(two.here, two.one, b"file", two.other, b"new"),
    "move of a directory": lambda two: rename(two.here, two.one, b"below", two.other, b"new"),
    "exchange": lambda two: rename(
        two.here, two.one, b"file", two.one, b"below", exchange=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_answer_to_a_change_tells_the_directories_as_they_are(two: Two, change: str) -> None:
    two.runtime.manual.advance(0.1)
    CHANGES[change](two)
    for directory in [two.one, two.other] if "move" in change else [two.one]:
        assert two.here.taken(directory) == drive(two.there.getattr(directory))
        assert two.here.taken(directory) is None, "given once"


def test_a_replaced_directory_and_an_exchange_between_two_count_on_both_sides(two: Two) -> None:
    drive(two.here.mkdir(WHO, two.other, b"old", 0o755))
    rename(two.here, two.one, b"below", two.other, b"old")
    make(two.here, two.other, b"file")
    rename(two.here, two.other, b"old", two.one, b"file", exchange=True)
    for directory in (two.one, two.other):
        assert two.here.taken(directory) == drive(two.there.getattr(directory))


def refused(two: Two) -> None:
    with pytest.raises(FsError):
        drive(two.here.mkdir(WHO, two.one, b"file", 0o755))


NEWS: dict[str, Callable[[Two], object]] = {
    "others changed it": lambda two: two.here.parents.forget([two.one]),
    "others may have": lambda two: two.here.parents.forget_all(),
    "its mode": lambda two: drive(two.here.setattr(meta_pb2.SetAttrRequest(
        credential=WHO, inode_id=two.one, mode=0o700))),
    "an attribute": lambda two: drive(two.here.xattrs.set(meta_pb2.SetXattrRequest(
        credential=WHO, inode_id=two.one, name=b"user.a", value=b"1"))),
    "it moved": lambda two: rename(two.here, ROOT, b"one", two.other, b"moved"),
    "a change that failed": refused,
    "time": lambda two: two.runtime.manual.advance(SECONDS),
}


@pytest.mark.parametrize("news", NEWS)
def test_nothing_is_given_after_news(two: Two, news: str) -> None:
    make(two.here, two.one, b"new")
    NEWS[news](two)
    assert two.here.taken(two.one) is None


def test_a_directory_that_was_removed_is_not_given(two: Two) -> None:
    make(two.here, two.below, b"file")
    drive(two.here.unlink(WHO, two.below, b"file"))
    drive(two.here.rmdir(WHO, two.one, b"below"))
    assert two.here.taken(two.below) is None


def test_an_answer_that_was_overtaken_by_any_news_is_not_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: Callable[..., Awaitable[Message]] = MetaClient.change

    async def overtaken(
        meta: MetaClient, method: Method[Message, Message], request: Message
    ) -> Message:
        reply = await ask(meta, method, request)
        two.here.parents.forget([two.other])
        return reply

    monkeypatch.setattr(MetaClient, "change", overtaken)
    drive(two.here.symlink(WHO, two.one, b"new", b"there"))
    assert two.here.taken(two.one) is None


def test_nothing_is_kept_by_clients_without_caches() -> None:
    cluster = MemoryCluster(SteppedRuntime())
    drive(cluster.start())
    client = cluster.client(b"it has no caches", None)
    make(client, ROOT, b"new")
    assert client.taken(ROOT) is None
