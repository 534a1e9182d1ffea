"""A client that dies in the middle of its work leaves nothing with the services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from luciole.config import Transport
from luciole.tests.integration.cluster import Cluster

READY_S = 60.0
GONE_S = 30.0
LISTENING, CONNECTED = "0A", "03"  # as /proc/net/tcp and /proc/net/unix have them
KILLS = 3
THREADS = 4

CLIENT = f"""
import sys
import threading
import luciole
path, transport = sys.argv[1:]
fs = luciole.connect(path, transport=transport)
started = threading.Barrier({THREADS} + 1)

def work(number):
    buffer = fs.buffer(4 << 20)
    with fs.open(f"/file-{{number}}", "w+") as file:
        for turn in range(1 << 40):
            file.write(buffer.view, 0)
            file.flush()
            assert file.read_into(buffer.view, 0) == 4 << 20
            if turn == 1:
                started.wait(60)

for number in range({THREADS}):
    threading.Thread(target=work, args=(number,)).start()
started.wait(60)
print("ready", flush=True)
"""


def lonely(cluster: Cluster) -> int:
    """How many connections of the cluster's processes end elsewhere, but for a constant.

    Of TCP the kernel tells who is connected with whom. Of Unix sockets it does not, but an
    accepted one has a name and its other end has none, so there are as many of either.
    """
    own: set[str] = set()
    for record in cluster.records():
        for link in Path(f"/proc/{record.pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                own.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    pairs = {(row[1], row[2]) for row in rows if row[9] in own and row[3] != LISTENING}
    count = sum((other, one) not in pairs for one, other in pairs)
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        row = line.split()
        if row[6] in own and row[5] == CONNECTED:
            count += 1 if len(row) > 7 else -1
    return count


def regions(pid: int) -> set[str]:
    """The shared memory of ours that a process maps, by inode."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:luciole" in line}


def held(cluster: Cluster) -> set[str]:
    """The shared memory that the services map."""
    return {inode for record in cluster.records() for inode in regions(record.pid)}


def start(cluster: Cluster, transport: Transport) -> subprocess.Popen[str]:
    """A client that works without end."""
    client = subprocess.Popen(
        [sys.executable, "-P", "-c", CLIENT, str(cluster.directory.path), transport],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    return client


def finish(client: subprocess.Popen[str]) -> None:
    """Its end, in the middle of whatever it does."""
    client.send_signal(signal.SIGKILL)
    client.wait(READY_S)
    assert client.stdout is not None
    client.stdout.close()


def killed_clients_leave_nothing(cluster: Cluster, transport: Transport) -> None:
    """Kills clients that read and write in buffers, and looks at what the services still have."""
    before = lonely(cluster)
    for _ in range(KILLS):
        client = start(cluster, transport)
        try:
            shown = regions(client.pid)
            assert bool(shown & held(cluster)) == (transport == "shm")
            assert lonely(cluster) >= before + THREADS, "each thread has a connection"
        finally:
            finish(client)
        deadline = time.monotonic() + GONE_S
        while shown & held(cluster) or lonely(cluster) > before:
            assert time.monotonic() < deadline, (before, lonely(cluster), shown & held(cluster))
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_killed_clients_leave_nothing(cluster: Cluster, transport: Transport) -> None:
    cluster.up("--nodes", "2", "--targets-per-node", "1")
    killed_clients_leave_nothing(cluster, transport)
    assert cluster.fsck() == []
