"""This filesystem: a local cluster of real processes, mounted."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from benchmarks.peers.side import Side, SideError
from luciole.client.fuse.mount_table import find_mount
from luciole.deploy.cli import main as luciole


class Luciole(Side):
    """Two storage processes and two copies, as the peers have."""

    name = "luciole"
    copies = 2
    needs_root = False

    def __init__(self, root: Path, durability: str, nodes: int) -> None:
        super().__init__(root)
        self.cluster = self.root / "cluster"
        self._durability = durability
        self._nodes = nodes
        self.survives = {
            "process": "names and bytes: every process; fsync: the power",
            "power": "the power",
        }[durability]

    def serve(self) -> None:
        """See Side."""
        self._command("up", str(self.cluster), "--nodes", str(self._nodes), "--replicas", "2",
                      "--targets-per-node", "2", "--durability", self._durability)

    def mount(self) -> None:
        """See Side."""
        self._command("mount", str(self.place), "--dir", str(self.cluster))

    def unmount(self) -> None:
        """See Side."""
        if find_mount(self.place) is not None:
            self._command("umount", str(self.place))

    def shut_down(self) -> None:
        """See Side."""
        self._command("down", str(self.cluster))

    def role(self, line: list[str]) -> str:
        """See Side: `… -m luciole.deploy storage serve --config …`."""
        module = line.index("luciole.deploy") if "luciole.deploy" in line else 0
        return line[module + 1]

    @staticmethod
    def _command(*arguments: str) -> None:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            code = luciole(list(arguments))
        if code:
            raise SideError(f"`luciole {' '.join(arguments)}` said: {said.getvalue().strip()}")
