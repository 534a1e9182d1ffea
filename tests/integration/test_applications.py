"""The programs that people run, on the mount, with their results compared to the source."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luciole.meta.core import posix_acl
from luciole.meta.core.posix_acl import GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from luciole.tests.integration.cluster import Cluster, needs_fuse

pytestmark = [pytest.mark.mount, pytest.mark.slow, needs_fuse]
STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("json", "email", "asyncio", "xml")
SECONDS = 120
MIB = 1 << 20


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a program that must succeed; returns what it printed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"})
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def need(*programs: str) -> None:
    """Skips the test where a program is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def same(source: Path, copy: Path) -> None:
    run("diff", "-r", "--no-dereference", str(source), str(copy))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A part of the standard library, with links and odd modes."""
    root = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(
            STDLIB / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "link").symlink_to("json/decoder.py")
    (root / "dangling").symlink_to("nowhere")
    (root / "json" / "tool.py").chmod(0o640)
    return root


def test_copies_survive_a_restart(cluster: Cluster, source: Path) -> None:
    need("rsync")
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    run("cp", "-r", str(source), str(mount / "cp"))
    run("tar", "cf", str(mount / "all.tar"), "-C", str(source), ".")
    (mount / "tar").mkdir()
    run("tar", "xf", str(mount / "all.tar"), "-C", str(mount / "tar"))
    run("rsync", "-a", f"{source}/", f"{mount}/rsync/")
    copies = [mount / name for name in ("cp", "tar", "rsync")]
    for copy in copies:
        same(source, copy)
    assert run("rsync", "-ain", f"{source}/", f"{mount}/rsync/") == ""  # times and modes too
    cluster.down()
    cluster.up("--mount", str(mount))
    for copy in copies:
        same(source, copy)
    assert cluster.fsck() == []


def test_rsync_keeps_links_attributes_and_access_control_lists(
    cluster: Cluster, source: Path
) -> None:
    need("rsync")
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    first, second = mount / "first", mount / "second"
    shutil.copytree(source, first, symlinks=True)
    os.mkfifo(first / "fifo")
    os.link(first / "json" / "tool.py", first / "hard link")
    os.setxattr(first / "json", "user.origin", b"here")
    acl = posix_acl.encode((
        Entry(USER_OBJ, 7), Entry(USER, 5, 1000), Entry(GROUP_OBJ, 5), Entry(MASK, 5),
        Entry(OTHER, 0)))
    os.setxattr(first / "json", "system.posix_acl_access", acl)
    os.setxattr(first / "json", "system.posix_acl_default", acl)
    run("rsync", "-aHAX", "--specials", f"{first}/", f"{second}/")
    assert run("rsync", "-aHAXin", "--specials", f"{first}/", f"{second}/") == ""
    for name in ("user.origin", "system.posix_acl_access", "system.posix_acl_default"):
        assert os.getxattr(second / "json", name) == os.getxattr(first / "json", name)
    assert (second / "hard link").samefile(second / "json" / "tool.py")
    assert (second / "fifo").is_fifo()
    assert cluster.fsck() == []


def test_git_and_sqlite(cluster: Cluster, source: Path) -> None:
    need("git")
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", "init", "-q", str(source))
    run("git", "add", "-A", cwd=source)
    run("git", *identity, "commit", "-qm", "first", cwd=source)
    clone = mount / "clone"
    run("git", "clone", "-q", str(source), str(clone))
    run("git", "fsck", "--strict", cwd=clone)
    (clone / "new").write_text("more\n")
    run("git", "add", "new", cwd=clone)
    run("git", *identity, "commit", "-qm", "second", cwd=clone)
    assert run("git", "status", "--short", cwd=clone) == ""
    assert len(run("git", "log", "--oneline", cwd=clone).splitlines()) == 2

    database = mount / "t.db"
    with sqlite3.connect(database) as connection:
        mode = connection.execute("pragma journal_mode=delete").fetchone()
        connection.execute("create table t(a integer, b blob)")
        connection.executemany("insert into t values (?, ?)",
                               [(number, os.urandom(100)) for number in range(3000)])
    assert mode == ("delete",)
    for number in range(5):
        with sqlite3.connect(database) as connection:
            connection.execute("insert into t values (?, 'x')", (number,))
    with sqlite3.connect(database) as connection:
        assert connection.execute("select count(*), sum(a) from t").fetchone() == (3005, 4498510)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            found.update(block)
    return found.hexdigest()


def test_a_large_file_reads_alike_from_a_second_mount(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.mounts
    cluster.up("--mount", str(first))
    cluster.luciole("mount", str(second), "--dir", str(cluster.directory.path))
    original = tmp_path / "original"
    run("dd", "if=/dev/urandom", f"of={original}", "bs=1M", "count=192")
    run("dd", f"if={original}", f"of={first}/large", "bs=1M", "conv=fsync")
    assert digest(second / "large") == digest(original)


def test_every_file_is_readable_without_any_one_storage_node(
    cluster: Cluster, source: Path
) -> None:
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    run("cp", "-r", str(source), str(mount / "copy"))
    for number in (1, 2, 3):
        cluster.kill(f"storage-{number}")
        forget_cached(mount / "copy")
        same(source, mount / "copy")
        cluster.up()  # starts it again and waits until every replica serves
    assert cluster.fsck() == []


def forget_cached(root: Path) -> None:
    """Drops the kernel's pages, so that reads go to the cluster."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        call(*arguments)
    assert caught.value.errno == number


