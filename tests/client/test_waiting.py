"""Attributes of a new file that wait for its first report: what is told, when, and to whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.proto import common_pb2, meta_pb2
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.client.test_known_names import Asked
from luciole.tests.fuse.memory_cluster import two_clients
from luciole.waiting import add, apply, may_wait

WHO = common_pb2.Credential(uid=0, gid=0)
ALICE = common_pb2.Credential(uid=7, gid=7)
ROOT = 1
WRITE = OpenFlags(write=True, exclusive=True)
DATA = [b"content", bytes(1_000_000)]  # inline, and in chunks
BOTH = OpenFlags(read=True, write=True)


def change(inode_id: int, **fields: int) -> meta_pb2.SetAttrRequest:
    request = meta_pb2.SetAttrRequest(credential=WHO, inode_id=inode_id)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def new_file(
    client: Operations, mode: int = 0o600, data: bytes = b"content",
    who: common_pb2.Credential = WHO,
) -> tuple[int, int]:
    """The handle and the inode's id."""
    handle, inode = drive(client.create(who, ROOT, b"f", mode, flags=WRITE))
    if data:
        drive(client.write(handle, 0, memoryview(data)))
    return handle, inode.inode_id


def clients(monkeypatch: pytest.MonkeyPatch) -> tuple[Operations, Operations, Asked]:
    here, there = two_clients(ThreadRuntime(), 1.0)
    return here, there, Asked(here, monkeypatch)


