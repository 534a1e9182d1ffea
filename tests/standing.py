"""Processes that are made to stand still.

Layer: tests.
"""

from __future__ import annotations

import time
from pathlib import Path

STAND_SECONDS = 5.0


def wait_until_it_stands(pid: int) -> None:
    """After SIGSTOP: its threads run on until one of them has taken the signal, and could answer.

    Raises RuntimeError if it does not stop.
    """
    deadline = time.monotonic() + STAND_SECONDS
    tasks = Path(f"/proc/{pid}/task")
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T"
              for task in tasks.iterdir()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} does not stop")
        time.sleep(0.001)