def test_refusals_have_the_right_errno(cluster: Cluster) -> None:
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    (mount / "file").write_text("x")
    (mount / "folder").mkdir()
    (mount / "folder" / "inside").write_text("x")
    refused(errno.ENAMETOOLONG, os.mkdir, mount / ("n" * 256))
    os.mkdir(mount / ("n" * 255))
    refused(errno.ENOTDIR, os.stat, mount / "file" / "below")
    refused(errno.ENOENT, os.stat, mount / "nothing")
    refused(errno.EEXIST, os.mkdir, mount / "file")
    refused(errno.ENOTEMPTY, os.rmdir, mount / "folder")
    refused(errno.ENOTDIR, os.rmdir, mount / "file")
    refused(errno.EISDIR, os.open, mount / "folder", os.O_WRONLY)
    refused(errno.EINVAL, os.rename, mount / "folder", mount / "folder" / "into-itself")
    refused(errno.EFBIG, os.truncate, mount / "file", 1 << 62)
    refused(errno.EXDEV, os.link, mount / "file", cluster.directory.path / "outside")


def test_unlinked_and_renamed_open_files_keep_their_content(cluster: Cluster) -> None:
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    with (mount / "open").open("w+b") as file:
        file.write(b"before")
        file.flush()
        os.unlink(mount / "open")
        file.write(b" and after")
        file.seek(0)
        assert file.read() == b"before and after"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert list(mount.iterdir()) == []
    (mount / "a").write_bytes(b"new")
    (mount / "b").write_bytes(b"old")
    with (mount / "b").open("rb") as old:
        os.rename(mount / "a", mount / "b")
        assert old.read() == b"old"
    assert (mount / "b").read_bytes() == b"new"


def names_and_sizes(root: Path) -> Sequence[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in sorted(root.iterdir())]


def test_sparse_and_cut_files_read_zeros_where_nothing_was_written(cluster: Cluster) -> None:
    mount = cluster.mounts[0]
    cluster.up("--mount", str(mount))
    path = mount / "sparse"
    with path.open("wb") as file:
        file.write(b"A" * 100)
        file.seek(3 * MIB + 5)
        file.write(b"B" * 10)
    expected = b"A" * 100 + bytes(3 * MIB + 5 - 100) + b"B" * 10
    assert path.read_bytes() == expected
    os.truncate(path, 50)
    os.truncate(path, 2 * MIB)
    assert path.read_bytes() == b"A" * 50 + bytes(2 * MIB - 50)
    with path.open("r+b") as file:
        file.seek(MIB - 3)
        file.write(b"across")
    assert path.read_bytes() == b"A" * 50 + bytes(MIB - 53) + b"across" + bytes(MIB - 3)
    assert names_and_sizes(mount) == [("sparse", 2 * MIB)]