@pytest.mark.parametrize("data", DATA, ids=len)
def test_what_tar_does_to_a_file_is_one_report(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, asked = clients(monkeypatch)
    handle, inode_id = new_file(here, data=data)
    asked.clear()
    for request in (change(inode_id, atime_ns=11, mtime_ns=12), change(inode_id, uid=0, gid=0),
                    change(inode_id, mode=0o644)):
        shown = drive(here.setattr(request))
    assert asked == []
    assert (shown.mode, shown.atime_ns, shown.mtime_ns) == (0o644, 11, 12)
    assert drive(here.getattr(inode_id)).mode == 0o644
    before = drive(there.getattr(inode_id))
    assert (before.mode, before.length) == (0o600, 0)
    asked.clear()
    drive(here.flush(handle))
    assert asked == ["Close"]
    told = drive(there.getattr(inode_id))
    assert (told.mode, told.atime_ns, told.mtime_ns, told.length) == (0o644, 11, 12, len(data))
    assert told.ctime_ns >= shown.ctime_ns
    drive(here.release(handle))
    assert drive(here.getattr(inode_id)) == told


def test_what_is_written_after_the_time_was_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, _ = clients(monkeypatch)
    handle, inode_id = new_file(here)
    drive(here.setattr(change(inode_id, atime_ns=11, mtime_ns=12)))
    drive(here.write(handle, 0, memoryview(b"more")))
    shown = drive(here.getattr(inode_id))
    assert shown.atime_ns == 11
    assert shown.mtime_ns > 12
    drive(here.release(handle))
    assert drive(there.getattr(inode_id)).mtime_ns == shown.mtime_ns


@pytest.mark.parametrize("fields", [
    {"mode": 0o400}, {"mode": 0o4755}, {"mode": 0o2755}, {"mode": 0o1755}, {"uid": 7}, {"gid": 7},
    {"mtime_now": True}, {"atime_now": True}, {"mode": 0o177},
])
def test_what_others_must_hear_is_told_at_once_with_all_that_waits(
    fields: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, asked = clients(monkeypatch)
    handle, inode_id = new_file(here)
    drive(here.setattr(change(inode_id, atime_ns=11)))
    drive(here.setattr(change(inode_id, mode=0o610)))
    asked.clear()
    shown = drive(here.setattr(change(inode_id, **fields)))
    assert asked == ["SetAttr"]
    told = drive(there.getattr(inode_id))
    assert told == shown
    assert told.mode == fields.get("mode", 0o610)
    assert told.atime_ns == 11 or "atime_now" in fields
    assert told.length == len(b"content")
    drive(here.release(handle))


def sync(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.fsync(handle)


def append(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.truncate(WHO, inode_id, 100, handle)


def cut(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.truncate(ALICE, inode_id, 3)


async def open_again(client: Operations, handle: int, inode_id: int) -> None:
    await client.release((await client.open(ALICE, inode_id, BOTH))[0])


def attribute(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.xattrs.set(meta_pb2.SetXattrRequest(
        credential=ALICE, inode_id=inode_id, name=b"user.a", value=b"b"))


def hold(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.hold_once()


def publish(client: Operations, handle: int, inode_id: int) -> Awaitable[object]:
    return client.publish()


@pytest.mark.parametrize("data", DATA, ids=len)
@pytest.mark.parametrize("call", [sync, append, cut, open_again, attribute, hold, publish])
def test_whoever_may_depend_on_them_finds_them_told(
    call: Callable[[Operations, int, int], Awaitable[object]], data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also others on this client whom only the new mode lets in."""
    here, there, _ = clients(monkeypatch)
    handle, inode_id = new_file(here, data=data)
    drive(here.setattr(change(inode_id, mode=0o666)))

    async def run() -> None:
        await call(here, handle, inode_id)

    drive(run())
    assert drive(there.getattr(inode_id)).mode == 0o666
    drive(here.release(handle))
    assert drive(there.getattr(inode_id)).mode == 0o666


@pytest.mark.parametrize("data", DATA, ids=len)
def test_a_cut_after_the_time_was_set_counts(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, _ = clients(monkeypatch)
    handle, inode_id = new_file(here, data=data)
    drive(here.setattr(change(inode_id, mode=0o644, mtime_ns=12)))
    cut_at = drive(here.truncate(WHO, inode_id, 3, handle)).mtime_ns
    drive(there.setattr(change(inode_id, mode=0o600)))  # what waited was told before
    drive(here.write(handle, 0, memoryview(b"more")))
    drive(here.release(handle))
    told = drive(there.getattr(inode_id))
    assert told.mtime_ns >= cut_at > 12
    assert told.mode == 0o600


def test_a_file_that_others_have_seen_content_of_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there, asked = clients(monkeypatch)
    handle, inode_id = new_file(here)
    drive(here.fsync(handle))
    drive(here.write(handle, 0, memoryview(b"more")))
    asked.clear()
    drive(here.setattr(change(inode_id, mode=0o644)))
    assert asked == ["SetAttr"]
    drive(here.release(handle))
    handle, _ = drive(here.open(WHO, inode_id, BOTH))
    drive(here.write(handle, 0, memoryview(b"more")))
    asked.clear()
    drive(here.setattr(change(inode_id, mode=0o666)))
    assert "SetAttr" in asked
    assert drive(there.getattr(inode_id)).mode == 0o666
    drive(here.release(handle))


def test_a_file_that_was_there_before_is_not_new(monkeypatch: pytest.MonkeyPatch) -> None:
    here, _, asked = clients(monkeypatch)
    drive(here.release(new_file(here)[0]))
    handle, inode = drive(here.create(WHO, ROOT, b"f", 0o600, flags=BOTH))
    drive(here.write(handle, 0, memoryview(b"more")))
    drive(here.setattr(change(inode.inode_id, mode=0o644)))
    assert "SetAttr" in asked
    drive(here.release(handle))


def test_a_refusal_is_not_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    here, _, _ = clients(monkeypatch)
    drive(here.setattr(change(ROOT, mode=0o777)))
    handle, inode_id = new_file(here)
    request = change(inode_id, mode=0o644)
    request.credential.CopyFrom(ALICE)
    with pytest.raises(FsError) as caught:
        drive(here.setattr(request))
    assert caught.value.kind == Kind.NOT_PERMITTED
    drive(here.release(handle))


def test_who_was_given_the_file_meanwhile_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there, _ = clients(monkeypatch)
    drive(here.setattr(change(ROOT, mode=0o777)))
    handle, inode_id = new_file(here, who=ALICE)
    request = change(inode_id, mode=0o644)
    request.credential.CopyFrom(ALICE)
    drive(here.setattr(request))
    drive(there.setattr(change(inode_id, uid=8)))
    drive(here.release(handle))
    told = drive(there.getattr(inode_id))
    assert (told.uid, told.mode, told.length) == (8, 0o600, len(b"content"))


def test_lists_of_access_do_not_wait() -> None:
    inode = meta_pb2.Inode(inode_id=5, type=meta_pb2.REGULAR, mode=0o640, uid=7)
    request = meta_pb2.SetAttrRequest(credential=ALICE, mode=0o660)
    assert may_wait(inode, request)
    for strange in (meta_pb2.Inode(xattr_bytes=9), meta_pb2.Inode(mode=0o4640),
                    meta_pb2.Inode(uid=9)):
        other = meta_pb2.Inode()
        other.CopyFrom(inode)
        other.MergeFrom(strange)
        assert not may_wait(other, request)


def test_later_changes_win() -> None:
    waiting = meta_pb2.WaitingAttributes()
    add(waiting, change(5, mode=0o644, mtime_ns=3), 100)
    add(waiting, change(5, mode=0o666, atime_ns=4), 200)
    inode = meta_pb2.Inode(mode=0o600, mtime_ns=50, ctime_ns=150)
    apply(inode, waiting)
    assert (inode.mode, inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (0o666, 4, 3, 200)
