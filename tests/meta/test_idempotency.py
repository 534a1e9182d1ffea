"""A request takes effect once, whatever was lost and wherever it is sent again."""

from __future__ import annotations

import pytest

from luciole.errors import FsError, Kind
from luciole.meta.core import schema
from luciole.meta.core.idempotency import CLEAR_EVERY
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, ROOT, World, user


def test_a_second_server_tells_the_same_outcome() -> None:
    world = World()
    request = meta_pb2.CreateRequest(
        request_id=world.request_id(), credential=user(), parent=ROOT, name=b"f", mode=0o644,
        exclusive=True)
    first = drive(world.meta.create(request, CALL))
    assert drive(world.other.create(request, CALL)) == first
    removal = meta_pb2.RemoveRequest(
        request_id=world.request_id(), credential=user(), parent=ROOT, name=b"f")
    assert drive(world.meta.unlink(removal, CALL)) == drive(world.other.unlink(removal, CALL))
    assert world.names() == []


@pytest.mark.parametrize(
    "request_id", [common_pb2.RequestId(), common_pb2.RequestId(client_id=b"x", sequence=1),
                   common_pb2.RequestId(client_id=b"x" * 16)])
def test_a_change_needs_a_name(request_id: common_pb2.RequestId) -> None:
    world = World()
    with pytest.raises(FsError) as caught:
        drive(world.meta.make_dir(meta_pb2.MakeDirRequest(
            request_id=request_id, credential=user(), parent=ROOT, name=b"d"), CALL))
    assert caught.value.kind == Kind.INVALID_ARGUMENT
    assert world.names() == []


def test_records_of_answered_requests_go() -> None:
    world = World()
    for number in range(10 * CLEAR_EVERY):
        world.mkdir(b"%d" % number)
    assert len(world.keys(schema.IDEMPOTENCY)) <= 2 * CLEAR_EVERY


def test_a_message_that_was_delayed_beyond_its_answer_changes_nothing() -> None:
    """Its record may be gone; the client says below which sequence it has all answers."""
    world = World()
    removal = meta_pb2.RemoveRequest(
        request_id=world.request_id(), credential=user(), parent=ROOT, name=b"f")
    world.file(b"f")
    drive(world.meta.unlink(removal, CALL))
    for number in range(2 * CLEAR_EVERY):
        world.mkdir(b"%d" % number)
    world.file(b"f")
    with pytest.raises(FsError) as caught:
        drive(world.other.unlink(removal, CALL))
    assert caught.value.kind == Kind.INVALID_ARGUMENT
    assert b"f" in world.names()


def test_a_refused_request_is_judged_anew() -> None:
    world = World()
    request = meta_pb2.RemoveRequest(
        request_id=world.request_id(), credential=user(), parent=ROOT, name=b"d")
    with pytest.raises(FsError):
        drive(world.meta.remove_dir(request, CALL))
    world.mkdir(b"d")
    assert drive(world.meta.remove_dir(request, CALL)).inode.nlink == 0
