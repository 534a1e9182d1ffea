"""Access control lists mean what the kernel means by them: the same lists on a file of its own."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from luciole.errors import FsError
from luciole.meta.core import access, posix_acl, xattrs
from luciole.meta.core.posix_acl import (
    GROUP,
    GROUP_OBJ,
    MASK,
    NO_ID,
    OTHER,
    USER,
    USER_OBJ,
    Entry,
)
from luciole.proto import common_pb2, meta_pb2
from luciole.tests.meta.world import user

ACCESS, DEFAULT = xattrs.ACL_ACCESS.decode(), xattrs.ACL_DEFAULT.decode()
IDS = (1000, 2000, 3000)


def _supported(place: str) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            os.setxattr(file.name, ACCESS, posix_acl.encode((
                Entry(USER_OBJ, 7), Entry(USER, 7, 1), Entry(GROUP_OBJ, 7), Entry(MASK, 7),
                Entry(OTHER, 7))))
    except OSError:
        return False
    return True


PLACE = next((place for place in (tempfile.gettempdir(), "/dev/shm") if _supported(place)), None)
needs_kernel = pytest.mark.skipif(
    os.geteuid() != 0 or PLACE is None,
    reason="needs root, and a directory whose filesystem has access control lists")


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=PLACE) as made:
        Path(made).chmod(0o755)
        yield Path(made)


def draw(chance: Random) -> tuple[Entry, ...]:
    """A list, now and then not a valid one."""
    entries = [Entry(USER_OBJ, chance.randrange(8)), Entry(GROUP_OBJ, chance.randrange(8)),
               Entry(OTHER, chance.randrange(8))]
    for tag in (USER, GROUP):
        entries += [Entry(tag, chance.randrange(8), number)
                    for number in chance.sample(IDS, chance.randrange(3))]
    if len(entries) > 3 or chance.random() < 0.3:
        entries.append(Entry(MASK, chance.randrange(8)))
    entries.sort(key=lambda entry: (entry.tag, entry.id))
    if chance.random() < 0.1:
        del entries[chance.randrange(len(entries))]
    if chance.random() < 0.05:
        chance.shuffle(entries)
    if chance.random() < 0.05:
        entries.append(chance.choice(entries))
    return tuple(entries)


@contextmanager
def acting_as(who: common_pb2.Credential) -> Iterator[None]:
    """This process with another user's effective ids."""
    groups = os.getgroups()
    os.setgroups(list(who.groups))
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def inode_of(path: Path) -> meta_pb2.Inode:
    """What the service would have recorded of the kernel's own file."""
    found = path.stat()
    kind = meta_pb2.DIRECTORY if path.is_dir() else meta_pb2.REGULAR
    return meta_pb2.Inode(
        inode_id=1, type=kind, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid,
        gid=found.st_gid, acl_access=attribute(path, ACCESS))


def attribute(path: Path, name: str) -> bytes:
    return os.getxattr(path, name) if name in os.listxattr(path) else b""


def allowed(inode: meta_pb2.Inode, who: common_pb2.Credential, want: int) -> bool:
    try:
        access.check_access(inode, who, want)
    except FsError:
        return False
    return True


@needs_kernel
def test_who_may_do_what_is_the_kernels_answer(place: Path) -> None:
    chance = Random(1)
    file = place / "f"
    file.touch()
    os.chown(file, 1000, 1000)
    callers = [
        user(1000, 5), user(2000, 5), user(2000, 1000), user(3000, 2000, 1000, 3000),
        user(4000, 3000, 2000), user(4000, 5, 1000, 2000), user(4000, 5), user(0)]
    directory = os.open(place, os.O_PATH)
    compared = 0
    for _ in range(120):
        acl = draw(chance)
        try:
            os.setxattr(file, ACCESS, posix_acl.encode(acl))
        except OSError:
            continue
        inode = inode_of(file)
        for who, want in itertools.product(callers, range(1, 8)):
            with acting_as(who):
                shown = os.access("f", want, dir_fd=directory, effective_ids=True)
            assert allowed(inode, who, want) == shown, (acl, who, want)
            compared += 1
    os.close(directory)
    assert compared > 3000


@needs_kernel
def test_what_is_valid_and_what_becomes_of_the_mode(place: Path) -> None:
    chance = Random(2)
    refused = 0
    for number in range(400):
        file = place / str(number)
        file.touch(0o644)
        acl = draw(chance)
        try:
            os.setxattr(file, ACCESS, posix_acl.encode(acl))
        except OSError as failure:
            with pytest.raises(FsError) as caught:
                posix_acl.decode(posix_acl.encode(acl))
            assert caught.value.facts.errno == failure.errno, acl  # noqa: PT017 - of the kernel
            refused += 1
            continue
        decoded = posix_acl.decode(posix_acl.encode(acl))
        inode = inode_of(file)
        assert inode.mode == posix_acl.mode_bits(decoded)
        kept = b"" if posix_acl.is_minimal(decoded) else posix_acl.encode(decoded)
        assert inode.acl_access == kept
        mode = chance.randrange(0o1000)
        file.chmod(mode)
        assert attribute(file, ACCESS) == posix_acl.after_chmod(kept, mode)
    assert 20 < refused < 200


@needs_kernel
def test_children_inherit_as_the_kernel_has_it(place: Path) -> None:
    chance = Random(3)
    umask = os.umask(0o077)
    try:
        for number in range(150):
            parent = place / str(number)
            parent.mkdir()
            try:
                os.setxattr(parent, DEFAULT, posix_acl.encode(draw(chance)))
            except OSError:
                continue
            mode = chance.randrange(0o1000)
            os.close(os.open(parent / "f", os.O_CREAT | os.O_WRONLY, mode))
            os.mkdir(parent / "d", mode)
            default = attribute(parent, DEFAULT)
            for child in (parent / "f", parent / "d"):
                made = posix_acl.inherit(default, mode)
                assert made == (attribute(child, ACCESS), stat.S_IMODE(child.stat().st_mode))
            assert attribute(parent / "d", DEFAULT) == default
    finally:
        os.umask(umask)


@pytest.mark.parametrize(("value", "number"), [
    (b"", errno.EINVAL), (b"\2\0\0", errno.EINVAL), (b"\2\0\0\0x", errno.EINVAL),
    (b"\1\0\0\0", errno.EOPNOTSUPP),
    (posix_acl.encode((Entry(USER_OBJ, 8), Entry(GROUP_OBJ, 0), Entry(OTHER, 0))), errno.EINVAL),
    (posix_acl.encode((Entry(0x40, 0),)), errno.EINVAL),
    (posix_acl.encode((
        Entry(USER_OBJ, 7), Entry(USER, 7, NO_ID), Entry(GROUP_OBJ, 0), Entry(MASK, 0),
        Entry(OTHER, 0))), errno.EINVAL),
    (posix_acl.encode((Entry(USER, 0, 1),) * 300), errno.ENOSPC),
])
def test_bytes_that_are_no_list(value: bytes, number: int) -> None:
    with pytest.raises(FsError) as caught:
        posix_acl.decode(value)
    assert caught.value.facts.errno == number
    assert posix_acl.decode(b"\2\0\0\0") == ()
