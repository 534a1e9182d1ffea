"""The filesystem of this machine, alone and behind libfuse's example in C."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.passthrough import build
from benchmarks.peers.side import Side, SideError


class Disk(Side):
    """The local filesystem: one copy, no other process, nothing to mount."""

    name = "disk"
    survives = "fsync: the power"
    needs_root = False

    def start(self) -> None:
        """See Side."""
        self.place.mkdir(parents=True)

    def remount(self) -> None:
        """Drops the clean pages of its files."""
        subprocess.run(["sync", "-f", str(self.place)], check=True, timeout=60)
        drop_pages(self.place)


class Passthrough(Side):
    """The same through FUSE, with nothing done in between but C."""

    name = "C passthrough"
    survives = "fsync: the power"

    def missing(self) -> str | None:
        """See Side."""
        self.root.mkdir(exist_ok=True)
        self._program = build(self.root)
        if self._program is None:
            return "not installed: libfuse3-dev with its examples, gcc, pkg-config"
        return super().missing()

    def serve(self) -> None:
        """See Side."""
        (self.root / "behind").mkdir()

    def mount(self) -> None:
        """See Side."""
        if self._program is None:
            raise SideError("the example in C was not built")
        self.spawn(str(self._program), "-f", "-o",
                   f"source={self.root / 'behind'},timeout=60,cache=auto", self.place)


def drop_pages(folder: Path) -> None:
    """Drops the clean cached pages of all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
