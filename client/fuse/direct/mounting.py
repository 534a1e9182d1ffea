"""Making and ending a mount: mount(2) for root, the program fusermount3 for everybody else.

Layer: shell. Source: mount(2), umount(2), fusermount3(1), and "FUSE" in the kernel's documentation
(filesystems/fuse). fusermount3 opens the device itself and passes it over a socket whose number it
finds in the environment.
"""

from __future__ import annotations

import array
import ctypes
import os
import shutil
import socket
import subprocess
from pathlib import Path

from luciole.client.fuse.mount_table import FILESYSTEM, find_mount
from luciole.errors import FsError, Kind

DEVICE = "/dev/fuse"
NAME = "luciole"
MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MNT_DETACH = 2
MS_RDONLY = 1
HELPER = "fusermount3"
HELPER_SECONDS = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def mount(
    mount_point: Path, *, allow_other: bool, max_read: int, read_only: bool = False,
    by_helper: bool | None = None,
) -> int:
    """Mounts and returns the descriptor of the device, on which the kernel waits for INIT's reply.

    Args:
        mount_point: an existing directory.
        allow_other: whether other users than the mounting one may use it; root may always.
        max_read: largest read in bytes.
        read_only: whether the kernel is to refuse what would change something (EROFS).
        by_helper: whether fusermount3 is to do it; None: unless this is root.

    Raises FsError CONFIG_INVALID with the remedy.
    """
    options = ["default_permissions", f"max_read={max_read}"]
    if allow_other:
        options.append("allow_other")
    if by_helper is None:
        by_helper = os.geteuid() != 0
    if by_helper:
        return _mount_by_helper(mount_point, [*options, "ro"] if read_only else options)
    return _mount_directly(mount_point, options, MS_RDONLY if read_only else 0)


def _refused(mount_point: Path, reason: str) -> FsError:
    return FsError(
        Kind.CONFIG_INVALID, f"the kernel refused the mount ({reason}): is /dev/fuse there, "
        "and is nothing mounted on it already?", str(mount_point))


def _mount_directly(mount_point: Path, options: list[str], flags: int) -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        status = os.stat(mount_point)
    except OSError as failure:
        raise _refused(mount_point, str(failure)) from failure
    data = ",".join([
        f"fd={device}", f"rootmode={status.st_mode & 0o170000:o}", f"user_id={os.getuid()}",
        f"group_id={os.getgid()}", *options])
    done = _libc.mount(
        NAME.encode(), os.fsencode(mount_point), FILESYSTEM.encode(),
        ctypes.c_ulong(MS_NOSUID | MS_NODEV | flags), data.encode())
    if done != 0:
        reason = os.strerror(ctypes.get_errno())
        os.close(device)
        raise _refused(mount_point, reason)
    return device


def _mount_by_helper(mount_point: Path, options: list[str]) -> int:
    kind = FILESYSTEM.partition(".")[2]
    words = ",".join([*options, f"fsname={NAME}", f"subtype={kind}", "nosuid", "nodev"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            done = subprocess.run(
                [HELPER, "-o", words, "--", str(mount_point)], pass_fds=[theirs.fileno()],
                env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())}, check=False,
                capture_output=True, text=True, timeout=HELPER_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise _refused(mount_point, f"{HELPER}: {failure}") from failure
        if done.returncode != 0:
            raise _refused(mount_point, done.stderr.strip())
        ours.settimeout(HELPER_SECONDS)
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
    for level, kind_of_message, content in control:
        if (level, kind_of_message) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptor = array.array("i", content)[0]
            os.set_inheritable(descriptor, False)
            return descriptor
    raise _refused(mount_point, f"{HELPER} passed no device")


def detach(mount_point: Path) -> None:
    """Takes the mount away from its path at once, also while it is in use.

    Does nothing if it is not there (any more).
    """
    entry = find_mount(mount_point)
    if entry is None or entry.filesystem != FILESYSTEM:
        return
    if os.geteuid() == 0:
        _libc.umount2(os.fsencode(mount_point), MNT_DETACH)
        return
    helper = shutil.which(HELPER)
    if helper is not None:
        subprocess.run([helper, "-u", "-z", "-q", "--", str(mount_point)], check=False,
                       timeout=HELPER_SECONDS, capture_output=True)
