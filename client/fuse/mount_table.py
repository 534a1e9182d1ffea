"""Reads the kernel's table of mounts: without touching a mount, which might hang."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from luciole.errors import FsError, Kind

FILESYSTEM = "fuse.luciole"
_OCTAL = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    device: str  # "major:minor"
    mount_point: str
    filesystem: str


def mounts() -> list[MountEntry]:
    """All mounts that this process sees, oldest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        filesystem = fields[fields.index(b"-") + 1]
        found.append(MountEntry(
            fields[2].decode(), os.fsdecode(_unescaped(fields[4])), filesystem.decode()))
    return found


def _unescaped(field: bytes) -> bytes:
    """The kernel writes space, tab, newline and backslash as octal, and all else as it is."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def find_mount(mount_point: Path) -> MountEntry | None:
    """The topmost mount on a directory, or None."""
    wanted = str(mount_point.absolute())
    entries = [entry for entry in mounts() if entry.mount_point == wanted]
    return entries[-1] if entries else None


def device_of_mount(mount_point: Path) -> str:
    """The device number of a mount. Raises FsError NOT_FOUND."""
    entry = find_mount(mount_point)
    if entry is None:
        raise FsError(Kind.NOT_FOUND, "nothing is mounted there", str(mount_point))
    return entry.device
