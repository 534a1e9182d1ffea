"""Random operations against a simple model of a POSIX namespace, with an unreliable store.

Every mutating request is sent up to three times with the same id, to either of two servers, while
the store injects conflicts and commits of unknown outcome: the outcome must be the model's, once.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from luciole.errors import FsError, Kind
from luciole.kv.memory import NO_FAULTS, Faults
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.world import CALL, ROOT, World, user

NAMES = st.sampled_from([b"a", b"b", b"c"])
PLACES = st.integers(0, 6)
SHAKY = Faults(conflict=0.2, unknown_applied=0.2, unknown_dropped=0.1)


class Entry:
    """An inode of the model."""

    def __init__(self, kind: int, parent: Entry | None = None) -> None:
        self.kind = kind
        self.parent = parent
        self.children: dict[bytes, Entry] = {}
        self.links = 0
        self.number = 0

    @property
    def directory(self) -> bool:
        return self.kind == meta_pb2.DIRECTORY

    def below(self, other: Entry) -> bool:
        """Whether this is `other` or lies under it."""
        node: Entry | None = self
        while node is not None and node is not other:
            node = node.parent if node.parent is not node else None
        return node is other


class Tree:
    """POSIX semantics on a tree in memory. Operations return an error kind or None."""

    def __init__(self) -> None:
        self.root = Entry(meta_pb2.DIRECTORY)
        self.root.parent, self.root.number = None, ROOT

    def directories(self) -> list[Entry]:
        found = [self.root]
        for entry in found:
            found += [e for _, e in sorted(entry.children.items()) if e.directory]
        return found

    def make(self, parent: Entry, name: bytes, kind: int) -> Kind | None:
        if name in parent.children:
            return Kind.EXISTS
        entry = parent.children[name] = Entry(kind, parent)
        entry.links = 1
        return None

    def link(self, entry: Entry, parent: Entry, name: bytes) -> Kind | None:
        if name in parent.children:
            return Kind.EXISTS
        parent.children[name] = entry
        entry.links += 1
        return None

    def remove(self, parent: Entry, name: bytes, *, directory: bool) -> Kind | None:
        entry = parent.children.get(name)
        if entry is None:
            return Kind.NOT_FOUND
        if entry.directory != directory:
            return Kind.NOT_DIRECTORY if directory else Kind.IS_DIRECTORY
        if entry.children:
            return Kind.NOT_EMPTY
        del parent.children[name]
        entry.links -= 1
        return None

    def rename(
        self, parent: Entry, name: bytes, new_parent: Entry, new_name: bytes,
        *, no_replace: bool, exchange: bool,
    ) -> Kind | None:
        source, target = parent.children.get(name), new_parent.children.get(new_name)
        if source is None:
            return Kind.NOT_FOUND
        if source.directory and new_parent.below(source):
            return Kind.LOOP
        if exchange:
            return self._exchange(parent, name, new_parent, new_name)
        if target is not None and no_replace:
            return Kind.EXISTS
        if target is source:
            return None
        if target is not None:
            if target.directory != source.directory:
                return Kind.IS_DIRECTORY if target.directory else Kind.NOT_DIRECTORY
            if target.children:
                return Kind.NOT_EMPTY
            target.links -= 1
        del parent.children[name]
        new_parent.children[new_name] = source
        source.parent = new_parent
        return None

    def _exchange(
        self, parent: Entry, name: bytes, new_parent: Entry, new_name: bytes
    ) -> Kind | None:
        source, target = parent.children[name], new_parent.children.get(new_name)
        if target is None:
            return Kind.NOT_FOUND
        if target is not source and target.directory and parent.below(target):
            return Kind.LOOP
        parent.children[name], new_parent.children[new_name] = target, source
        source.parent, target.parent = new_parent, parent
        return None


class Namespace(RuleBasedStateMachine):
    """The service does what the model does."""

    faults = NO_FAULTS

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world = World(self.faults, seed)
        self.tree = Tree()

    def place(self, index: int) -> Entry:
        found = self.tree.directories()
        return found[index % len(found)]

    def send(self, call: Callable[[World], object]) -> tuple[Kind | None, object]:
        """Sends one request once or several times, to either server; the outcomes agree."""
        world = self.world
        times = 1 + world.runtime.entropy.below(3) if self.faults != NO_FAULTS else 1
        outcomes: list[tuple[Kind | None, object]] = []
        servers = [world.meta, world.other]
        before = dict(world._sequences)
        for _ in range(times):
            world._sequences = dict(before)
            world.meta = servers[world.runtime.entropy.below(2)]
            try:
                outcomes.append((None, call(world)))
            except FsError as failure:
                outcomes.append((failure.kind, None))
        world.meta, world.other = servers
        assert all(outcome == outcomes[0] for outcome in outcomes)
        return outcomes[0]

    @rule(where=PLACES, name=NAMES, kind=st.sampled_from([
        meta_pb2.DIRECTORY, meta_pb2.REGULAR, meta_pb2.SYMLINK, meta_pb2.FIFO]))
    def make(self, where: int, name: bytes, kind: int) -> None:
        parent = self.place(where)
        calls: dict[int, Callable[[World], meta_pb2.Inode]] = {
            meta_pb2.DIRECTORY: lambda world: world.mkdir(name, parent.number),
            meta_pb2.REGULAR: lambda world: world.create(
                name, parent.number, exclusive=True).inode,
            meta_pb2.SYMLINK: lambda world: world.symlink(name, b"t", parent.number),
            meta_pb2.FIFO: lambda world: world.node(name, meta_pb2.FIFO, parent.number),
        }
        error, inode = self.send(calls[kind])
        assert error == self.tree.make(parent, name, kind)
        if error is None:
            assert isinstance(inode, meta_pb2.Inode)
            parent.children[name].number = inode.inode_id

    @rule(where=PLACES, name=NAMES, there=PLACES, new_name=NAMES)
    def link(self, where: int, name: bytes, there: int, new_name: bytes) -> None:
        entry, parent = self.place(where).children.get(name), self.place(there)
        if entry is not None and not entry.directory:
            error, _ = self.send(lambda world: world.link(entry.number, new_name, parent.number))
            assert error == self.tree.link(entry, parent, new_name)

    @rule(where=PLACES, name=NAMES, directory=st.booleans())
    def remove(self, where: int, name: bytes, directory: bool) -> None:
        parent = self.place(where)
        error, _ = self.send(
            lambda world: (world.rmdir if directory else world.unlink)(name, parent.number))
        assert error == self.tree.remove(parent, name, directory=directory)

    @rule(where=PLACES, name=NAMES, there=PLACES, new_name=NAMES,
          flag=st.sampled_from(["", "", "no_replace", "exchange"]))
    def rename(self, where: int, name: bytes, there: int, new_name: bytes, flag: str) -> None:
        parent, new_parent = self.place(where), self.place(there)
        no_replace, exchange = flag == "no_replace", flag == "exchange"
        error, _ = self.send(lambda world: world.rename(
            name, new_name, parent.number, new_parent.number,
            no_replace=no_replace, exchange=exchange))
        assert error == self.tree.rename(
            parent, name, new_parent, new_name, no_replace=no_replace, exchange=exchange)

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0]))
    def collect(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.collect()

    @invariant()
    def the_service_shows_the_model(self) -> None:
        if not hasattr(self, "tree"):
            return
        faults, self.world.store.faults = self.world.store.faults, NO_FAULTS
        for directory in self.tree.directories():
            page = drive(self.world.meta.read_dir(meta_pb2.ReadDirRequest(
                credential=user(), inode_id=directory.number, with_inodes=True), CALL))
            shown = {entry.dentry.name: entry.inode for entry in page.entries}
            assert {name: inode.inode_id for name, inode in shown.items()} == {
                name: entry.number for name, entry in directory.children.items()}
            for name, entry in directory.children.items():
                subdirectories = sum(child.directory for child in entry.children.values())
                links = 2 + subdirectories if entry.directory else entry.links
                assert (shown[name].type, shown[name].nlink) == (entry.kind, links)
        self.world.check()
        self.world.store.faults = faults


class ShakyNamespace(Namespace):
    """The same over a store that fails, with every request repeated."""

    faults = SHAKY


COMMON = settings(
    max_examples=80, stateful_step_count=30, deadline=None,
    suppress_health_check=list(HealthCheck))
TestNamespace = Namespace.TestCase
TestNamespace.settings = COMMON
TestShakyNamespace = ShakyNamespace.TestCase
TestShakyNamespace.settings = COMMON
