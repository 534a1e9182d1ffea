"""A local cluster of real processes, driven through the command line as a user would."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from luciole.config import MetaConfig, StorageConfig
from luciole.deploy import mounts, processes
from luciole.deploy.cluster_directory import ClusterDirectory, services_of

# Bounds, not waits: in the guest with a network card, on a busy machine, `up` takes half a minute.
COMMAND_SECONDS = 180
UP_SECONDS = 150
# Below the ports that the kernel gives to clients, apart for each process of a test run.
_PORT_BASES = itertools.count(12_000 + os.getpid() % 150 * 128, 32)
needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be opened")

needs_wchan = pytest.mark.skipif(
    not Path("/proc/self/wchan").exists(),
    reason="this kernel does not tell what a process waits for (/proc/PID/wchan)")


class Cluster:
    """A cluster's directory and its command line."""

    def __init__(self, root: Path) -> None:
        self.directory = ClusterDirectory(root / "cluster")
        self.port_base = next(_PORT_BASES)
        self.mounts = [root / "mnt", root / "other mount é"]
        for place in self.mounts:
            place.mkdir()

    def luciole(self, *arguments: str, expect: int = 0) -> str:
        """Runs a command; returns what it printed."""
        done = subprocess.run(
            processes.luciole_command(*arguments), capture_output=True, text=True, check=False,
            timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL)
        assert done.returncode == expect, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if expect else done.stdout

    def up_twice(self, nodes: int) -> list[Path]:
        """Starts a cluster of so many nodes, two replicas and two mounts; returns those."""
        first, second = self.mounts
        self.up("--nodes", str(nodes), "--replicas", "2", "--mount", str(first))
        self.luciole("mount", str(second), "--dir", str(self.directory.path))
        return [first, second]

    def up(self, *arguments: str) -> dict[str, object]:
        """Starts what is not up. With LUCIOLE_TEST_TRANSPORT all of it takes that transport."""
        transport = os.environ.get("LUCIOLE_TEST_TRANSPORT")
        if transport and not self.directory.path.exists():
            shape = [word for word in arguments if word not in {"--mount", *map(str, self.mounts)}]
            self._up(*shape)
            self.down()
            self.set_transport(transport)
            self.set_transport_of_services(transport)
        return self._up(*arguments)

    def set_transport(self, transport: str) -> None:
        """By which clients that start from now on reach services."""
        config = msgspec.structs.replace(self.directory.client_config(), transport=transport)
        self.directory.write_config("client", config)

    def set_transport_of_services(self, transport: str) -> None:
        """By which services that start from now on reach storage services."""
        for service in services_of(self.directory.read()):
            config = self.directory.service_config(service)
            if isinstance(config, MetaConfig | StorageConfig):
                self.directory.write_config(
                    service.name, msgspec.structs.replace(config, transport=transport))

    def _up(self, *arguments: str) -> dict[str, object]:
        # Ports of its own: what an earlier cluster left in the kernel is not this one's concern.
        text = self.luciole("up", str(self.directory.path), "--json", "--timeout", str(UP_SECONDS),
                            "--port-base", str(self.port_base), *arguments)
        found: dict[str, object] = json.loads(text)
        return found

    def down(self) -> None:
        self.luciole("down", str(self.directory.path))

    def fsck(self, expect: int = 0) -> list[str]:
        text = self.luciole(
            "fsck", "--dir", str(self.directory.path), "--json", expect=expect)
        return [problem["kind"] for problem in json.loads(text[text.index("{"):])["problems"]]

    def forwards(self, count: int) -> list[tuple[str, str]]:
        """By what storage services reach each other, and why not better, once `count` have."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while True:
            text = self.luciole("doctor", "--dir", str(self.directory.path), "--json")
            found = [(other["transport"], other["why"]) for node in json.loads(text)["nodes"]
                     for other in node["neighbours"]]
            # A service that has just started has not called every neighbour yet.
            if len(found) == count and all(transport for transport, _ in found):
                return found
            assert time.monotonic() < deadline, found

    def records(self) -> list[processes.ProcessRecord]:
        found = [processes.running(path) for path in self.directory.run.glob("*.pid")]
        return [record for record in found if record]

    def kill_all(self) -> None:
        """The end of every process at once."""
        records = self.records()
        for record in records:
            processes.send(record, signal.SIGKILL)
        for record in records:
            assert processes.wait_end(record, 10.0)

    def kill(self, name: str) -> None:
        """The end of one process."""
        [record] = [found for path in self.directory.run.glob(f"{name}.pid")
                    if (found := processes.running(path))]
        processes.send(record, signal.SIGKILL)
        assert processes.wait_end(record, 10.0)

    def destroy(self) -> None:
        """Unmounts and kills whatever is left, however the test ended."""
        for place in self.mounts:
            if mounts.is_mounted(place):
                subprocess.run(["fusermount3", "-u", "-z", str(place)], check=False, timeout=20)
        with contextlib.suppress(AssertionError):
            self.kill_all()
