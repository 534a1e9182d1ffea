"""MooseFS: a master, two chunk servers, and its mount; two copies (goal 2).

Chunk servers refuse all addresses that only lead back to their machine, so all of it runs in a
network namespace of its own that has nothing but such a one; the mount is seen by everybody.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.peers.side import Side, SideError

HOST = "10.99.0.1"
EMPTY = Path("/var/lib/mfs/metadata.mfs.empty")
COMMON = "WORKING_USER = root\nWORKING_GROUP = root\nNICE_LEVEL = 0\nDATA_PATH = {data}\n"
MASTER = COMMON + "EXPORTS_FILENAME = {exports}\n" + "".join(
    f"{name}_LISTEN_HOST = {HOST}\n" for name in ("MATOML", "MATOCS", "MATOCL"))
CHUNKS = COMMON + f"""HDD_CONF_FILENAME = {{disks}}
BIND_HOST = {HOST}
MASTER_HOST = {HOST}
CSSERV_LISTEN_HOST = {HOST}
CSSERV_LISTEN_PORT = {{port}}
"""


class MooseFS(Side):
    """Defaults otherwise, but no niceness."""

    name = "MooseFS"
    copies = 2
    survives = "names and bytes: every process; fsync: the same"
    programs = ("mfsmaster", "mfschunkserver", "mfsmount", "mfssetgoal", "ip", "nsenter")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._space = f"luciole-bench-{os.getpid()}"

    def serve(self) -> None:
        """See Side."""
        self.run("ip", "netns", "add", self._space)
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "addr", "add", f"{HOST}/32", "dev", "lo")
        master = self.root / "master"
        master.mkdir()
        shutil.copy(EMPTY, master / "metadata.mfs")
        exports = self._file("exports", "* / rw,alldirs,admin,maproot=0:0\n")
        self._inside("mfsmaster", "-c", self._file(
            "master.cfg", MASTER.format(data=master, exports=exports)), "-a", "start")
        for number in (1, 2):
            data = self.root / f"chunks{number}"
            (data / "disk").mkdir(parents=True)
            disks = self._file(f"disks{number}", f"{data}/disk -10GiB\n")
            self._inside("mfschunkserver", "-c", self._file(
                f"chunks{number}.cfg", CHUNKS.format(data=data, disks=disks, port=9500 + number)),
                "start")

    def mount(self) -> None:
        """See Side."""
        self._inside("mfsmount", self.place, "-o", f"mfsmaster={HOST},mfsport=9421,mfsnice=0")

    def ready(self) -> bool:
        """See Side: there is room once both chunk servers have reported."""
        return os.statvfs(self.place).f_blocks > 1000

    def mounted(self) -> None:
        """See Side."""
        self._inside("mfssetgoal", "-r", "2", self.place)

    def shut_down(self) -> None:
        """See Side."""
        for number in (1, 2):
            self._inside("mfschunkserver", "-c", self.root / f"chunks{number}.cfg", "stop")
        self._inside("mfsmaster", "-c", self.root / "master.cfg", "stop")

    def stop(self) -> None:
        """See Side."""
        super().stop()
        try:
            self.run("ip", "netns", "del", self._space)
        except SideError:
            return  # it was not made

    def _file(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        return path

    def _inside(self, program: str, *arguments: str | Path) -> None:
        self.run("nsenter", f"--net=/run/netns/{self._space}", "--", program, *arguments)
