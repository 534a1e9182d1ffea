"""Reads the kernel's table of mounts: without touching a mount, which might hang."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from luciole.errors import FsError, Kind

FILESYSTEM = "fuse.luciole"


class MountEntry(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    device: str  # "major:minor"
    mount_point: str
    filesystem: str


def mounts() -> list[MountEntry]:
    """All mounts that this process sees, oldest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        filesystem = fields[fields.index("-") + 1]
        mount_point = fields[4].encode().decode("unicode_escape")
        found.append(MountEntry(fields[2], mount_point, filesystem))
    return found


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
