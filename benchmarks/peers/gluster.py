"""GlusterFS: one volume of two bricks on this machine, with its own defaults.

Its command line refuses the names of this machine as hosts of bricks, but takes 127.0.0.2.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.side import Side, SideError, wait_for

HOST = "127.0.0.2"
VOLUME = "luciole-bench"
DAEMON = """volume management
    type mgmt/glusterd
    option working-directory {root}/var
    option run-directory {root}/run
    option transport-type socket
    option transport.socket.bind-address {host}
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


class Gluster(Side):
    """Replica 2."""

    name = "GlusterFS"
    copies = 2
    survives = "names and bytes: the power"
    programs = ("glusterd", "gluster", "glusterfs")

    def serve(self) -> None:
        """See Side."""
        for name in ("var", "run", "log", "brick1", "brick2"):
            (self.root / name).mkdir()
        Path("/var/run/gluster").mkdir(exist_ok=True)
        settings = self.root / "glusterd.vol"
        settings.write_text(DAEMON.format(root=self.root, host=HOST))
        if self._answers():
            raise SideError("another glusterd runs on this machine: stop it first")
        self.run("glusterd", "-f", settings, "-p", self.root / "glusterd.pid",
                 "-l", self.root / "log" / "glusterd.log", "--log-level", "WARNING")
        wait_for("glusterd", self._answers)
        bricks = [f"{HOST}:{self.root}/brick{number}/data" for number in (1, 2)]
        self._gluster("create", "replica", "2", *bricks, "force")
        self._gluster("start")
        wait_for("the bricks", lambda: self.run(
            "gluster", "--mode=script", "volume", "status", VOLUME, "detail"
            ).count(": Y") >= len(bricks))

    def mount(self) -> None:
        """See Side."""
        self.run("glusterfs", "--process-name", "fuse", f"--volfile-server={HOST}",
                 f"--volfile-id=/{VOLUME}", "--acl", f"--log-file={self.root}/log/client.log",
                 self.place)

    def shut_down(self) -> None:
        """See Side."""
        self._gluster("stop", "force")
        self._gluster("delete")

    def role(self, line: list[str]) -> str:
        """See Side: all of them are one program."""
        if "fuse" in line:
            return "client"
        return "brick" if "--brick-name" in line else super().role(line)

    def _gluster(self, verb: str, *arguments: str) -> None:
        self.run("gluster", "--mode=script", "volume", verb, VOLUME, *arguments)

    def _answers(self) -> bool:
        try:
            self.run("gluster", "--mode=script", "pool", "list")
        except SideError:
            return False
        return True
