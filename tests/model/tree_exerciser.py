"""A tree on one or more mounts against the same tree on a local filesystem.

By hand: `python -m luciole.tests.model.tree_exerciser LOCAL SEED COUNT MOUNT...`, as root, with
LOCAL on ext4.

Layer: tests. Random calls on names, attributes and open files, each made on a mount and locally:
results, errno and attributes must be the same. The mounts take turns; before another's turn open
files are synced and the next mount has to have heard of all that was changed, which is what other
mounts are promised. A failure prints the last operations.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

from luciole.tests.model.exerciser import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

NAMES = ["a", "b", "c", "d", "é", "n" * 200]
MODES = [0o777, 0o755, 0o700, 0o640, 0o4755, 0o2775, 0o1777, 0]
USERS = [0, 0, 0, 1000, 1001]
FLAGS = [0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC,
         os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]
ATTRIBUTES = ["user.a", "user.b", "trusted.t", "odd"]
TURN = 25  # operations until the next mount's turn
OPEN_FILES = 6
KEPT = 60  # operations printed after a failure
SOON_S = 5.0
libc = ctypes.CDLL(None, use_errno=True)
Root = str
Operation = Callable[[Root], object]


def rename2(source: str, target: str, flags: int) -> None:
    """renameat2(2). Raises OSError."""
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def attributes(found: os.stat_result) -> tuple[int, ...]:
    """What stat(2) says that two filesystems agree about."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size, found.st_rdev


def brief(outcome: object) -> str:
    """An outcome for people: of contents, their length and a checksum."""
    if isinstance(outcome, tuple):
        return f"({', '.join(brief(part) for part in outcome)})"
    if isinstance(outcome, bytes):
        return f"{len(outcome)} bytes {zlib.crc32(outcome):x}"
    return str(outcome)


