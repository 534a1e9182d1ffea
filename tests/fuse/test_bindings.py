"""What an application sees of a mount, through every binding: the conformance suite of bindings."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from luciole.tests.fuse.memory_cluster import CHUNK
from luciole.tests.fuse.mounted import needs_fuse
from luciole.tests.model.exerciser import KEEP_SIZE, fallocate

pytestmark = [pytest.mark.mount, needs_fuse]
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        call(*arguments)
    assert caught.value.errno == number


def rename2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_content_of_every_size_comes_back(place: Path) -> None:
    for size in (0, 1, 4095, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * MIB + 17):
        content = os.urandom(size)
        path = place / str(size)
        path.write_bytes(content)
        assert path.stat().st_size == size
        assert path.read_bytes() == content


def test_every_byte_of_many_concurrent_files_is_its_own(place: Path) -> None:
    """Large writes are sent from memory that is used again: no file may show another's bytes."""
    rounds, size = 4, 3 * CHUNK // 2

    def work(number: int) -> bool:
        path = place / str(number)
        for turn in range(rounds):
            content = bytes([number * rounds + turn]) * size
            path.write_bytes(content)
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if file.read(2 * size) != content:
                    return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(work, range(24)))


def test_small_writes_at_the_end_of_a_chunk_are_their_own(place: Path) -> None:
    """A write that ends its chunk leaves at once; the next request may come before it is sent."""
    count = 48
    with (place / "file").open("w+b", buffering=0) as file:
        def block(number: int) -> None:
            offset = (number + 1) * CHUNK - 4096
            assert os.pwrite(file.fileno(), bytes([number + 1]) * 4096, offset) == 4096

        for _ in range(3):
            for number in range(count):
                block(number)
            os.fsync(file.fileno())
            for number in range(count):
                found = os.pread(file.fileno(), 4096, (number + 1) * CHUNK - 4096)
                assert found == bytes([number + 1]) * 4096


def test_random_writes_and_cuts_match_a_byte_array(place: Path) -> None:
    import random  # noqa: PLC0415

    chance = random.Random(7)
    expected = bytearray()
    with (place / "file").open("w+b", buffering=0) as file:
        for step in range(120):
            offset, size = chance.randrange(2 * CHUNK), chance.choice([1, 100, 5000, CHUNK])
            kind = chance.choice(["write", "write", "read", "cut", "sync"])
            if kind == "write":
                data = bytes([step % 251]) * size
                expected.extend(bytes(max(0, offset + size - len(expected))))
                expected[offset : offset + size] = data
                assert os.pwrite(file.fileno(), data, offset) == size
            elif kind == "read":
                assert os.pread(file.fileno(), size, offset) == expected[offset : offset + size]
            elif kind == "cut":
                del expected[offset:]
                expected.extend(bytes(offset - len(expected)))
                os.ftruncate(file.fileno(), offset)
            else:
                os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_size == len(expected)
    assert (place / "file").read_bytes() == expected


