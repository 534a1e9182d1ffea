"""Random operations on directories with quotas, which come and go, against a model of usage.

Half of the time all that is removed goes through a trash first. While a walk is under way the
counters must be those of the marked inodes; when none is, every inode must count for the nearest
root above it, and nothing else may be refused than what crosses roots.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from luciole.errors import FsError, Kind
from luciole.kv.memory import NO_FAULTS
from luciole.meta.core import quota, remove_tree, schema
from luciole.proto import meta_pb2
from luciole.runtime import drive
from luciole.tests.meta.test_trash import set_trash
from luciole.tests.meta.world import GRACE, ROOT, World
from luciole.tests.model.test_namespace import NAMES, PLACES, SHAKY, Entry, Tree

SESSION = b"s" * 16


class Accounting(RuleBasedStateMachine):
    """The service counts what the model counts."""

    @initialize(seed=st.integers(0, 2**32), batch=st.sampled_from([1, 2, 200]),
                trash=st.booleans())
    def begin(self, seed: int, batch: int, trash: bool) -> None:
        self.batches = quota.BATCH, remove_tree.BATCH
        quota.BATCH = remove_tree.BATCH = batch
        self.world = World(SHAKY, seed)
        self.tree = Tree()
        self.roots: set[int] = set()
        if trash:
            set_trash(self.world, ROOT, 100)

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        try:
            for _ in range(6):
                self.world.pass_time(GRACE + 1)
                self.world.collect()
            self.counted_as_the_model_says()
            self.world.store.faults = NO_FAULTS
            assert self.world.keys(schema.DETACHED) == self.world.keys(schema.QUOTA_WALK) == []
            assert self.world.inode_count() == 1 + len({
                entry.number for directory in self.tree.directories()
                for entry in directory.children.values()})
        finally:
            quota.BATCH, remove_tree.BATCH = self.batches

    def place(self, index: int) -> Entry:
        found = self.tree.directories()
        return found[index % len(found)]

    def root_of(self, entry: Entry) -> int:
        """The quota root of an entry that has one name; 0: none."""
        node: Entry | None = entry
        while node is not None and node.number not in self.roots:
            node = node.parent
        return node.number if node is not None else 0

    def walking(self) -> bool:
        return bool(self.world.keys(schema.QUOTA_WALK))

    @rule(where=PLACES, name=NAMES, directory=st.booleans(), length=st.sampled_from([0, 7, 500]))
    def make(self, where: int, name: bytes, directory: bool, length: int) -> None:
        parent = self.place(where)
        kind = meta_pb2.DIRECTORY if directory else meta_pb2.REGULAR
        if self.tree.make(parent, name, kind) is None:
            made = self.world.mkdir(name, parent.number) if directory else self.world.create(
                name, parent.number, write=True, session=SESSION).inode
            parent.children[name].number = made.inode_id
            if not directory:
                self.world.close(made.inode_id, SESSION, length)

    @rule(where=PLACES, name=NAMES, length=st.sampled_from([0, 3, 1000]))
    def truncate(self, where: int, name: bytes, length: int) -> None:
        entry = self.place(where).children.get(name)
        if entry is not None and not entry.directory:
            self.world.truncate(entry.number, length)

    @rule(where=PLACES, name=NAMES, there=PLACES, new_name=NAMES)
    def link(self, where: int, name: bytes, there: int, new_name: bytes) -> None:
        entry, parent = self.place(where).children.get(name), self.place(there)
        if entry is None or entry.directory or new_name in parent.children:
            return
        crossing = self.world.stat(entry.number).quota_root != self.root_of(parent)
        try:
            self.world.link(entry.number, new_name, parent.number)
        except FsError as failure:
            if failure.kind != Kind.CROSS_QUOTA or not (crossing or self.walking()):
                raise
            return
        assert not crossing or self.walking()
        self.tree.link(entry, parent, new_name)

    @rule(where=PLACES, name=NAMES)
    def remove(self, where: int, name: bytes) -> None:
        parent = self.place(where)
        entry = parent.children.get(name)
        if entry is not None and not entry.directory:
            self.world.unlink(name, parent.number)
            self.tree.remove(parent, name, directory=False)

    @rule(where=PLACES, name=NAMES)
    def remove_tree(self, where: int, name: bytes) -> None:
        parent = self.place(where)
        entry = parent.children.get(name)
        if entry is None or not entry.directory:
            return
        self.world.remove_tree(name, parent.number)
        del parent.children[name]
        waiting = [entry]
        for directory in waiting:
            self.roots.discard(directory.number)
            for child in directory.children.values():
                child.links -= 1
                waiting += [child] if child.directory else []

    @rule(where=PLACES, name=NAMES, there=PLACES, new_name=NAMES, exchange=st.booleans())
    def rename(
        self, where: int, name: bytes, there: int, new_name: bytes, exchange: bool
    ) -> None:
        parent, new_parent = self.place(where), self.place(there)
        entry, other = parent.children.get(name), new_parent.children.get(new_name)
        crossing = self.root_of(parent) != self.root_of(new_parent)
        moving = [one for one in (entry, other if exchange else None) if one is not None]
        bound = any(one.number not in self.roots and (one.directory or one.links > 1)
                    for one in moving)
        try:
            self.world.rename(name, new_name, parent.number, new_parent.number, exchange=exchange)
        except FsError as failure:
            if failure.kind == Kind.CROSS_QUOTA:
                assert bound
                assert crossing or self.walking()
                return
            error: Kind | None = failure.kind
        else:
            error = None
        assert error == self.tree.rename(
            parent, name, new_parent, new_name, no_replace=False, exchange=exchange)
        if error is None and crossing and not self.walking():
            assert entry is other or not any(
                one.directory and one.number not in self.roots for one in moving)

    @rule(where=PLACES, on=st.booleans())
    def change_quota(self, where: int, on: bool) -> None:
        directory = self.place(where).number
        busy = self.walking() and (directory not in self.roots or not on)
        try:
            if on:
                self.world.set_quota(directory, 1 << 40)
                self.roots.add(directory)
            elif directory in self.roots:
                self.world.remove_quota(directory)
                self.roots.remove(directory)
        except FsError as failure:
            if failure.kind != Kind.BUSY or not busy:
                raise

    @rule()
    def walk(self) -> None:
        drive(self.world.store.run(quota.walk_on))

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def collect(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.collect()

    @invariant()
    def counted_as_the_model_says(self) -> None:
        if not hasattr(self, "tree"):
            return
        faults, self.world.store.faults = self.world.store.faults, NO_FAULTS
        self.world.check()
        if not self.walking():
            for directory in self.tree.directories():
                for entry in [directory, *directory.children.values()]:
                    if entry.directory or (entry.links == 1 and entry.parent is directory):
                        marked = self.world.stat(entry.number).quota_root
                        assert marked == self.root_of(entry), entry.number
        self.world.store.faults = faults


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None,
    suppress_health_check=list(HealthCheck))
