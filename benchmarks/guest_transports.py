"""`python -m benchmarks.guest_transports`: benchmarks.transports in the guest, seen from outside.

The guest is User-Mode Linux: what its processes do in user mode runs in processes of this machine,
one for each, and its kernel in another one. So this machine's count of their user time tells apart
what the guest cannot: the programs' own work (Python, copies, checksums), the work of the guest's
kernel (system calls, TCP, and all that Soft-RoCE does in place of a card), and what User-Mode Linux
costs (their system time here: traps, switches, page tables).

A cluster works when nothing is asked of it, too, and a transport that is slow here, for its card is
software, would have more of that for each GiB. So turns in which nothing is asked tell what a
second of it costs, and the table is of what was worked beyond that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
SAMPLE_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Work(NamedTuple):
    """Seconds until now of all processes of a guest."""

    programs: float
    kernel: float
    guest: float  # what it costs that there is one


def look(starter: int, seen: dict[int, tuple[float, float]]) -> Work:
    """What the guest that `starter` began has worked; `seen` remembers those that ended."""
    parents: dict[int, int] = {}
    now: dict[int, tuple[float, float]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):  # no process, or it ended
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            words = rest.split()
            parents[int(entry.name)] = int(words[1])
            if name.rpartition("(")[2].startswith("linux"):  # the guest's kernel, or one of its own
                now[int(entry.name)] = int(words[11]) / TICKS, int(words[12]) / TICKS
    below = {starter}
    for pid in sorted(parents):  # children have higher numbers, but for a wrap
        if parents[pid] in below:
            below.add(pid)
    seen.update((pid, work) for pid, work in now.items() if pid in below)  # not other guests'
    ours = list(seen)
    kernels = {pid for pid in ours if pid in parents and parents[pid] not in seen}
    return Work(
        sum(seen[pid][0] for pid in ours if pid not in kernels),
        sum(seen[pid][0] for pid in kernels),
        sum(seen[pid][1] for pid in ours))


class Sampler(threading.Thread):
    """Looks at a guest all the time."""

    def __init__(self, starter: int) -> None:
        super().__init__(daemon=True)
        self._starter = starter
        self.samples: list[tuple[float, Work]] = []

    def run(self) -> None:
        """Until this program ends."""
        seen: dict[int, tuple[float, float]] = {}
        while True:
            self.samples.append((time.time(), look(self._starter, seen)))
            time.sleep(SAMPLE_S)

    def between(self, begin: float, end: float) -> Work:
        """The work of a stretch of time."""
        times = [at for at, _ in self.samples]
        first, last = (self.samples[min(bisect_left(times, at), len(times) - 1)][1]
                       for at in (begin, end))
        return Work(*(late - early for early, late in zip(first, last, strict=True)))


def rested(turns: list[tuple[str, str, float, float, int]], sampler: Sampler) -> Work:
    """What a second costs in which nothing is asked."""
    works = [(sampler.between(begin, end), end - begin) for _, _, begin, end, count in turns
             if not count]
    assert works, "the guest told of no turns"
    return Work(*(sum(parts) / sum(seconds for _, seconds in works)
                  for parts in zip(*(work for work, _ in works), strict=True)))


def main() -> None:
    """Runs it there, with the same options, and adds a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guest_transports")
    _, options = parser.parse_known_args()
    command = [ROOT / "tests/rdma/run.sh", sys.executable, "-m", "benchmarks.transports", "--turns",
               *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "PYTHONSAFEPATH": "",
                   "GUEST_SECONDS": "1800"}
    turns: list[tuple[str, str, float, float, int]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as guest:
        sampler = Sampler(guest.pid)
        sampler.start()
        assert guest.stdout is not None
        for line in guest.stdout:
            if line.startswith("turn "):
                turns.append(json.loads(line[5:]))
            else:
                print(line, end="", flush=True)
    found: dict[tuple[str, str], list[Work]] = defaultdict(list)
    rest = rested(turns, sampler)
    for what, name, begin, end, count in turns:
        if count:
            work = sampler.between(begin, end)
            found[what, name].append(Work(*(
                (part - idle * (end - begin)) * GIB / count
                for part, idle in zip(work, rest, strict=True))))
    print("nothing asked, for each second: programs {:.3f}, the guest's kernel {:.3f}, "
          "User-Mode Linux {:.3f}".format(*rest))
    for (what, name), works in found.items():
        programs, kernel, cost = (statistics.median(column) for column in zip(*works, strict=True))
        print(f"{what:10} {name:5} s/GiB: programs {programs:8.2f}, the guest's kernel "
              f"{kernel:8.2f}, User-Mode Linux {cost:8.2f}")
    sys.exit(guest.returncode)


if __name__ == "__main__":
    main()
