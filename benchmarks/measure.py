"""What a workload costs: CPU time of each process, and where a process spends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLES_PER_SECOND = 200


def cpu_seconds(pid: int) -> float:
    """User and system seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class CpuMeter:
    """CPU seconds of named processes over a stretch of time."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._before = {name: cpu_seconds(pid) for name, pid in processes.items()}

    def used(self) -> dict[str, float]:
        """Seconds since the meter was made."""
        return {name: cpu_seconds(pid) - self._before[name]
                for name, pid in self._processes.items()}


def profiler() -> str | None:
    """The sampling profiler's path, or None."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


@contextmanager
def profiled(processes: Mapping[str, int], found: dict[str, Counter[str]]) -> Iterator[None]:
    """Samples the processes while the block runs; adds samples per function to `found`."""
    tool = profiler()
    if tool is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        running = {
            name: subprocess.Popen(
                [tool, "record", "--pid", str(pid), "--format", "raw", "--gil",
                 "--rate", str(SAMPLES_PER_SECOND), "--duration", "600",
                 "--output", f"{folder}/{name}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for name, pid in processes.items()
        }
        try:
            yield
        finally:
            for name, process in running.items():
                process.send_signal(2)
                process.wait(timeout=30)
                path = Path(folder) / name
                if path.exists():
                    found.setdefault(name, Counter()).update(self_samples(path.read_text()))


def self_samples(raw: str) -> Counter[str]:
    """Samples per innermost function of a raw profile (`frame;frame;… count` a line)."""
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = stack.rpartition(";")[2]
        samples[frame.rpartition(":")[0] + ")" if ":" in frame else frame] += int(count)
    return samples
