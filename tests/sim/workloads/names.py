"""Storms of namespace operations, each client in a directory of its own, and all in a common one.

What a client sees of its own directory must follow from what it did. An operation of unknown
outcome splits the model: it is in the state or it is not, and may still come to be in it later.
In the common directory only the rules of fsck hold.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable

import trio

from luciole.client.handles import OpenFlags
from luciole.client.operations import Operations
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2
from luciole.tests.sim.process import ATTEMPT_S, ClientProcess
from luciole.tests.sim.workloads.base import CREDENTIAL, ROOT, require_true, timed
from luciole.tests.sim.world import World

NAMES = (b"a", b"b", b"c")
STATES_MAX = 400
COMMON = b"common"
PATIENCE = 12  # calls that one operation here may need

Names = tuple[tuple[bytes, str], ...]  # name -> "dir", or what stands for a file
Step = tuple[str, bytes, bytes, str]  # kind, name, new name, what a new file is called
State = tuple[Names, frozenset[int]]  # what is there, and which late operations are in it


def outcome(names: Names, step: Step) -> tuple[Names, Kind | None]:
    """What an operation makes of a directory, and the error that it gives."""
    kind, name, new_name, stamp = step
    there = dict(names)
    found = there.get(name)
    error: Kind | None = None
    if kind in {"create", "mkdir"}:
        if found:
            error = Kind.EXISTS
        else:
            there[name] = "dir" if kind == "mkdir" else stamp
    elif found is None:
        error = Kind.NOT_FOUND
    elif kind == "rename":
        target = there.get(new_name)
        if target and name != new_name and (target == "dir") != (found == "dir"):
            error = Kind.IS_DIRECTORY if target == "dir" else Kind.NOT_DIRECTORY
        elif name != new_name:
            del there[name]
            there[new_name] = found
    elif kind == "unlink":
        if found == "dir":
            error = Kind.IS_DIRECTORY
        else:
            del there[name]
    elif found != "dir":
        error = Kind.NOT_DIRECTORY
    else:
        del there[name]
    return tuple(sorted(there.items())), error


class DirectoryModel:
    """All states that a directory may be in, given what its one user did and saw."""

    def __init__(self) -> None:
        self.states: set[State] = {((), frozenset())}
        self._late: list[Step] = []
        self.given_up = False

    def _closure(self) -> set[State]:
        """Late operations may have come to pass, each once, in any order."""
        found = set(self.states)
        pending = sorted(found, key=repr)
        while pending and not self.given_up:
            names, done = pending.pop()
            for number, step in enumerate(self._late):
                if number not in done:
                    after, error = outcome(names, step)
                    state = (after, done | {number})
                    if error is None and state not in found:
                        found.add(state)
                        pending.append(state)
            self.given_up = len(found) > STATES_MAX
        return found

    def answered(self, step: Step, error: Kind | None) -> bool:
        """An operation had this outcome for certain; returns whether that may be."""
        after = set()
        for names, done in self._closure():
            result, expected = outcome(names, step)
            if expected == error:
                after.add((result, done))
        self.states = after
        return bool(after) or self.given_up

    def unknown(self, step: Step) -> None:
        """Nobody knows what became of an operation."""
        self._late.append(step)

    def shown(self, kinds: dict[bytes, bool]) -> bool:
        """A listing showed these names (True: a directory); returns whether that may be."""
        self.states = {
            (names, done) for names, done in self._closure()
            if {name: what == "dir" for name, what in names} == kinds}
        return bool(self.states) or self.given_up


class Storm:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._models = {client.number: DirectoryModel() for client in world.clients}
        self._homes: dict[int, int] = {}
        self._common = 0
        self._stamp = 0

    async def prepare(self) -> None:
        """Makes the directories."""
        operations = self._world.clients[0].client.operations
        for client in self._world.clients:
            name = f"home-{client.number}".encode()
            made = await operations.mkdir(CREDENTIAL, ROOT, name, 0o755)
            self._homes[client.number] = made.inode_id
        self._common = (await operations.mkdir(CREDENTIAL, ROOT, COMMON, 0o755)).inode_id

    async def run(self, until: float) -> None:
        """One task a client in each directory."""
        async with trio.open_nursery() as nursery:
            for client in self._world.clients:
                nursery.start_soon(self._at_home, client, until)
                nursery.start_soon(self._in_common, client, until)

    def _step(self, chance: random.Random) -> Step:
        self._stamp += 1
        kind = chance.choice(["create", "create", "mkdir", "rename", "rename", "unlink", "rmdir"])
        return kind, chance.choice(NAMES), chance.choice(NAMES), f"file {self._stamp}"

    @staticmethod
    async def _do(operations: Operations, directory: int, step: Step) -> None:
        kind, name, new_name, _ = step
        if kind == "create":
            handle, _ = await operations.create(
                CREDENTIAL, directory, name, 0o644, flags=OpenFlags(exclusive=True))
            await operations.release(handle)
        elif kind == "rename":
            await operations.rename(meta_pb2.RenameRequest(
                credential=CREDENTIAL, parent=directory, name=name,
                new_parent=directory, new_name=new_name))
        else:
            call: dict[str, Awaitable[object]] = {}
            if kind == "mkdir":
                call[kind] = operations.mkdir(CREDENTIAL, directory, name, 0o755)
            elif kind == "rmdir":
                call[kind] = operations.rmdir(CREDENTIAL, directory, name)
            else:
                call[kind] = operations.unlink(CREDENTIAL, directory, name)
            await call[kind]

    async def _at_home(self, client: ClientProcess, until: float) -> None:
        chance, home = self._world.draw("home", client.number), self._homes[client.number]
        model = self._models[client.number]
        while trio.current_time() < until:
            await trio.sleep(chance.expovariate(1.5))
            if not client.up:
                continue
            if chance.random() < 0.3:
                await self._look(client, home, model)
            else:
                await self._certain(client, home, model, self._step(chance))

    async def _certain(
        self, client: ClientProcess, home: int, model: DirectoryModel, step: Step
    ) -> None:
        error: Kind | None = None
        what = f"does {step[:3]} at home"
        life = client.client
        began = trio.current_time()
        try:
            await timed(self._world, client, what, self._do(
                client.client.operations, home, step), calls=PATIENCE)
        except FsError as failure:
            error = failure.kind
        refused = {None, Kind.EXISTS, Kind.NOT_FOUND, Kind.IS_DIRECTORY, Kind.NOT_DIRECTORY}
        if error not in refused or not client.up or client.client is not life:
            model.unknown(step)
        else:
            told = "well" if error is None else Kind.Name(error)
            require_true(model.answered(step, error),
                         f"{client.name}: {step[:3]} ended {told}, which nothing explains")
            if error is not None and trio.current_time() > began + 0.8 * ATTEMPT_S:
                # Refusals are not recorded: an attempt that was given up for another, which was
                # refused, may still be on its way, and then be judged anew.
                model.unknown(step)

    async def _look(self, client: ClientProcess, home: int, model: DirectoryModel) -> None:
        try:
            shown = await timed(
                self._world, client, "lists home", self._list(client, home), calls=PATIENCE)
        except FsError:
            return
        require_true(model.shown(shown), f"{client.name}: home shows {shown}, which nothing "
                     "explains")

    @staticmethod
    async def _list(client: ClientProcess, home: int) -> dict[bytes, bool]:
        operations = client.client.operations
        handle = await operations.opendir(CREDENTIAL, home)
        found: dict[bytes, bool] = {}
        while (entry := await operations.readdir(handle, len(found))) is not None:
            found[entry.dentry.name] = entry.dentry.type == meta_pb2.DIRECTORY
        operations.releasedir(handle)
        return found

    async def _in_common(self, client: ClientProcess, until: float) -> None:
        chance = self._world.draw("common", client.number)
        while trio.current_time() < until:
            await trio.sleep(chance.expovariate(1.0))
            step = self._step(chance)
            if client.up:
                try:
                    await timed(self._world, client, f"does {step[:3]} in common", self._do(
                        client.client.operations, self._common, step), calls=PATIENCE)
                except FsError:
                    continue

    async def check(self) -> None:
        """Every home looks as it may."""
        for client in self._world.clients:
            model = self._models[client.number]
            self._world.count("homes given up", model.given_up)
            await self._look(client, self._homes[client.number], model)
