"""Attributes, access control lists, nodes and unnamed files, as an application meets them."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luciole.meta.core import posix_acl
from luciole.meta.core.posix_acl import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from luciole.tests.fuse.mounted import needs_fuse

pytestmark = [pytest.mark.mount, needs_fuse]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
AT_FDCWD, AT_SYMLINK_FOLLOW, STATX_BTIME = -100, 0x400, 0x800
libc = ctypes.CDLL(None, use_errno=True)


def for_user(number: int, permissions: int) -> bytes:
    return posix_acl.encode((
        Entry(USER_OBJ, 7), Entry(USER, permissions, number), Entry(GROUP_OBJ, 5), Entry(MASK, 7),
        Entry(OTHER, 0)))


@pytest.fixture
def direct(binding: str, place: Path) -> Path:
    """The same where only the direct binding can."""
    if binding != "direct":
        pytest.skip("libfuse keeps this from the filesystem")
    return place


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        call(*arguments)
    assert caught.value.errno == number


@needs_root
def test_attributes_come_back(place: Path) -> None:
    file = place / "f"
    file.touch()
    assert os.listxattr(file) == []
    refused(errno.ENODATA, os.getxattr, file, "user.a")
    os.setxattr(file, "user.a", b"one\0two")
    os.setxattr(file, "trusted.b", b"")
    os.setxattr(file, "security.large", b"v" * 65_000)
    assert sorted(os.listxattr(file)) == ["security.large", "trusted.b", "user.a"]
    assert os.getxattr(file, "user.a") == b"one\0two"
    assert os.getxattr(file, "trusted.b") == b""
    assert os.getxattr(file, "security.large") == b"v" * 65_000
    os.removexattr(file, "user.a")
    refused(errno.ENODATA, os.removexattr, file, "user.a")
    refused(errno.EOPNOTSUPP, os.setxattr, file, "plain", b"")
    os.setxattr(file, "user.b", b"v" * 65_536)
    refused(errno.ENOSPC, os.setxattr, file, "user.c", b"v" * 65_536)


def test_flags_and_short_buffers(direct: Path) -> None:
    file = direct / "f"
    file.touch()
    refused(errno.ENODATA, os.setxattr, file, "user.a", b"", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"value", os.XATTR_CREATE)
    refused(errno.EEXIST, os.setxattr, file, "user.a", b"", os.XATTR_CREATE)
    room = ctypes.create_string_buffer(4)
    path = os.fsencode(file)
    assert libc.getxattr(path, b"user.a", room, ctypes.c_size_t(0)) == 5
    assert libc.getxattr(path, b"user.a", room, ctypes.c_size_t(4)) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path, room, ctypes.c_size_t(0)) == 7
    assert libc.listxattr(path, room, ctypes.c_size_t(4)) == -1
    assert ctypes.get_errno() == errno.ERANGE


@needs_root
def test_lists_decide_for_the_kernel_too(direct: Path) -> None:
    file = direct / "f"
    file.write_text("secret")
    file.chmod(0o700)
    reading = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "cat", str(file)]
    assert subprocess.run(reading, check=False, capture_output=True, timeout=20).returncode == 1
    os.setxattr(file, ACCESS, for_user(1000, 4))
    assert stat.S_IMODE(file.stat().st_mode) == 0o770
    done = subprocess.run(reading, check=True, capture_output=True, timeout=20)
    assert done.stdout == b"secret"
    file.chmod(0o707)  # takes the mask away, and so the entry; others may, but 1000 is named
    os.setxattr(file, ACCESS, for_user(1000, 0))
    assert subprocess.run(reading, check=False, capture_output=True, timeout=20).returncode == 1
    os.removexattr(file, ACCESS)
    refused(errno.ENODATA, os.getxattr, file, ACCESS)
    os.removexattr(file, ACCESS)  # tar does so without looking, and ext4 has no objection


def test_a_default_list_takes_the_place_of_the_umask(direct: Path) -> None:
    os.setxattr(direct, DEFAULT, for_user(1000, 6))
    umask = os.umask(0o077)
    try:
        (direct / "f").touch()
        (direct / "d").mkdir()
        os.removexattr(direct, DEFAULT)
        (direct / "g").touch()
    finally:
        os.umask(umask)
    assert stat.S_IMODE((direct / "f").stat().st_mode) == 0o660
    assert os.getxattr(direct / "d", DEFAULT) == for_user(1000, 6)
    assert stat.S_IMODE((direct / "g").stat().st_mode) == 0o600


@needs_root
def test_nodes_of_every_kind(place: Path) -> None:
    os.mkfifo(place / "fifo")
    os.mknod(place / "character", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(place / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(place / "socket"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(os.path.relpath(place / "socket"))
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((place / "socket").stat().st_mode)
    assert (place / "character").stat().st_rdev == os.makedev(1, 3)
    assert (place / "block").stat().st_rdev == os.makedev(259, 70_000)
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "fifo", os.O_WRONLY)
    assert os.write(writer, b"through") == 7
    assert os.read(reader, 10) == b"through"
    os.close(writer)
    os.close(reader)
    types = {entry.name: entry.is_symlink() for entry in os.scandir(place)}
    assert len(types) == 4


def test_a_file_without_a_name(direct: Path) -> None:
    descriptor = os.open(direct, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(descriptor, b"content")
    assert os.fstat(descriptor).st_nlink == 0
    assert os.listdir(direct) == []
    assert libc.linkat(
        AT_FDCWD, b"/proc/self/fd/%d" % descriptor, AT_FDCWD, os.fsencode(direct / "f"),
        AT_SYMLINK_FOLLOW) == 0
    os.close(descriptor)
    assert (direct / "f").read_bytes() == b"content"
    assert (direct / "f").stat().st_nlink == 1
    alone = os.open(direct, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    assert libc.linkat(
        AT_FDCWD, b"/proc/self/fd/%d" % alone, AT_FDCWD, os.fsencode(direct / "g"),
        AT_SYMLINK_FOLLOW) == -1
    os.close(alone)


def test_the_time_of_birth(direct: Path) -> None:
    file = direct / "f"
    file.touch()
    made = file.stat().st_mtime_ns
    os.utime(file, ns=(0, 0))
    room = ctypes.create_string_buffer(256)
    assert libc.statx(AT_FDCWD, os.fsencode(file), 0, STATX_BTIME, room) == 0
    mask = int.from_bytes(room.raw[:4], "little")
    seconds = int.from_bytes(room.raw[80:88], "little")
    assert mask & STATX_BTIME
    assert seconds == made // 10**9
