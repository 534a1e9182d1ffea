"""The KV cache as directories and files, without a kernel: real volumes on real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luciole.client.side_tree import FIRST
from luciole.clock import ManualClock
from luciole.errors import FsError, Kind
from luciole.kvcache import tree as tree_module
from luciole.kvcache.tree import BlockTree, _directory_number
from luciole.kvcache.volume.volume import Limits
from luciole.proto import meta_pb2, mgmtd_pb2
from luciole.runtime import drive
from luciole.tests.kvcache.volumes import SPACE, content, key, open_volume, put
from luciole.tests.kvcache.world import CLUSTER, World

SIZE = 3000
# All of one directory: keys differ behind their first byte.
NAMES = sorted(b"\x2a" + key(number)[1:] for number in range(300))
OTHER = b"\x2b" + key(5)[1:]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 3, replication=2)
    blocks = [*NAMES, OTHER]
    assert all(outcome.ok for outcome in made.namespace.put(
        blocks, [content(name, SIZE) for name in blocks]))
    yield made
    made.close()


@pytest.fixture
def tree(world: World) -> BlockTree:
    return BlockTree(world.runtime, world.connections, world.routing)


def walk(tree: BlockTree, *names: str) -> meta_pb2.Inode:
    inode = drive(tree.inode(FIRST))
    for name in names:
        child = drive(tree.lookup(inode.inode_id, name.encode()))
        assert child.parent == inode.inode_id
        assert drive(tree.inode(child.inode_id)) == child
        inode = child
    return inode


def listed(tree: BlockTree, inode: meta_pb2.Inode, limit: int = 7) -> list[bytes]:
    """All names, a few at a time."""
    names: list[bytes] = []
    more = True
    while more:
        entries, more = drive(tree.page(inode.inode_id, names[-1] if names else b"", limit))
        names += [entry.dentry.name for entry in entries]
    return names


def refusal(tree: BlockTree, parent: meta_pb2.Inode, name: str) -> int:
    with pytest.raises(FsError) as caught:
        drive(tree.lookup(parent.inode_id, name.encode()))
    return caught.value.kind


def test_every_block_is_listed_once_in_order_whatever_the_page(tree: BlockTree) -> None:
    assert listed(tree, walk(tree)) == [b"kv"]
    assert listed(tree, walk(tree, "kv")) == [b"test"]
    assert len(listed(tree, walk(tree, "kv", "test"))) == 256
    for limit in (1, 7, 299, 300, 1000):
        assert listed(tree, walk(tree, "kv", "test", "2a"), limit) == [
            name.hex().encode() for name in NAMES]
    assert listed(tree, walk(tree, "kv", "test", "2b")) == [OTHER.hex().encode()]
    assert listed(tree, walk(tree, "kv", "test", "2c")) == []


def test_a_file_has_the_size_time_and_bytes_of_its_block(world: World, tree: BlockTree) -> None:
    inode = walk(tree, "kv", "test", "2a", NAMES[3].hex())
    assert (inode.length, inode.type) == (SIZE, meta_pb2.REGULAR)
    created = next(volume.spaces[SPACE].index[NAMES[3]].created_ns
                   for volume in world.volumes.values() if NAMES[3] in volume.spaces[SPACE].index)
    assert inode.mtime_ns == created
    found, read = drive(tree.open(inode.inode_id))
    assert found == inode
    room = bytearray(1000)
    drive(read(1500, memoryview(room)))
    assert bytes(room) == content(NAMES[3], SIZE)[1500:2500]


def test_looking_is_no_use_of_a_block(world: World, tree: BlockTree) -> None:
    def uses() -> list[int]:
        return [entry.uses for volume in world.volumes.values()
                for entry in volume.spaces[SPACE].index.values()]

    before = uses()
    listed(tree, walk(tree, "kv", "test", "2a"))
    walk(tree, "kv", "test", "2a", NAMES[0].hex())
    assert uses() == before
    assert all(volume.spaces[SPACE].counts.hits == 0 for volume in world.volumes.values())


def test_names_that_no_block_has_are_not_found(tree: BlockTree) -> None:
    directory = walk(tree, "kv", "test", "2a")
    name = NAMES[0].hex()
    for wrong in (key(1).hex(), name.upper(), name[:-1], name + "00", "2a", OTHER.hex(), "x" * 64):
        assert refusal(tree, directory, wrong) == Kind.NOT_FOUND
    assert refusal(tree, walk(tree), "test") == Kind.NOT_FOUND
    assert refusal(tree, walk(tree, "kv"), "tes") == Kind.NOT_FOUND
    assert refusal(tree, walk(tree, "kv", "test"), "2A") == Kind.NOT_FOUND


def test_a_block_that_went_is_stale(world: World, tree: BlockTree) -> None:
    number = walk(tree, "kv", "test", "2a", NAMES[0].hex()).inode_id
    _, read = drive(tree.open(number))
    world.namespace.delete(NAMES[:1])
    attempts: list[Callable[[], object]] = [
        lambda: drive(read(0, memoryview(bytearray(10)))), lambda: drive(tree.inode(number)),
        lambda: drive(tree.open(number))]
    for attempt in attempts:
        with pytest.raises(FsError, match="no longer in the KV cache") as caught:
            attempt()
        assert caught.value.kind == Kind.STALE_HANDLE
    assert refusal(tree, walk(tree, "kv", "test", "2a"), NAMES[0].hex()) == Kind.NOT_FOUND
    assert listed(tree, walk(tree, "kv", "test", "2a"))[0] == NAMES[1].hex().encode()


def test_a_block_whose_nodes_do_not_answer_is_an_error_and_not_listed(
    world: World, tree: BlockTree
) -> None:
    directory = walk(tree, "kv", "test", "2a")
    number = walk(tree, "kv", "test", "2a", NAMES[0].hex()).inode_id
    _, read = drive(tree.open(number))
    for node_id in list(world.servers):
        world.stop(node_id)
    attempts: list[Callable[[], object]] = [
        lambda: drive(tree.inode(number)), lambda: drive(read(0, memoryview(bytearray(10))))]
    for attempt in attempts:
        with pytest.raises(FsError, match="does not answer") as caught:
            attempt()
        assert caught.value.kind == Kind.UNAVAILABLE
    assert refusal(tree, directory, NAMES[0].hex()) == Kind.UNAVAILABLE
    assert listed(tree, directory) == []


def test_a_number_is_never_given_to_another_block(
    tree: BlockTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "KNOWN_MAX", 10)
    number = walk(tree, "kv", "test", "2a", NAMES[0].hex()).inode_id
    _, read = drive(tree.open(number))
    directory = walk(tree, "kv", "test", "2a")
    entries, _ = drive(tree.page(directory.inode_id, b"", 1000))
    numbers = [entry.inode.inode_id for entry in entries]
    assert len({*numbers}) == len(NAMES)
    assert numbers[0] == number  # known when it was listed, and forgotten for those behind it
    with pytest.raises(FsError, match="no longer"):
        drive(tree.inode(number))
    assert walk(tree, "kv", "test", "2a", NAMES[0].hex()).inode_id > max(numbers)
    room = bytearray(SIZE)
    drive(read(0, memoryview(room)))  # whoever has it open goes on
    assert bytes(room) == content(NAMES[0], SIZE)


def test_a_cluster_without_namespaces_has_an_empty_directory(tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    world.routing.replace(mgmtd_pb2.Routing(version=2, cluster_id=CLUSTER))
    tree = BlockTree(world.runtime, world.connections, world.routing)
    assert listed(tree, walk(tree, "kv")) == []
    with pytest.raises(FsError, match="no longer"):
        drive(tree.inode(_directory_number(SPACE)))
    world.close()


def test_a_volume_lists_by_prefix_and_leaves_out_what_is_too_old(tmp_path: Path) -> None:
    clock = ManualClock()
    volume = open_volume(tmp_path / "v", clock=clock, limits={SPACE: Limits(None, 10**9)})
    names = sorted(key(number) for number in range(50))
    for name in names[:25]:
        put(volume, name, 100)
    clock.advance(0.9)
    for name in names[25:]:
        put(volume, name, 100)
    entries, more = volume.page(SPACE, b"", b"", 10)
    assert ([entry.key for entry in entries], more) == (names[:10], True)
    entries, more = volume.page(SPACE, b"", names[39], 10)
    assert ([entry.key for entry in entries], more) == (names[40:], False)
    entries, _ = volume.page(SPACE, names[7][:1], b"", 50)
    assert [entry.key for entry in entries] == [
        name for name in names if name[:1] == names[7][:1]]
    clock.advance(0.2)
    entries, _ = volume.page(SPACE, b"", b"", 50)
    assert [entry.key for entry in entries] == names[25:]
    volume.close()
