"""Mounting and unmounting: one daemon process for each mount.

Layer: shell. A mount whose daemon died answers "transport endpoint is not connected", one whose
daemon is stuck answers nothing: so the kernel's table is read first, and a mount is only touched
by a helper process that can be given up.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from luciole.client.fuse.mount_table import FILESYSTEM, find_mount
from luciole.deploy import processes
from luciole.deploy.cluster_directory import ClusterDirectory
from luciole.deploy.processes import ProcessRecord
from luciole.errors import FsError, Kind

MOUNT_SECONDS = 30.0
PROBE_SECONDS = 5.0
UNMOUNT_SECONDS = 30.0
POLL_SECONDS = 0.05
NAME_TAIL = 40
# pyfuse3 allocates a mebibyte for each WRITE, and gathered writes do through either binding. With
# glibc's defaults that is an mmap, a munmap and 256 page faults each time; kept in the heap, writes
# through pyfuse3 are 1.9 times as fast.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
_PROBE = """
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as failure:
    sys.exit(failure.errno)
"""


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path as the kernel's table names it, found without touching a mount on it."""
    plain = Path(os.path.abspath(path))
    candidate = plain.parent.resolve() / plain.name
    return candidate if find_mount(candidate) else candidate.resolve()


def probe(mount_point: Path, seconds: float = PROBE_SECONDS) -> int | None:
    """0 when the file system answers, its errno when it fails, None when it stays silent."""
    try:
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROBE, str(mount_point)], timeout=seconds,
            check=False, stdin=subprocess.DEVNULL).returncode
    except subprocess.TimeoutExpired:
        return None


def is_mounted(mount_point: Path) -> bool:
    """Whether a luciole is mounted there, alive or not."""
    entry = find_mount(mount_point)
    return entry is not None and entry.filesystem == FILESYSTEM


def is_stale(mount_point: Path) -> bool:
    """Whether a luciole is mounted there whose daemon has died."""
    # ECONNABORTED is what a request gets that was under way while the daemon ended.
    dead = {errno.ENOTCONN, errno.ECONNABORTED}
    return is_mounted(mount_point) and probe(mount_point) in dead


def clear_stale(mount_point: Path) -> bool:
    """Takes away a mount whose daemon has died; returns whether there was one."""
    if not is_stale(mount_point):
        return False
    _unmount(mount_point, lazy=True)
    return True


def _unmount(mount_point: Path, *, lazy: bool) -> None:
    """Raises FsError BUSY or INTERNAL, with the remedy."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mount_point)]
    if os.geteuid() == 0 and shutil.which(command[0]) is None:
        # Root mounts without it. It is better where it is: umount looks at the path first, and
        # waits there for a cluster that is lost.
        command = ["umount", *(["-l"] if lazy else []), "--", str(mount_point)]
    try:
        done = subprocess.run(
            command, timeout=UNMOUNT_SECONDS, check=False, capture_output=True, text=True)
    except FileNotFoundError as failure:
        raise FsError(Kind.CONFIG_INVALID, f"the program {command[0]} is not there: install "
                      "the package fuse3", str(mount_point)) from failure
    except subprocess.TimeoutExpired as failure:
        raise FsError(Kind.DEADLINE_EXCEEDED, f"not unmounted within {UNMOUNT_SECONDS:.0f} s: "
                      "`luciole umount --lazy` detaches it at once", str(mount_point)) from failure
    if done.returncode == 0 or not is_mounted(mount_point):
        return
    if "busy" in done.stderr.lower():
        raise FsError(Kind.BUSY, "the mount is in use: close the programs that use it "
                      f"(`lsof {mount_point}` shows them), or detach it with "
                      f"`luciole umount --lazy {mount_point}`", str(mount_point))
    raise FsError(Kind.INTERNAL, f"{command[0]}: {done.stderr.strip()}", str(mount_point))


def mount_name(mount_point: Path) -> str:
    """The name of a mount's pid file and log: readable, and of this path only."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", str(mount_point)).strip("-")[-NAME_TAIL:]
    digest = hashlib.sha256(os.fsencode(mount_point)).hexdigest()[:6]
    return f"mount-{readable}-{digest}"


def check_mount_point(mount_point: Path) -> None:
    """Raises FsError CONFIG_INVALID unless something may be mounted there now."""
    entry = find_mount(mount_point)
    if entry is not None and entry.filesystem == FILESYSTEM:
        state = probe(mount_point)
        says = {0: "is mounted there already", None: "is mounted there and does not answer"}
        raise FsError(Kind.CONFIG_INVALID, f"another luciole {says.get(state, 'is mounted there')}"
                      f": `luciole umount {mount_point}` first", str(mount_point))
    if not mount_point.exists():
        raise FsError(Kind.CONFIG_INVALID, "the mount point does not exist: make it with "
                      f"`mkdir -p {mount_point}`", str(mount_point))
    if not mount_point.is_dir():
        raise FsError(Kind.CONFIG_INVALID, "the mount point is not a directory: name one",
                      str(mount_point))
    if entry is not None and mount_point.samefile(entry.mount_point):
        raise FsError(Kind.CONFIG_INVALID, f"a file system of type {entry.filesystem} is mounted "
                      "there: unmount it, or name another directory", str(mount_point))
    if any(mount_point.iterdir()):
        raise FsError(Kind.CONFIG_INVALID, "the mount point is not empty, and a mount would hide "
                      "what it holds: name an empty directory", str(mount_point))
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise FsError(Kind.CONFIG_INVALID, "/dev/fuse cannot be opened: load the kernel module "
                      "(`modprobe fuse`) or give the container the device (`--device /dev/fuse "
                      "--cap-add SYS_ADMIN`)", str(mount_point))


