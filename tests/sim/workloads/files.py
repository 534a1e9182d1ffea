"""Files written, cut and read by one client at a time, through handles as a mount has them.

The model is a row of cells, each with the stamps that it may hold. What was flushed (or, where the
power may fail, fsynced) has one stamp. What nobody acknowledged may be there or not, and may still
come: it stays allowed for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from luciole.client.core.runs import Run
from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.limits import INLINE_BYTES_MAX
from luciole.tests.sim.process import CHUNK, ClientProcess
from luciole.tests.sim.workloads.base import CREDENTIAL, ROOT, require_true, timed
from luciole.tests.sim.world import World

CELL = 1000  # no power of two: writes begin and end anywhere in blocks and chunks
CELLS = 200  # three chunks and a bit
CELLS_TINY = 12  # those below 8 KiB may be inline
KINDS = [CELLS, CELLS, CELLS, CELLS_TINY, CELLS_TINY]  # a file of each
COUNTS = [1, 3, 20, 70, 140]
COUNTS_TINY = [1, 2, 5, 8]
PATIENCE = 40  # calls that one operation here may need: write-behind gives way to all before it
BOTH = OpenFlags(read=True, write=True)
READ = OpenFlags(read=True)
Op = tuple[str, int, int, int]  # "write", "punch" or "cut", first cell, end, stamp


def image(stamp: int) -> bytes:
    """What a cell with this stamp holds; 0: nothing was written."""
    return (stamp.to_bytes(4, "big") if stamp else bytes(4)) * (CELL // 4)


def parts(cell: int, content: bytes) -> list[bytes]:
    """A cell that lies in two chunks is written by two updates, of which one may fail.

    So is one that lies in the inline part and in a chunk.
    """
    inline = INLINE_BYTES_MAX - cell * CELL
    border = inline if 0 < inline < CELL else -cell * CELL % CHUNK
    return [content[:border], content[border:]] if 0 < border < CELL else [content]


@dataclass
class FileModel:
    """What a file may hold."""

    cells: list[set[int]]
    late: list[set[int]]
    lengths: set[int] = field(default_factory=lambda: {0})
    late_cuts: set[int] = field(default_factory=set)
    late_ends: set[int] = field(default_factory=set)  # in bytes, as chunks do not end with cells

    @staticmethod
    def of(cells: int) -> FileModel:
        """An empty file that may have so many cells."""
        return FileModel([{0} for _ in range(cells)], [set() for _ in range(cells)])

    def copy(self) -> FileModel:
        """One that may be changed."""
        return FileModel(
            [set(cell) for cell in self.cells], [set(cell) for cell in self.late],
            set(self.lengths), set(self.late_cuts), set(self.late_ends))

    def certain(self, op: Op) -> None:
        """It was acknowledged."""
        kind, first, end, stamp = op
        if kind == "write":
            for i in range(first, end):
                self.cells[i] = {stamp}
            # A cut that nobody acknowledged may have come before.
            self.lengths = {max(length, end) for length in self.lengths | self.late_cuts}
        elif kind == "punch":
            for i in range(first, end):
                self.cells[i] = {0}
        else:
            for i in range(first, len(self.cells)):
                self.cells[i] = {0}
            self.lengths = {first}

    def unknown(self, op: Op) -> None:
        """It was not, and may come late."""
        kind, first, end, stamp = op
        if kind != "cut":
            for i in range(first, end):
                self.late[i].add(stamp if kind == "write" else 0)
            if kind == "punch":
                self.late_ends.add(first * CELL)  # chunks that it shortened end there
            # Of several chunks only the first may come, and the collector finds where they end.
            borders = range((first * CELL // CHUNK + 1) * CHUNK, end * CELL, CHUNK)
            self.late_ends |= {end * CELL, *borders}
        else:
            for i in range(first, len(self.cells)):
                self.late[i].add(0)
            self.late_cuts.add(first)

    def length_may_be(self, length: int) -> bool:
        """Whether the file may be so long, in bytes."""
        bases = {cells * CELL for cells in self.lengths | self.late_cuts}
        return length in bases | {max(base, end) for base in bases for end in self.late_ends}

    def problem(self, first: int, data: bytes) -> str:
        """What cannot be, in `data` read from a cell on; empty when all may be."""
        for i in range(first, first + len(data) // CELL):
            found = data[(i - first) * CELL : (i - first + 1) * CELL]
            allowed = self.cells[i] | self.late[i]
            if not all(any(part == image(stamp)[: len(part)] for stamp in allowed)
                       for part in parts(i, found)):
                seen = sorted({found[j : j + 4].hex() for j in range(0, CELL, 4)})
                return f"cell {i} holds {seen[:4]}, allowed are stamps {sorted(allowed)}"
        return ""


@dataclass
class File:
    """One file and its model."""

    name: bytes
    model: FileModel
    inode_id: int = 0
    busy: bool = False

    @property
    def cells(self) -> int:
        """How many it may have."""
        return len(self.model.cells)


class Session(NamedTuple):
    """One open file of one client, and what it did since its last flush or fsync."""

    client: ClientProcess
    operations: Operations
    file: File
    handle: int
    pending: list[Op]


class Files:
    """See the module. With `durable`, only what was fsynced counts as acknowledged."""

    def __init__(self, world: World, *, durable: bool, cuts: bool) -> None:
        self._world = world
        self._durable = durable
        self._kinds = ["write", "write", "write", "append", "read", "punch", "store"]
        self._kinds += ["cut"] if cuts else []
        self._chance = world.draw("files")
        self._files: list[File] = []
        self._stamp = 0
        self._made = 0

    async def _make(self, client: ClientProcess, cells: int) -> File:
        self._made += 1
        file = File(f"file-{self._made}".encode(), FileModel.of(cells))
        operations = client.client.operations
        handle, inode = await operations.create(
            CREDENTIAL, ROOT, file.name, 0o644, flags=OpenFlags(write=True, exclusive=True))
        file.inode_id = inode.inode_id
        if cells == CELLS_TINY:
            # Inline from the beginning, as nobody else has opened it.
            self._stamp += 1
            stamp = self._stamp
            await operations.write(handle, 0, memoryview(image(stamp)))
            await operations.fsync(handle)
            file.model.certain(("write", 0, 1, stamp))
        await operations.release(handle)
        return file

    async def prepare(self) -> None:
        """Makes empty files."""
        for cells in KINDS:
            self._files.append(await self._make(self._world.clients[0], cells))

    async def run(self, until: float) -> None:
        """One task a client."""
        async with trio.open_nursery() as nursery:
            for client in self._world.clients:
                nursery.start_soon(self._work, client, until)

    async def _work(self, client: ClientProcess, until: float) -> None:
        while trio.current_time() < until:
            await trio.sleep(self._chance.expovariate(1.5))
            free = [file for file in self._files if not file.busy]
            if not client.up or not free:
                continue
            file = self._chance.choice(free)
            file.busy = True
            try:
                if self._chance.random() < 0.15:
                    await self._replace(client, file)
                else:
                    await self._session(client, file)
            except FsError:
                continue  # the model has what is unknown
            finally:
                file.busy = False

    async def _replace(self, client: ClientProcess, file: File) -> None:
        """Removes the file; another takes its place."""
        self._files.remove(file)
        await timed(self._world, client, f"unlinks {file.name!r}", client.client.operations.unlink(
            CREDENTIAL, ROOT, file.name), calls=PATIENCE)
        self._files.append(await timed(
            self._world, client, "creates a file", self._make(client, file.cells),
            calls=PATIENCE))

    async def _session(self, client: ClientProcess, file: File) -> None:
        operations = client.client.operations
        what = f"opens {file.name!r}"
        handle, inode = await timed(self._world, client, what, operations.open(
            CREDENTIAL, file.inode_id, BOTH), calls=PATIENCE)
        pending: list[Op] = []
        session = Session(client, operations, file, handle, pending)
        try:
            require_true(file.model.length_may_be(inode.length), self._about(
                client, file, f"has {inode.length} bytes on open, allowed "
                f"{file.model.lengths} cells, late cuts {file.model.late_cuts}, late ends "
                f"{file.model.late_ends}"))
            await self._read(session, 0, file.cells)
            for _ in range(self._chance.randint(1, 6)):
                await self._step(session)
                await trio.sleep(self._chance.random() * 0.2)
            if self._durable or self._chance.random() < 0.3:
                await timed(self._world, client, f"fsyncs {file.name!r}",
                            operations.fsync(handle), calls=PATIENCE)
                self._acknowledge(file, pending)
        except FsError:
            # The failure of a write is told once, by whatever comes next, so a good close
            # does not speak for what came before.
            self._doubt(file, pending)
            raise
        finally:
            try:
                await timed(self._world, client, f"closes {file.name!r}",
                            operations.release(handle), calls=PATIENCE)
                if not self._durable:
                    self._acknowledge(file, pending)
            finally:
                self._doubt(file, pending)

    @staticmethod
    def _doubt(file: File, pending: list[Op]) -> None:
        for op in pending:
            file.model.unknown(op)
        pending.clear()

    @staticmethod
    def _acknowledge(file: File, pending: list[Op]) -> None:
        for op in pending:
            file.model.certain(op)
        pending.clear()

    async def _step(self, session: Session) -> None:
        client, operations, file, handle, pending = session
        counts = COUNTS if file.cells == CELLS else COUNTS_TINY
        first = self._chance.randrange(file.cells)
        end = min(file.cells, first + self._chance.choice(counts))
        kind = self._chance.choice(self._kinds)
        if kind == "cut" and file.cells == CELLS_TINY and self._chance.random() < 0.5:
            first = 0  # as by a program that writes it anew
        if kind == "read":
            await self._read(session, first, end)
            return
        self._stamp += 1
        if kind == "append":
            length = (await operations.getattr(file.inode_id)).length
            first, end = length // CELL, length // CELL + end - first
            if end > file.cells:
                return
        kind = "write" if kind == "append" else kind
        op = (kind, first, end, self._stamp)
        if kind == "store":
            await self._store(session, op)
            return
        pending.append(op)
        if kind == "write":
            data = memoryview(image(self._stamp) * (end - first))
            await timed(self._world, client, f"writes {op[1:]} to {file.name!r}",
                        operations.write(handle, first * CELL, data), calls=PATIENCE)
        elif kind == "punch":
            await timed(self._world, client, f"punches {op[1:]} out of {file.name!r}",
                        operations.fallocate(handle, first * CELL, (end - first) * CELL,
                                             zero=True, keep_size=True), calls=PATIENCE)
        else:
            await timed(self._world, client, f"cuts {file.name!r} to {first}",
                        operations.truncate(CREDENTIAL, file.inode_id, first * CELL, handle),
                        calls=PATIENCE)

    async def _store(self, session: Session, op: Op) -> None:
        """Every other cell of a range, as a mapping would be written back."""
        client, operations, file, handle, pending = session
        _, first, end, stamp = op
        pending += [("write", cell, cell + 1, stamp) for cell in range(first, end, 2)]
        await timed(
            self._world, client, f"stores every other cell of {op[1:]} into {file.name!r}",
            operations.write_stored(file.inode_id, handle, [
                Run(cell * CELL, image(stamp)) for cell in range(first, end, 2)]),
            calls=PATIENCE)

    async def _read(self, session: Session, first: int, end: int) -> None:
        """Reads and checks; the reader sees what it wrote itself."""
        client, operations, file, handle, pending = session
        data = bytes(await timed(
            self._world, client, f"reads {file.name!r} from {first} to {end}",
            operations.read(handle, first * CELL, (end - first) * CELL), calls=PATIENCE))
        model = file.model.copy()
        for op in pending:
            if self._durable:
                model.unknown(op)  # the power may have failed since
            else:
                model.certain(op)
        problem = model.problem(first, data)
        require_true(not problem, self._about(client, file, problem))

    @staticmethod
    def _about(client: ClientProcess, file: File, problem: str) -> str:
        return f"{client.name} {file.name!r} (inode {file.inode_id}): {problem}"

    async def check(self) -> None:
        """Every client reads every file whole; all see the same."""
        for file in self._files:
            seen = set()
            for client in self._world.clients:
                operations = client.client.operations
                handle, inode = await operations.open(CREDENTIAL, file.inode_id, READ)
                require_true(file.model.length_may_be(inode.length), self._about(
                    client, file, f"has {inode.length} bytes at the end, allowed "
                    f"{file.model.lengths} cells"))
                data = bytes(await operations.read(handle, 0, file.cells * CELL))
                await operations.release(handle)
                problem = file.model.problem(0, data)
                require_true(not problem, self._about(client, file, problem))
                seen.add(data)
            require_true(len(seen) == 1, f"clients see {file.name!r} differently")
            await self._count(file)
            try:
                await self._world.clients[0].client.operations.lookup(
                    CREDENTIAL, ROOT, file.name)
            except FsError as failure:
                require_true(failure.kind != Kind.NOT_FOUND, f"{file.name!r} is gone")
                raise

    async def _count(self, file: File) -> None:
        """What writers reported of blocks is what the chunks take, unless a write came late."""
        if any(file.model.late) or file.model.late_cuts:
            return
        client = self._world.clients[0].client
        inode = await client.operations.getattr(file.inode_id)
        found = await client.chunks.allocated(inode)
        require_true(inode.allocated == found, f"{file.name!r} is said to take "
                     f"{inode.allocated} bytes of blocks, its chunks take {found}")
