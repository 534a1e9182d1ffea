"""Overlapping writes and reads of the chunks of one file by all clients at once.

Every chunk's history must be linearizable. A value is written over a range of cells that begins
and ends anywhere in the chunk, so that updates build on each other on every replica.
"""

from __future__ import annotations

import struct

import trio

from luciole.client.handles import OpenFlags
from luciole.errors import FsError
from luciole.proto import meta_pb2
from luciole.tests.sim.history import FOREVER, CellOperation, explained
from luciole.tests.sim.process import CHUNK, ClientProcess
from luciole.tests.sim.workloads.base import CREDENTIAL, ROOT, require_true, timed
from luciole.tests.sim.world import World

CELLS = 4
CELL = 8
CHUNKS = 3
NAME = b"registers"


class Registers:
    """See the module. With `synced`, a write counts once a sync has followed it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.draw("registers")
        self._histories: list[list[CellOperation]] = [[] for _ in range(CHUNKS)]
        self._value = 0
        self._inode = meta_pb2.Inode()

    async def prepare(self) -> None:
        """Makes the file, all holes."""
        operations = self._world.clients[0].client.operations
        handle, inode = await operations.create(
            CREDENTIAL, ROOT, NAME, 0o644, flags=OpenFlags(read=True, write=True))
        self._inode = await operations.truncate(
            CREDENTIAL, inode.inode_id, CHUNKS * CHUNK, handle)
        await operations.release(handle)

    async def run(self, until: float) -> None:
        """Two tasks a client."""
        async with trio.open_nursery() as nursery:
            for client in self._world.clients:
                for _ in range(2):
                    nursery.start_soon(self._work, client, until)

    async def _work(self, client: ClientProcess, until: float) -> None:
        while trio.current_time() < until:
            await trio.sleep(self._chance.expovariate(2.0))
            if not client.up:
                continue
            chunk = self._chance.randrange(CHUNKS)
            first = self._chance.randrange(CELLS)
            count = self._chance.randint(1, CELLS - first)
            if self._chance.random() < 0.5:
                await self._write(client, chunk, first, count)
            else:
                await self._read(client, chunk, first, count)

    async def _write(self, client: ClientProcess, chunk: int, first: int, count: int) -> None:
        self._value += 1
        values = (self._value,) * count
        data = memoryview(struct.pack(f"<{count}Q", *values))
        began, ended = trio.current_time(), FOREVER
        what = f"writes {values} to chunk {chunk} cell {first}"
        history = self._histories[chunk]
        place = len(history)
        history.append(CellOperation(True, first, values, began, FOREVER, client.name))
        try:
            await timed(self._world, client, what, client.client.chunks.write(
                self._inode, chunk * CHUNK + first * CELL, data))
            ended = trio.current_time()
        except FsError:
            return
        if client.up:
            history[place] = CellOperation(True, first, values, began, ended, client.name)

    async def _read(self, client: ClientProcess, chunk: int, first: int, count: int) -> None:
        buffer = memoryview(bytearray(count * CELL))
        began = trio.current_time()
        try:
            await timed(self._world, client, f"reads chunk {chunk} cell {first}",
                        client.client.chunks.read(
                            self._inode, chunk * CHUNK + first * CELL, buffer))
        except FsError:
            return
        values = struct.unpack(f"<{count}Q", buffer)
        self._world.trace.note("saw", f"{client.name} chunk {chunk} cell {first}: {values}")
        self._histories[chunk].append(
            CellOperation(False, first, values, began, trio.current_time(), client.name))

    async def check(self) -> None:
        """Reads everything by every client twice: all replicas are asked."""
        for _ in range(2):
            for client in self._world.clients:
                for chunk in range(CHUNKS):
                    await self._read(client, chunk, 0, CELLS)
        for chunk, history in enumerate(self._histories):
            verdict = explained(history, CELLS)
            self._world.count("histories undecided", verdict is None)
            self._world.count("histories explained", verdict is True)
            told = "\n".join(map(str, sorted(history, key=lambda each: each.began)))
            require_true(verdict is not False,
                         f"no order explains what was seen of chunk {chunk}:\n{told}")