def mounted_by(directory: ClusterDirectory, mount_point: Path) -> ProcessRecord | None:
    """The living daemon of this cluster that serves a mount there."""
    record = processes.running(directory.pid_file(mount_name(mount_point)))
    return record if record and is_mounted(mount_point) else None


def mount(
    config_file: Path,
    mount_point: Path,
    *,
    directory: ClusterDirectory | None,
    seconds: float = MOUNT_SECONDS,
    binding: str | None = None,
    read_only: bool = False,
) -> ProcessRecord:
    """Mounts a cluster and returns once the mount answers; what is mounted already stays.

    Args:
        config_file: the client.toml to use.
        mount_point: as `absolute` returns it.
        directory: of the local cluster, which keeps log and pid file; None for others.
        seconds: bound of the wait.
        binding: to the kernel; None: as config_file says.
        read_only: whether the kernel refuses changes, also if config_file does not say so.

    Raises FsError: the daemon's own words when it ends.
    """
    if directory is not None:
        known = mounted_by(directory, mount_point)
        if known is not None and probe(mount_point) == 0:
            return known
    clear_stale(mount_point)
    check_mount_point(mount_point)
    name = mount_name(mount_point)
    chosen = [] if binding is None else ["--fuse", binding]
    chosen += ["--read-only"] if read_only else []
    arguments = ["mount", "--foreground", "--config", str(config_file.absolute()), *chosen]
    if directory is None:
        place = Path(tempfile.gettempdir()) / f"luciole-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
        log, working_directory = place / f"{name}.log", place
    else:
        log, working_directory = directory.log_file(name), directory.path
        arguments += ["--pid-file", str(directory.pid_file(name))]
    child = processes.spawn(
        name, processes.luciole_command(*arguments, "--", str(mount_point)),
        directory=working_directory, log=log, environment=ALLOCATOR)
    _await_mount(child, mount_point, seconds)
    record = processes.record_of(child.process.pid, str(mount_point))
    if record is None:
        raise _ended(child, mount_point)
    return record


def _await_mount(child: processes.Child, mount_point: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if child.ended() is not None:
            raise _ended(child, mount_point)
        if is_mounted(mount_point) and probe(mount_point, seconds) == 0:
            return
        if time.monotonic() > deadline:
            record = processes.record_of(child.process.pid)
            if record is not None:
                processes.stop([record], PROBE_SECONDS)
            clear_stale(mount_point)
            raise FsError(Kind.DEADLINE_EXCEEDED, f"not mounted within {seconds:.0f} s: is the "
                          f"cluster up (`luciole status`)? The log is {child.log}",
                          str(mount_point))
        time.sleep(POLL_SECONDS)


def _ended(child: processes.Child, mount_point: Path) -> FsError:
    return FsError(Kind.UNAVAILABLE, f"the mount's daemon ended; the end of its log {child.log}:"
                   f"\n{child.last_words()}\n", str(mount_point))


def find_daemon(mount_point: Path) -> ProcessRecord | None:
    """The daemon of a mount, of whichever cluster, by its command line."""
    wanted = [b"luciole.deploy", b"mount", b"--foreground"]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if words[-1] == os.fsencode(mount_point) and all(word in words for word in wanted):
            return processes.record_of(int(entry.name), str(mount_point))
    return None


def unmount(mount_point: Path, *, lazy: bool = False) -> None:
    """Unmounts, and waits for the daemon to write out what it holds.

    Raises FsError NOT_FOUND when no luciole is mounted there, BUSY with the remedies.
    """
    if not is_mounted(mount_point):
        raise FsError(Kind.NOT_FOUND, "no luciole is mounted there: `luciole status` shows the "
                      "mounts of a cluster", str(mount_point))
    if clear_stale(mount_point):
        return
    daemon = find_daemon(mount_point)
    _unmount(mount_point, lazy=lazy)
    if daemon is not None and not lazy and not processes.wait_end(daemon, UNMOUNT_SECONDS):
        raise FsError(Kind.DEADLINE_EXCEEDED, f"unmounted, but its daemon (process {daemon.pid}) "
                      f"still writes after {UNMOUNT_SECONDS:.0f} s", str(mount_point))


def take_down(
    directory: ClusterDirectory, seconds: float, note: Callable[[str], None]
) -> list[ProcessRecord]:
    """Ends all mounts of a cluster; `note` hears of those that were in use.

    Returns the daemons that had to be killed.
    """
    records = []
    for pid_file in directory.mount_pid_files():
        record = processes.read_record(pid_file)
        if record is not None:
            if _detach(Path(record.mount_point), note):
                processes.send(record, signal.SIGTERM)
            records.append(record)
        pid_file.unlink(missing_ok=True)
    deadline = time.monotonic() + seconds / 2
    left = [record for record in records
            if not processes.wait_end(record, deadline - time.monotonic())]
    killed = processes.stop(left, seconds / 2)
    for record in records:
        clear_stale(Path(record.mount_point))
    return killed


def _detach(mount_point: Path, note: Callable[[str], None]) -> bool:
    """Unmounts; returns whether the daemon must be told, since its mount was in use."""
    if not is_mounted(mount_point) or clear_stale(mount_point):
        return False
    try:
        _unmount(mount_point, lazy=False)
    except FsError as failure:
        if failure.kind != Kind.BUSY:
            raise
        note(f"{mount_point} was in use: programs that use it lose it")
        _unmount(mount_point, lazy=True)
        return True
    return False