def test_directories_and_files_open_for_reading_can_be_synced(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    for name in ("file", "."):
        descriptor = os.open(place / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def test_sparse_and_cut_files_read_zeros_where_nothing_was_written(place: Path) -> None:
    path = place / "sparse"
    with path.open("wb") as file:
        file.write(b"A" * 100)
        file.seek(3 * MIB + 5)
        file.write(b"B" * 10)
    assert path.read_bytes() == b"A" * 100 + bytes(3 * MIB + 5 - 100) + b"B" * 10
    os.truncate(path, 50)
    os.truncate(path, 2 * MIB)
    assert path.read_bytes() == b"A" * 50 + bytes(2 * MIB - 50)


def test_open_flags(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"old content")
    refused(errno.EEXIST, os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.read_bytes() == b""
    with path.open("ab") as first, path.open("ab") as second:
        for number in range(10):
            for file in (first, second):
                file.write(b"%d" % number)
                file.flush()
    assert path.read_bytes() == b"".join(b"%d%d" % (number, number) for number in range(10))
    reader = os.open(path, os.O_RDONLY)
    refused(errno.EBADF, os.write, reader, b"x")
    os.close(reader)


def test_refusals_have_the_right_errno(place: Path) -> None:
    (place / "file").write_text("x")
    (place / "folder").mkdir()
    (place / "folder" / "inside").write_text("x")
    refused(errno.ENAMETOOLONG, os.mkdir, place / ("n" * 256))
    os.mkdir(place / ("n" * 255))
    refused(errno.ENOTDIR, os.stat, place / "file" / "below")
    refused(errno.ENOENT, os.stat, place / "nothing")
    refused(errno.EEXIST, os.mkdir, place / "file")
    refused(errno.ENOTEMPTY, os.rmdir, place / "folder")
    refused(errno.ENOTDIR, os.rmdir, place / "file")
    refused(errno.EISDIR, os.open, place / "folder", os.O_WRONLY)
    refused(errno.EINVAL, os.rename, place / "folder", place / "folder" / "into-itself")
    refused(errno.EFBIG, os.truncate, place / "file", 1 << 62)


def test_what_is_not_there_yet_is_refused_as_the_kernel_does(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"content")


def test_ranges_are_known_where_the_binding_is_asked(place: Path, binding: str) -> None:
    path = place / "file"
    path.write_bytes(b"content")
    with path.open("r+b") as file:
        if binding == "direct":
            fallocate(file.fileno(), KEEP_SIZE, 0, 100)
        else:
            refused(errno.EOPNOTSUPP, fallocate, file.fileno(), KEEP_SIZE, 0, 100)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(b"content")
        with (place / "copy").open("w+b") as copy:
            assert os.copy_file_range(file.fileno(), copy.fileno(), 100, 0) == len(b"content")
    assert (place / "copy").read_bytes() == b"content"


def test_appends_go_to_the_end_and_blocks_are_counted(place: Path) -> None:
    path = place / "file"
    with path.open("ab", buffering=0) as file:
        for number in range(100):
            assert file.write(b"%05d" % number) == 5
        assert path.stat().st_size == 500
        with path.open("ab", buffering=0) as second:
            second.write(b"between")
        file.write(b"the end")
    assert path.read_bytes() == b"".join(b"%05d" % n for n in range(100)) + b"betweenthe end"
    assert path.stat().st_blocks == 2  # 514 bytes, beside the inode
    os.truncate(path, 1 << 40)
    assert path.stat().st_blocks == 2
    with path.open("r+b", buffering=0) as file:
        file.seek(1 << 20)
        file.write(b"x")
    assert path.stat().st_blocks * 512 == 65536 + 1024


def test_unlinked_and_replaced_open_files_keep_their_content(place: Path) -> None:
    with (place / "open").open("w+b") as file:
        file.write(b"before")
        file.flush()
        os.unlink(place / "open")
        file.write(b" and after")
        file.seek(0)
        assert file.read() == b"before and after"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert list(place.iterdir()) == []
    (place / "a").write_bytes(b"new")
    (place / "b").write_bytes(b"old")
    with (place / "b").open("rb") as old:
        os.rename(place / "a", place / "b")
        assert old.read() == b"old"
    assert (place / "b").read_bytes() == b"new"


def test_rename_flags(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    refused(errno.EEXIST, rename2, place / "a", place / "b", RENAME_NOREPLACE)
    rename2(place / "a", place / "b", RENAME_EXCHANGE)
    assert (place / "a").read_bytes() + (place / "b").read_bytes() == b"ba"
    rename2(place / "a", place / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(place)) == ["b", "c"]


def test_links_and_attributes(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    os.link(path, place / "hard")
    os.symlink("file", place / "soft")
    assert os.readlink(place / "soft") == "file"
    assert (place / "soft").read_bytes() == (place / "hard").read_bytes() == b"x"
    assert path.stat().st_nlink == 2
    assert path.stat().st_ino == (place / "hard").stat().st_ino
    os.chmod(path, 0o640)
    os.chown(path, 1234, 4321)
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    os.utime(path)
    assert path.stat().st_mtime_ns > 2_000_000_002
    before = os.umask(0o027)
    (place / "masked").mkdir()
    os.umask(before)
    assert stat.S_IMODE((place / "masked").stat().st_mode) == 0o750
    os.mknod(place / "node", 0o600 | stat.S_IFREG)
    assert (place / "node").stat().st_size == 0
    space = os.statvfs(place)
    assert space.f_bsize == 4096
    assert space.f_namemax == 255
    assert 0 < space.f_bavail < space.f_blocks


def test_large_directories_list_seek_and_rewind(place: Path) -> None:
    names = {f"entry-{number:04}" for number in range(700)}
    for name in names:
        os.symlink("target", place / name)
    assert set(os.listdir(place)) == names
    # As a C program does: read some, remember the place, go on, come back.
    script = f"""
import ctypes, os
libc = ctypes.CDLL(None)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
directory = ctypes.c_void_p(libc.opendir({os.fsencode(place)!r}))
def following():
    entry = libc.readdir(directory)
    return ctypes.string_at(entry + 19) if entry else None
first = [following() for _ in range(300)]
position = libc.telldir(directory)
rest = []
while (name := following()) is not None:
    rest.append(name)
assert len(set(first) | set(rest)) == 702, len(set(first) | set(rest))
libc.seekdir(directory, ctypes.c_long(position))
assert following() == rest[0]
os.symlink("target", {os.fsencode(place)!r} + b"/added")
os.unlink({os.fsencode(place)!r} + b"/entry-0000")
libc.rewinddir(directory)
again = []
while (name := following()) is not None:
    again.append(name)
assert b"added" in again and b"entry-0000" not in again and len(again) == 702, len(again)
"""
    subprocess.run([sys.executable, "-I", "-c", script], check=True, timeout=30)


def test_shared_mappings_write_through(place: Path) -> None:
    path = place / "mapped"
    path.write_bytes(bytes(3 * 4096 + 100))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[4090:4100] = b"0123456789"
        mapped[-3:] = b"end"
        mapped.flush()
        assert os.pread(file.fileno(), 10, 4090) == b"0123456789"
    content = path.read_bytes()
    assert content[4090:4100] == b"0123456789"
    assert content[-3:] == b"end"
    assert len(content) == 3 * 4096 + 100


def test_direct_io_passes_the_cache_by(place: Path) -> None:
    path = place / "direct"
    memory = mmap.mmap(-1, 8 * 4096)
    memory[:] = os.urandom(len(memory))
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwritev(descriptor, [memory], 0) == len(memory)
        found = mmap.mmap(-1, 8 * 4096)
        assert os.preadv(descriptor, [found], 0) == len(found)
        assert found[:] == memory[:]

        def block(number: int) -> int:
            page = mmap.mmap(-1, 4096)
            page[:] = bytes([number]) * 4096
            return os.pwritev(descriptor, [page], number * 4096)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(block, range(64))) == [4096] * 64
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"".join(bytes([number]) * 4096 for number in range(64))


def test_permissions_of_other_users_and_their_groups(place: Path) -> None:
    (place / "private").mkdir(mode=0o700)
    (place / "shared").mkdir()
    os.chown(place / "shared", 0, 777)
    os.chmod(place / "shared", 0o770)
    script = """
import os, sys
os.setgroups([777]); os.setgid(1000); os.setuid(1000)
open(sys.argv[1] + "/shared/mine", "w").write("x")
try:
    os.listdir(sys.argv[1] + "/private")
except PermissionError:
    sys.exit(0)
sys.exit("the private directory was listed")
"""
    subprocess.run([sys.executable, "-I", "-c", script, place], check=True, timeout=30)
    made = (place / "shared" / "mine").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1000)


def test_a_write_by_somebody_else_ends_set_user_id(place: Path, binding: str) -> None:
    if binding == "pyfuse3":
        pytest.skip("libfuse tells the kernel that the filesystem does it, and not when")
    path = place / "program"
    path.write_bytes(b"x")
    os.chown(path, 1000, 1000)
    for change in ("os.write(f, b'yyy')", "os.posix_fallocate(f, 0, 9)",
                   "os.copy_file_range(f, f, 1, 0, 2)", "os.ftruncate(f, 0)"):
        os.chmod(path, 0o4777)
        script = ("import os, sys; os.setuid(2000); f = os.open(sys.argv[1], os.O_RDWR); "
                  + change)
        subprocess.run([sys.executable, "-I", "-c", script, str(path)], check=True, timeout=30)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777, change


def test_set_user_id_stays_where_nobody_else_writes(place: Path) -> None:
    path = place / "program"
    path.write_bytes(b"x")
    path.chmod(0o4755)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))  # by root, who may
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755
    script = ("import os, sys; os.setuid(2000); "
              "os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o4755)")
    place.chmod(0o777)
    subprocess.run([sys.executable, "-I", "-c", script, place / "new"], check=True, timeout=30)
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o4755


def test_names_are_bytes(place: Path) -> None:
    name = os.fsencode(place) + b"/\xff\xfe \n'\x01"
    os.mkdir(name)
    assert os.listdir(os.fsencode(place)) == [b"\xff\xfe \n'\x01"]
    os.rmdir(name)


def test_many_threads_on_names(place: Path) -> None:
    """Creates, renames and unlinks side by side, and a reader of the directory beside them."""
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            os.listdir(place)

    def work(number: int) -> None:
        for turn in range(15):
            path = place / f"{number}-{turn}"
            path.write_bytes(b"%d" % turn)
            os.rename(path, place / f"{number}-{turn}-moved")
            assert (place / f"{number}-{turn}-moved").read_bytes() == b"%d" % turn
            if turn % 2:
                os.unlink(place / f"{number}-{turn}-moved")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        done.set()
        reader.join(30)
    assert len(os.listdir(place)) == 8 * 8
