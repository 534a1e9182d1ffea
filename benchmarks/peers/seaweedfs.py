"""SeaweedFS: a master, two volume servers, a filer, and its mount; two copies (replication 001)."""

from __future__ import annotations

from benchmarks.peers.side import Side, wait_for
from luciole.deploy.ports import find_block, is_free

HOST = "127.0.0.1"
PORTS = 8


class SeaweedFS(Side):
    """Defaults otherwise."""

    name = "SeaweedFS"
    copies = 2
    survives = "bytes: every process; fsync: the same"
    programs = ("weed",)

    def serve(self) -> None:
        """See Side."""
        for name in ("master", "volume1", "volume2", "filer", "cache"):
            (self.root / name).mkdir()
        master, *_ = ports = list(range(base := find_block(PORTS), base + PORTS))
        self._filer = f"{HOST}:{ports[6]}.{ports[7]}"
        self.spawn("weed", "master", f"-ip={HOST}", f"-ip.bind={HOST}", f"-port={master}",
                   f"-port.grpc={ports[1]}", f"-mdir={self.root}/master",
                   "-volumeSizeLimitMB=1024", "-defaultReplication=001", "-telemetry=false")
        self._await(master)
        for number in (1, 2):
            self.spawn("weed", "volume", f"-ip={HOST}", f"-ip.bind={HOST}",
                       f"-port={ports[2 * number]}", f"-port.grpc={ports[2 * number + 1]}",
                       f"-master={HOST}:{master}.{ports[1]}", f"-dir={self.root}/volume{number}",
                       "-max=40")
            self._await(ports[2 * number])
        self.spawn("weed", "filer", f"-ip={HOST}", f"-ip.bind={HOST}", f"-port={ports[6]}",
                   f"-port.grpc={ports[7]}", f"-master={HOST}:{master}.{ports[1]}",
                   f"-defaultStoreDir={self.root}/filer", "-defaultReplicaPlacement=001")
        self._await(ports[6])

    def mount(self) -> None:
        """See Side."""
        self.spawn("weed", "mount", f"-filer={self._filer}", f"-dir={self.place}",
                   "-replication=001", f"-cacheDir={self.root}/cache", "-nonempty")

    def ready(self) -> bool:
        """See Side: the first write is refused until the volume servers have reported."""
        probe = self.place / ".ready"
        try:
            probe.write_bytes(b"ready")
            probe.unlink()
        except OSError:
            return False
        return True

    def role(self, line: list[str]) -> str:
        """See Side: all of them are one program."""
        return line[1]

    @staticmethod
    def _await(port: int) -> None:
        wait_for(f"port {port}", lambda: not is_free(port, HOST))


