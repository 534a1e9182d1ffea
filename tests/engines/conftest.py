"""A real cluster for the engines, and nothing where they are not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.deploy import processes
from luciole.deploy.cluster_directory import ClusterDirectory

ENGINES = {"test_vllm.py": "vllm", "test_sglang.py": "sglang", "test_lmcache.py": "lmcache"}
collect_ignore = [
    file for file, package in ENGINES.items() if importlib.util.find_spec(package) is None]
COMMAND_S = 60


class Cluster:
    """One node on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config" / "client.toml"

    def run(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "luciole.deploy", *words], check=False, capture_output=True,
            text=True, timeout=COMMAND_S)
        assert done.returncode == 0, done.stdout + done.stderr

    def up(self) -> None:
        self.run("up", str(self.path), "--nodes", "1", "--replicas", "1", "--kv-capacity", "512M")

    def kill_storage(self) -> None:
        """kill -9 of the only storage node."""
        record = processes.running(ClusterDirectory(self.path).run / "storage-1.pid")
        assert record is not None
        subprocess.run(["kill", "-9", str(record.pid)], check=True, timeout=COMMAND_S)

    def damage_blocks(self) -> None:
        """Changes some bytes of every block of 64 KiB and more on the disk."""
        [blocks] = self.path.rglob("kvcache/blocks")
        with blocks.open("r+b") as file:
            for at in range(32 << 10, blocks.stat().st_size, 64 << 10):
                file.seek(at)
                file.write(b"flipped!")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("engines") / "cluster")
    made.up()
    yield made
    made.run("down", str(made.path))
