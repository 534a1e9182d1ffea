"""JuiceFS: names in Redis, which waits for the disk at each change; bytes as local files, once."""

from __future__ import annotations

from benchmarks.peers.side import Side, SideError, wait_for
from luciole.deploy.ports import find_block


class JuiceFS(Side):
    """No copies of its own: it leaves them to its object store. No cache on the local disk."""

    name = "JuiceFS"
    copies = 1
    survives = "names: the power; bytes: every process; fsync: the same"
    programs = ("juicefs", "redis-server", "redis-cli")

    def serve(self) -> None:
        """See Side."""
        for name in ("redis", "data", "cache"):
            (self.root / name).mkdir()
        self._port = find_block(1)
        self._names = f"redis://127.0.0.1:{self._port}/1"
        # The folder stands in the title that Redis gives its process.
        self.spawn("redis-server", "--bind", "127.0.0.1", "--port", str(self._port),
                   "--dir", self.root / "redis", "--appendonly", "yes", "--appendfsync", "always",
                   "--save", "", "--proc-title-template",
                   f"redis-server {self.root}/ {{listen-addr}}")
        wait_for("Redis", self._answers)
        self.run("juicefs", "format", "--storage", "file", "--bucket", f"{self.root}/data/",
                 "--trash-days", "0", self._names, "bench")

    def mount(self) -> None:
        """See Side."""
        self.spawn("juicefs", "mount", "--no-usage-report", "--cache-dir", self.root / "cache",
                   "--cache-size", "0", "--log", self.root / "mount.log", self._names, self.place)

    def _answers(self) -> bool:
        try:
            return "PONG" in self.run("redis-cli", "-p", str(self._port), "ping")
        except SideError:
            return False