class TreeExerciser:
    """The same tree twice, and everything that can be done to it."""

    def __init__(self, local: Path, mounts: list[Path], seed: int) -> None:
        """All are directories that exist and are empty; `mounts` show the same one."""
        self._local, self._mounts = str(local), [str(mount) for mount in mounts]
        self._mount = self._mounts[0]
        self._chance = random.Random(seed)
        self._log: deque[str] = deque(maxlen=KEPT)
        # For each mount what is open there: each file on the mount and locally.
        self._open_files: dict[str, list[tuple[int, int]]] = {root: [] for root in self._mounts}
        self._turns = 0
        for folder in (f"{self._mount}/turn", f"{self._mount}/tree", f"{self._local}/tree"):
            Path(folder).mkdir(exist_ok=True)
            os.chmod(folder, 0o777)
        names = [
            self._mkdir, self._rmdir, self._unlink, self._rename, self._link, self._symlink,
            self._mknod, self._chmod, self._chown, self._times, self._set_attribute,
            self._get_attribute, self._truncate, self._readlink, self._access]
        self._steps: list[tuple[Callable[[], None], int]] = [
            *((step, 4) for step in names), (self._list, 6), (self._stat, 10), (self._open, 14),
            (self._write, 10), (self._read, 8), (self._cut, 3), (self._change_mode, 2),
            (self._allocate, 3), (self._copy, 3), (self._content, 8), (self._close, 6)]

    def run(self, count: int) -> None:
        """Does that many operations. Raises AssertionError with what was done last."""
        steps, weights = zip(*self._steps, strict=True)
        old_mask = os.umask(0o022)
        try:
            for number, step in enumerate(self._chance.choices(steps, weights, k=count)):
                self._log.append(f"{number} on {self._mount}: ")
                if number % TURN == TURN - 1:
                    self._next_turn()
                step()
            self._next_turn()
            self._log.append("the whole tree")
            self._compare(self._walk)
        except AssertionError as failure:
            text = "\n".join([*self._log, str(failure)]).replace(NAMES[-1], "n*")
            raise AssertionError(text) from failure
        finally:
            os.umask(old_mask)

    def close(self) -> None:
        """Ends with its open files."""
        for pairs in self._open_files.values():
            for mounted, local in pairs:
                os.close(mounted)
                os.close(local)
        self._open_files.clear()

    @property
    def _files(self) -> list[tuple[int, int]]:
        """What is open on the mount whose turn it is."""
        return self._open_files[self._mount]

    def _next_turn(self) -> None:
        """Another mount's turn: it knows what was changed before."""
        for mounted, _ in self._files:
            os.fsync(mounted)
        last = self._mount
        self._mount = self._chance.choice(self._mounts)
        self._turns += 1
        # The length of a name in a directory cannot be guessed: what it sees was told to it.
        os.stat(f"{self._mount}/turn")
        mode = 0o700 | self._turns % 64
        os.chmod(f"{last}/turn", mode)
        end = time.monotonic() + SOON_S
        while os.stat(f"{self._mount}/turn").st_mode & 0o777 != mode:
            assert time.monotonic() < end, f"{self._mount} has not heard of a change"
            time.sleep(0.001)

    # Both sides.

    def _outcome(self, operation: Operation, root: Root, user: int) -> object:
        os.setegid(user)
        os.seteuid(user)
        try:
            return operation(root)
        except OSError as failure:
            return errno.errorcode[failure.errno or 0]
        finally:
            os.seteuid(0)
            os.setegid(0)

    def _do(self, text: str, operation: Operation, *, changes: bool = True) -> None:
        """One operation as some user on both sides.

        What changes nothing, or was refused, is repeated: the mount may hear late of a change.
        """
        user = self._chance.choice(USERS)
        self._log[-1] += f"{text} by {user}"
        wanted = self._outcome(operation, self._local, user)
        found = self._outcome(operation, self._mount, user)
        end = time.monotonic() + SOON_S
        while found != wanted and time.monotonic() < end and (
                not changes or isinstance(found, str)):
            time.sleep(0.01)
            self._look_at_all()
            found = self._outcome(operation, self._mount, user)
        self._log[-1] += f" -> {brief(wanted)}"
        assert found == wanted, f"{brief(found)}, not {brief(wanted)}"

    def _look_at_all(self) -> None:
        """A chmod asks the kernel who owns the file, and only a stat lets that ask anew."""
        for folder, directories, files in os.walk(f"{self._mount}/tree"):
            for name in directories + files:
                os.lstat(f"{folder}/{name}")

    def _compare(self, operation: Operation) -> None:
        for mount in self._mounts:
            assert operation(mount) == operation(self._local), mount

    def _on_file(self, text: str, operation: Callable[[int], object], *, changes: bool = True
                 ) -> None:
        """One operation on an open file."""
        if not self._files:
            self._log[-1] += f"{text}: nothing is open"
            return
        mounted, local = self._chance.choice(self._files)

        def both(root: Root) -> object:
            file = local if root is self._local else mounted
            return operation(file), attributes(os.fstat(file))

        self._do(f"{text} on file {local}", both, changes=changes)

    def _walk(self, root: Root) -> object:
        """All of a tree: names, attributes and contents."""
        found: dict[str, object] = {}
        for folder, directories, files in os.walk(f"{root}/tree"):
            for name in directories + files:
                path = f"{folder}/{name}"
                about = os.lstat(path)
                content = Path(path).read_bytes() if stat.S_ISREG(about.st_mode) else b""
                found[path.removeprefix(root)] = attributes(about), content
        return found

    # What to do it with.

    def _path(self) -> str:
        depth = self._chance.choice([1, 1, 2, 2, 3])
        slash = "/" if self._chance.random() < 0.03 else ""
        return "/tree/" + "/".join(self._chance.choices(NAMES, k=depth)) + slash

    def _place(self) -> int:
        return self._chance.choice([0, self._chance.randint(1, 5000),
                                    self._chance.randint(1, 300_000), 262_144])

    # What can be done.

    def _mkdir(self) -> None:
        path, mode = self._path(), self._chance.choice(MODES)
        self._do(f"mkdir {path} {mode:o}", lambda root: os.mkdir(root + path, mode))

    def _rmdir(self) -> None:
        path = self._path()
        self._do(f"rmdir {path}", lambda root: os.rmdir(root + path))

    def _unlink(self) -> None:
        path = self._path()
        self._do(f"unlink {path}", lambda root: os.unlink(root + path))

    def _rename(self) -> None:
        source, target, flags = self._path(), self._path(), self._chance.choice([0, 0, 1, 2, 3])
        self._do(f"rename {source} {target} {flags}",
                 lambda root: rename2(root + source, root + target, flags))

    def _link(self) -> None:
        source, target = self._path(), self._path()
        self._do(f"link {source} {target}", lambda root: os.link(
            root + source, root + target, follow_symlinks=False))

    def _symlink(self) -> None:
        target, path = self._path().removeprefix("/tree/"), self._path()
        self._do(f"symlink {target} {path}", lambda root: os.symlink(target, root + path))

    def _mknod(self) -> None:
        path, kind = self._path(), self._chance.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
        self._do(f"mknod {path} {kind:o}", lambda root: os.mknod(root + path, kind | 0o644))

    def _chmod(self) -> None:
        path, mode = self._path(), self._chance.choice(MODES)
        self._do(f"chmod {path} {mode:o}", lambda root: os.chmod(root + path, mode))

    def _chown(self) -> None:
        path, follow = self._path(), self._chance.random() < 0.5
        # Not both -1: of that, which clears set-ID bits locally, the kernel tells FUSE nothing.
        user, group = self._chance.choice([-1, *USERS]), self._chance.choice(USERS)
        self._do(f"chown {path} {user} {group}", lambda root: os.chown(
            root + path, user, group, follow_symlinks=follow))

    def _times(self) -> None:
        path = self._path()
        times = (self._chance.randrange(2**62), self._chance.randrange(2**62))

        def operation(root: Root) -> object:
            os.utime(root + path, ns=times, follow_symlinks=False)
            found = os.lstat(root + path)
            return found.st_atime_ns, found.st_mtime_ns

        self._do(f"utimens {path} {times}", operation)

    def _set_attribute(self) -> None:
        path, name = self._path(), self._chance.choice(ATTRIBUTES)
        value, flags = self._chance.randbytes(self._chance.choice([0, 5, 500])), \
            self._chance.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
        if self._chance.random() < 0.3:
            self._do(f"removexattr {path} {name}", lambda root: os.removexattr(root + path, name))
        else:
            self._do(f"setxattr {path} {name} {len(value)} {flags}",
                     lambda root: os.setxattr(root + path, name, value, flags))

    def _get_attribute(self) -> None:
        path, name = self._path(), self._chance.choice(ATTRIBUTES)
        self._do(f"getxattr {path} {name}", lambda root: (
            sorted(os.listxattr(root + path)), os.getxattr(root + path, name)), changes=False)

    def _truncate(self) -> None:
        path, length = self._path(), self._place()
        self._do(f"truncate {path} {length}", lambda root: os.truncate(root + path, length))

    def _readlink(self) -> None:
        path = self._path()
        self._do(f"readlink {path}", lambda root: os.readlink(root + path), changes=False)

    def _access(self) -> None:
        path, mode = self._path(), self._chance.randrange(8)
        self._do(f"access {path} {mode}", lambda root: os.access(
            root + path, mode, effective_ids=True), changes=False)

    def _list(self) -> None:
        path = self._path() if self._chance.random() < 0.8 else "/tree"

        def operation(root: Root) -> object:
            with os.scandir(root + path) as entries:
                return sorted((entry.name, entry.is_dir(follow_symlinks=False),
                               entry.is_symlink()) for entry in entries)

        self._do(f"list {path}", operation, changes=False)

    def _stat(self) -> None:
        path, call = self._path(), self._chance.choice([os.stat, os.lstat])
        self._do(f"{call.__name__} {path}", lambda root: attributes(call(root + path)),
                 changes=False)

    def _open(self) -> None:
        if len(self._files) >= OPEN_FILES:
            self._close()
            return
        path, mode = self._path(), self._chance.choice(MODES)
        flags = self._chance.choice(FLAGS) | os.O_NONBLOCK | self._chance.choice(
            [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
        opened: dict[bool, int] = {}

        def operation(root: Root) -> None:
            opened[root is self._local] = os.open(root + path, flags, mode)

        try:
            self._do(f"open {path} {flags:o} {mode:o}", operation)
        finally:
            if len(opened) < 2 or not stat.S_ISREG(os.fstat(opened[True]).st_mode):
                for file in opened.values():
                    os.close(file)
            else:
                self._log[-1] += f" file {opened[True]}"
                self._files.append((opened[False], opened[True]))

    def _close(self) -> None:
        if self._files:
            for file in self._files.pop(self._chance.randrange(len(self._files))):
                self._log[-1] += f" close {file}"
                os.close(file)

    def _write(self) -> None:
        offset, size = self._place(), self._chance.choice([1, 100, 4096, 70_000])
        data = self._chance.randbytes(16) * (size // 16 + 1)
        if self._chance.random() < 0.3:
            self._on_file(f"write {offset} {size}", lambda file: (
                os.lseek(file, offset, os.SEEK_SET), os.write(file, data[:size])))
        else:
            self._on_file(f"pwrite {offset} {size}",
                          lambda file: os.pwrite(file, data[:size], offset))

    def _read(self) -> None:
        offset = self._place()
        self._on_file(
            f"read {offset}", lambda file: os.pread(file, 100_000, offset), changes=False)

    def _cut(self) -> None:
        length = self._place()
        self._on_file(f"ftruncate {length}", lambda file: os.ftruncate(file, length))

    def _change_mode(self) -> None:
        mode = self._chance.choice(MODES)
        self._on_file(f"fchmod {mode:o}", lambda file: os.fchmod(file, mode))

    def _allocate(self) -> None:
        mode = self._chance.choice([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE,
                                    ZERO_RANGE | KEEP_SIZE])
        offset, size = self._place(), self._place()
        self._on_file(f"fallocate {mode} {offset} {size}",
                      lambda file: fallocate(file, mode, offset, size))

    def _copy(self) -> None:
        if not self._files:
            return
        source, count = self._chance.choice(self._files), self._place()
        offset, target = self._place(), self._place()

        def copy(file: int) -> int:
            here = source[int(any(file == local for _, local in self._files))]
            os.fstat(here)  # the kernel compares with the length that it was told last
            return os.copy_file_range(here, file, count, offset, target)

        self._on_file(f"copy from {source[1]} {offset} {target} {count}", copy)

    def _content(self) -> None:
        path = self._path()

        def operation(root: Root) -> object:
            file = os.open(root + path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return attributes(os.fstat(file)), os.pread(file, 1 << 20, 0)
            finally:
                os.close(file)

        self._do(f"content {path}", operation, changes=False)


def main() -> None:
    """Runs from the command line."""
    local, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    mounts = [Path(place) / f"exercised-{seed}" for place in sys.argv[4:]]
    mounts[0].mkdir()
    (local / f"exercised-{seed}").mkdir()
    began = time.monotonic()
    exerciser = TreeExerciser(local / f"exercised-{seed}", mounts, seed)
    exerciser.run(count)
    exerciser.close()
    print(f"seed {seed}: {count} operations in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
