"""A process that mounts a filesystem in memory: `python -m luciole.tests.fuse.serve BINDING PATH`.

Layer: tests. A process of its own, because a page fault on a mapped file would wait for a server
that waits for the interpreter lock of whoever has the fault.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from luciole.client.fuse.direct import mounting
from luciole.client.fuse.direct.mount import start_server
from luciole.client.sends import Sends
from luciole.runtime import ThreadRuntime, TrioRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

CLIENT_ID = b"fuse test client"
ATTRIBUTE_SECONDS = ENTRY_SECONDS = 1.0


def serve_direct(mount_point: Path) -> None:
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    operations = cluster.client(CLIENT_ID, Sends(8).spawn)
    server = start_server(
        operations, mount_point, allow_other=True, attribute_seconds=ATTRIBUTE_SECONDS,
        entry_seconds=ENTRY_SECONDS)
    server.background.open(mount_point)
    signal.signal(signal.SIGTERM, lambda *_: mounting.detach(mount_point))
    while not server.wait_unmounted(0.1):
        pass  # a wait without a bound would keep the signal from being handled
    assert server.wait_finished(10.0)


async def serve_pyfuse3(mount_point: Path) -> None:
    import pyfuse3  # noqa: PLC0415 - may be missing

    from luciole.client.fuse.pyfuse3_binding import Pyfuse3Binding  # noqa: PLC0415
    from luciole.client.fuse.pyfuse3_mount import mount, stop_on_signal  # noqa: PLC0415

    cluster = MemoryCluster(TrioRuntime())
    await cluster.start()
    async with trio.open_nursery() as nursery:
        def spawn(run: Callable[[], Awaitable[None]]) -> None:
            nursery.start_soon(run)

        binding = Pyfuse3Binding(
            cluster.client(CLIENT_ID, spawn), attribute_seconds=ATTRIBUTE_SECONDS,
            entry_seconds=ENTRY_SECONDS)
        mount(binding, mount_point, allow_other=True)
        try:
            nursery.start_soon(stop_on_signal)
            await pyfuse3.main(max_tasks=64)
        finally:
            pyfuse3.close(unmount=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    path = Path(sys.argv[2])
    if sys.argv[1] == "direct":
        serve_direct(path)
    else:
        trio.run(serve_pyfuse3, path)
