"""What a client believes of attributes: no request where there are none, and never for long."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from google.protobuf.message import Message

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2, services
from luciole.proto.method import Method
from luciole.runtime import drive
from luciole.tests.fuse.memory_cluster import two_clients
from luciole.tests.meta.world import SteppedRuntime

WHO = common_pb2.Credential(uid=0, gid=0)
ROOT = 1
SECONDS = 1.0
EXCLUSIVE = OpenFlags(exclusive=True)


class Two(NamedTuple):
    """Two clients and a file."""

    runtime: SteppedRuntime
    here: Operations
    there: Operations
    file: int


@pytest.fixture
def two() -> Two:
    runtime = SteppedRuntime()
    here, there = two_clients(runtime, SECONDS)
    handle, inode = drive(here.create(WHO, ROOT, b"f", 0o644, flags=EXCLUSIVE))
    drive(here.release(handle))
    return Two(runtime, here, there, inode.inode_id)


def value(mount: Operations, file: int, name: bytes = b"user.a") -> bytes | None:
    try:
        return drive(mount.xattrs.get(WHO, file, name))
    except FsError as failure:
        if failure.kind != Kind.NO_ATTRIBUTE:
            raise
        return None


def put(mount: Operations, file: int, content: bytes) -> None:
    drive(mount.xattrs.set(meta_pb2.SetXattrRequest(
        credential=WHO, inode_id=file, name=b"user.a", value=content)))


def test_absence_is_known_without_a_request(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    ask = two.here._meta.ask

    async def counting(method: Method[Message, Message], request: Message) -> Message:
        asked.append(method)
        return await ask(method, request)

    monkeypatch.setattr(two.here._meta, "ask", counting)
    drive(two.here.lookup(WHO, ROOT, b"f"))
    names = (b"user.a", b"security.capability", b"system.posix_acl_access",
             b"system.posix_acl_default")
    assert [value(two.here, two.file, name) for name in names] == [None] * 4
    assert drive(two.here.xattrs.list(WHO, two.file)) == []
    assert asked == [services.META_LOOKUP]
    with pytest.raises(FsError) as caught:
        drive(two.here.xattrs.get(WHO, two.file, b"system.unknown"))
    assert caught.value.kind == Kind.NOT_SUPPORTED


def test_what_this_client_sets_it_sees_at_once(two: Two) -> None:
    before = drive(two.here.lookup(WHO, ROOT, b"f"))
    two.runtime.manual.advance(0.01)
    put(two.here, two.file, b"1")
    two.here.xattrs.seen(before)  # an answer that was overtaken
    assert value(two.here, two.file) == b"1"
    assert drive(two.here.xattrs.list(WHO, two.file)) == [b"user.a"]
    drive(two.here.xattrs.remove(WHO, two.file, b"user.a"))
    assert value(two.here, two.file) is None


def test_what_another_sets_is_seen_when_it_is_told_or_belief_ends(two: Two) -> None:
    drive(two.here.lookup(WHO, ROOT, b"f"))
    put(two.there, two.file, b"1")
    assert value(two.here, two.file) is None
    two.here.xattrs.forget([two.file])
    assert value(two.here, two.file) == b"1"
    drive(two.there.xattrs.remove(WHO, two.file, b"user.a"))
    drive(two.here.lookup(WHO, ROOT, b"f"))
    put(two.there, two.file, b"1")
    two.runtime.manual.advance(SECONDS)
    assert value(two.here, two.file) == b"1"
