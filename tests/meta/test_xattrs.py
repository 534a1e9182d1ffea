"""Extended attributes: namespaces, flags, limits, and that none outlives its inode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.limits import XATTR_INODE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from luciole.meta.core import posix_acl, schema, xattrs
from luciole.meta.core.posix_acl import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from luciole.proto import meta_pb2
from luciole.tests.meta.world import GRACE, ROOT, World, user

ALICE, BOB = user(1000, 100), user(2000, 200)
FOR_BOB = posix_acl.encode((
    Entry(USER_OBJ, 6), Entry(USER, 6, 2000), Entry(GROUP_OBJ, 4), Entry(MASK, 6),
    Entry(OTHER, 0)))
MINIMAL = posix_acl.encode((Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 5), Entry(OTHER, 1)))
SESSION = b"s" * 16


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.set_attr(meta_pb2.SetAttrRequest(inode_id=ROOT, mode=0o777))
    yield made
    made.check()


def refused(kind: Kind, call: Callable[..., object], *args: object, **options: object) -> None:
    with pytest.raises(FsError) as caught:
        call(*args, **options)
    assert caught.value.kind == kind, caught.value


NAMES = st.sampled_from([b"user.a", b"user.b", b"trusted.a", b"security.capability"])
STEPS = st.lists(st.tuples(
    st.sampled_from(["set", "create", "replace", "remove"]), NAMES, st.binary(max_size=9)))


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_they_are_a_dictionary(steps: list[tuple[str, bytes, bytes]]) -> None:
    world = World()
    file = world.file(b"f").inode_id
    model: dict[bytes, bytes] = {}
    for step, name, value in steps:
        try:
            if step == "remove":
                world.remove_xattr(file, name)
            else:
                world.set_xattr(
                    file, name, value, create=step == "create", replace=step == "replace")
            error = None
        except FsError as failure:
            error = failure.kind
        if step == "create" and name in model:
            assert error == Kind.EXISTS
        elif step in {"replace", "remove"} and name not in model:
            assert error == Kind.NO_ATTRIBUTE
        else:
            assert error is None
            model.pop(name, None)
            model |= {} if step == "remove" else {name: value}
        assert world.list_xattr(file) == sorted(model)
        assert {name: world.get_xattr(file, name) for name in model} == model
    world.check()


def test_names_and_sizes(world: World) -> None:
    file = world.file(b"f").inode_id
    for name in (b"", b"user." + b"n" * XATTR_NAME_BYTES_MAX):
        refused(Kind.OUT_OF_RANGE, world.set_xattr, file, name, b"")
    for name in (b"plain", b"user.", b"system.nfs4_acl", b"other.x"):
        refused(Kind.NOT_SUPPORTED, world.set_xattr, file, name, b"")
        refused(Kind.NOT_SUPPORTED, world.get_xattr, file, name)
    longest = b"user." + b"n" * (XATTR_NAME_BYTES_MAX - 5)
    world.set_xattr(file, longest, b"v" * XATTR_VALUE_BYTES_MAX)
    assert world.get_xattr(file, longest) == b"v" * XATTR_VALUE_BYTES_MAX
    refused(Kind.ARGUMENT_TOO_LARGE, world.set_xattr, file, b"user.b",
            b"v" * (XATTR_VALUE_BYTES_MAX + 1))
    left = XATTR_INODE_BYTES_MAX - XATTR_VALUE_BYTES_MAX - XATTR_NAME_BYTES_MAX - 1
    refused(Kind.NO_SPACE, world.set_xattr, file, b"user.b", b"v" * (left - 6))
    world.set_xattr(file, b"user.b", b"v" * (left - 7))
    world.set_xattr(file, b"user.b", b"")
    assert world.list_xattr(file) == [b"user.b", longest]


def test_user_attributes_follow_the_permission_bits(world: World) -> None:
    file = world.file(b"f", mode=0o640, by=ALICE).inode_id
    world.set_xattr(file, b"user.a", b"1", ALICE)
    refused(Kind.ACCESS_DENIED, world.set_xattr, file, b"user.a", b"2", BOB)
    refused(Kind.ACCESS_DENIED, world.get_xattr, file, b"user.a", BOB)
    refused(Kind.ACCESS_DENIED, world.remove_xattr, file, b"user.a", BOB)
    assert world.list_xattr(file, BOB) == [b"user.a"]  # as Linux: names are no secret
    for other in (world.symlink(b"l", b"t"), world.node(b"p", meta_pb2.FIFO)):
        refused(Kind.NOT_PERMITTED, world.set_xattr, other.inode_id, b"user.a", b"")
        world.set_xattr(other.inode_id, b"trusted.a", b"")
    shared = world.mkdir(b"d", mode=0o1777).inode_id
    refused(Kind.NOT_PERMITTED, world.set_xattr, shared, b"user.a", b"", BOB)


def test_trusted_and_security_are_roots(world: World) -> None:
    file = world.file(b"f", mode=0o666, by=ALICE).inode_id
    for name in (b"trusted.a", b"security.a"):
        world.set_xattr(file, name, b"1")
        refused(Kind.NOT_PERMITTED, world.set_xattr, file, name, b"2", ALICE)
        refused(Kind.NOT_PERMITTED, world.remove_xattr, file, name, ALICE)
    refused(Kind.NO_ATTRIBUTE, world.get_xattr, file, b"trusted.a", ALICE)
    assert world.get_xattr(file, b"security.a", ALICE) == b"1"
    assert world.list_xattr(file, ALICE) == [b"security.a"]


def test_none_outlives_its_inode(world: World) -> None:
    makers: dict[bytes, Callable[[bytes], meta_pb2.Inode]] = {
        b"f": world.file, b"d": world.mkdir, b"l": lambda name: world.symlink(name, b"t"),
        b"replaced": world.file, b"p": lambda name: world.node(name, meta_pb2.FIFO)}
    for name, make in makers.items():
        world.set_xattr(make(name).inode_id, b"trusted.a", name)
    world.file(b"new")
    world.rename(b"new", b"replaced")
    for name in (b"f", b"l", b"p"):
        world.unlink(name)
    world.rmdir(b"d")
    world.pass_time(2 * GRACE)
    world.collect()
    assert world.keys(schema.XATTR) == []


@pytest.mark.parametrize("how", ["chown", "truncate", "open", "write"])
def test_a_changed_file_loses_its_capabilities(world: World, how: str) -> None:
    file = world.file(b"f").inode_id
    world.set_xattr(file, xattrs.CAPABILITY, b"all of them")
    world.set_xattr(file, b"user.a", b"stays")
    if how == "chown":
        world.set_attr(meta_pb2.SetAttrRequest(inode_id=file, uid=1000))
    elif how == "truncate":
        world.truncate(file, 5)
    else:
        world.open(file, SESSION, truncate=how == "open")
        world.close(file, SESSION, length=3 if how == "write" else 0)
    assert world.list_xattr(file) == [b"user.a"]


def test_a_list_of_access_lets_others_in(world: World) -> None:
    file = world.file(b"f", mode=0o600, by=ALICE).inode_id
    refused(Kind.ACCESS_DENIED, world.truncate, file, 1, BOB)
    refused(Kind.NOT_PERMITTED, world.set_xattr, file, xattrs.ACL_ACCESS, FOR_BOB, BOB)
    assert world.set_xattr(file, xattrs.ACL_ACCESS, FOR_BOB, ALICE).mode == 0o660
    world.truncate(file, 1, BOB)
    assert world.get_xattr(file, xattrs.ACL_ACCESS, BOB) == FOR_BOB
    assert world.list_xattr(file) == [xattrs.ACL_ACCESS]
    world.set_attr(meta_pb2.SetAttrRequest(inode_id=file, mode=0o640), by=ALICE)
    refused(Kind.ACCESS_DENIED, world.truncate, file, 2, BOB)  # chmod has changed the mask
    assert world.set_xattr(file, xattrs.ACL_ACCESS, MINIMAL, ALICE).mode == 0o751
    refused(Kind.NO_ATTRIBUTE, world.get_xattr, file, xattrs.ACL_ACCESS)


def test_lists_have_their_places(world: World) -> None:
    file, link = world.file(b"f").inode_id, world.symlink(b"l", b"t").inode_id
    refused(Kind.ACCESS_DENIED, world.set_xattr, file, xattrs.ACL_DEFAULT, FOR_BOB)
    refused(Kind.NOT_SUPPORTED, world.set_xattr, link, xattrs.ACL_ACCESS, FOR_BOB)
    refused(Kind.INVALID_ARGUMENT, world.set_xattr, file, xattrs.ACL_ACCESS, b"nonsense")
    world.set_attr(meta_pb2.SetAttrRequest(inode_id=file, mode=0o2755))
    assert world.set_xattr(file, xattrs.ACL_ACCESS, FOR_BOB, clear_setgid=True).mode == 0o660
    world.remove_xattr(file, xattrs.ACL_ACCESS)
    before = world.stat(file)
    world.remove_xattr(file, xattrs.ACL_ACCESS)
    assert world.stat(file) == before, "as on other filesystems there is nothing to do"


def test_what_is_made_inherits_the_default_list(world: World) -> None:
    place = world.mkdir(b"d").inode_id
    world.set_xattr(place, xattrs.ACL_DEFAULT, FOR_BOB)
    file = world.file(b"f", place, 0o600)
    assert (file.mode, bool(file.acl_access), bool(file.acl_default)) == (0o600, True, False)
    below = world.mkdir(b"below", place, 0o777)
    assert (below.mode, below.acl_default) == (0o660, FOR_BOB)
    fifo = world.node(b"p", meta_pb2.FIFO, place, 0o666)
    assert (fifo.mode, fifo.acl_access) == (0o660, FOR_BOB)
    assert not world.symlink(b"l", b"t", place).acl_access
