"""A counter in a file that every client increments under a lock.

No two increments that were acknowledged may have made the same number: that is mutual exclusion,
fresh data under a lock, and no lock kept by a client that others have taken for dead. In the end
the file counts every acknowledged increment, and at most those besides whose fate is unknown.
"""

from __future__ import annotations

import trio

from luciole.client.handles import OpenFlags
from luciole.client.locks import WHOLE_FILE, Waiting
from luciole.client.operations import Operations
from luciole.errors import FsError
from luciole.proto import meta_pb2
from luciole.tests.sim.process import ClientProcess
from luciole.tests.sim.workloads.base import CREDENTIAL, ROOT, require_true, timed
from luciole.tests.sim.world import World

NUMBER_BYTES = 8
PATIENCE = 40  # calls' time for one increment with its wait
BOTH = OpenFlags(read=True, write=True)


class Counting:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._inode_id = 0
        self._made: set[int] = set()  # numbers that were acknowledged
        self._unknown = 0

    async def prepare(self) -> None:
        """Makes the file."""
        operations = self._world.clients[0].client.operations
        handle, inode = await operations.create(CREDENTIAL, ROOT, b"counter", 0o644, flags=BOTH)
        self._inode_id = inode.inode_id
        await operations.write(handle, 0, memoryview(bytes(NUMBER_BYTES)))
        await operations.release(handle)

    async def run(self, until: float) -> None:
        """Two tasks a client: two owners of locks."""
        async with trio.open_nursery() as nursery:
            for client in self._world.clients:
                for owner in (1, 2):
                    nursery.start_soon(self._count, client, owner, until)

    async def _count(self, client: ClientProcess, owner: int, until: float) -> None:
        chance = self._world.draw("count", client.number, owner)
        while trio.current_time() < until:
            await trio.sleep(chance.expovariate(2.0))
            if client.up:
                await self._increment(client, owner)

    async def _increment(self, client: ClientProcess, owner: int) -> None:
        operations = client.client.operations
        first, last = WHOLE_FILE
        lock = meta_pb2.FileLock(
            owner=owner, write=True, first=first, last=last)
        written: list[int] = []
        try:
            await timed(self._world, client, "increments", self._under_lock(
                operations, lock, written), calls=PATIENCE)
        except FsError:
            self._unknown += len(written)
            return
        [number] = written
        require_true(number not in self._made, f"{client.name} counted {number} once more")
        self._made.add(number)

    async def _under_lock(
        self, operations: Operations, lock: meta_pb2.FileLock, written: list[int]
    ) -> None:
        handle, _ = await operations.open(CREDENTIAL, self._inode_id, BOTH)
        try:
            await operations.lock(handle, lock, Waiting())
            content = bytes(await operations.read(handle, 0, NUMBER_BYTES))
            number = int.from_bytes(content, "big") + 1
            written.append(number)
            await operations.write(handle, 0, memoryview(number.to_bytes(NUMBER_BYTES, "big")))
            await operations.unlock(handle, lock)
        finally:
            await operations.release(handle)

    async def check(self) -> None:
        """The number at the end."""
        operations = self._world.clients[0].client.operations
        handle, _ = await operations.open(CREDENTIAL, self._inode_id, BOTH)
        number = int.from_bytes(await operations.read(handle, 0, NUMBER_BYTES), "big")
        await operations.release(handle)
        least = len(self._made)
        self._world.counts["increments"] += least
        require_true(least <= number <= least + self._unknown,
                     f"counted {number}, acknowledged {least}, unknown {self._unknown}")
