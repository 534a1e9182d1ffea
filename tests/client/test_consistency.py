"""fsck's rules, on namespaces and chunk lists broken by hand."""

from __future__ import annotations

from luciole.client.core.consistency import (
    Namespace,
    Problem,
    namespace_problems,
    placement_problems,
    quota_problems,
    replica_problems,
)
from luciole.client.core.layout import chunk_id
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.routing import RoutingTable

FILE, DIRECTORY = meta_pb2.REGULAR, meta_pb2.DIRECTORY
CHUNK = 1 << 20
LAYOUT = meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=2, seed=0)
TABLE = RoutingTable(mgmtd_pb2.Routing(version=1, tables=[
    mgmtd_pb2.ChainTable(table_id=1, version=1, chain_ids=[1, 2, 3])]))
CHAIN = mgmtd_pb2.Chain(chain_id=1, version=1)


def directory(number: int, parent: int, nlink: int) -> meta_pb2.Inode:
    return meta_pb2.Inode(inode_id=number, type=DIRECTORY, parent=parent, nlink=nlink)


def file(number: int, length: int = 0, nlink: int = 1) -> meta_pb2.Inode:
    return meta_pb2.Inode(
        inode_id=number, type=FILE, nlink=nlink, length=length, layout=LAYOUT)


def entry(parent: int, name: str, number: int, kind: meta_pb2.FileType) -> meta_pb2.Dentry:
    return meta_pb2.Dentry(parent=parent, name=name.encode(), inode_id=number, type=kind)


def sound() -> Namespace:
    """/d (10), /d/e (11), /d/f (20, also /g), /h (21: two chunks and a bit)."""
    space = Namespace()
    for inode in (directory(1, 1, 3), directory(10, 1, 3), directory(11, 10, 2),
                  file(20, nlink=2), file(21, length=2 * CHUNK + 1)):
        space.inodes[inode.inode_id] = inode
    space.dentries = [
        entry(1, "d", 10, DIRECTORY), entry(10, "e", 11, DIRECTORY), entry(10, "f", 20, FILE),
        entry(1, "g", 20, FILE), entry(1, "h", 21, FILE)]
    return space


def kinds(problems: list[Problem]) -> list[str]:
    return sorted(problem.kind for problem in problems)


def test_a_sound_namespace() -> None:
    assert namespace_problems(sound()) == []


def inline(number: int, inline_bytes: int, length: int = 100) -> meta_pb2.Inode:
    inode = file(number, length=length)
    inode.inline_bytes = inline_bytes
    return inode


def test_an_inline_file_and_its_record_agree() -> None:
    space = sound()
    space.inodes[21], space.contents = inline(21, 60), {21: 60}
    assert namespace_problems(space) == []
    for broken in ({}, {21: 61}, {20: 5, 21: 60}, {21: 60, 99: 1}):
        space.contents = broken
        expected = "inline-record" if set(broken) - {21} else "inline-length"
        assert kinds(namespace_problems(space)) == [expected]
    space.inodes[21], space.contents = inline(21, 101), {21: 101}
    assert kinds(namespace_problems(space)) == ["inline-length"]
    space.inodes[21] = inline(21, 9000, length=10_000)
    space.contents = {21: 9000}
    assert kinds(namespace_problems(space)) == ["inline-length"]


def test_a_small_inline_file_has_no_chunk() -> None:
    space = sound()
    space.inodes[21] = inline(21, 60)
    chunk = storage_pb2.ChunkInfo(chunk_id=chunk_id(21, 0), committed_version=1, length=5)
    assert kinds(placement_problems(space, TABLE, 1, [chunk])) == ["chunk-beyond-end"]
    space.inodes[21].length = 8193
    assert placement_problems(space, TABLE, 1, [chunk]) == []


def test_dentry_without_inode() -> None:
    space = sound()
    del space.inodes[21]
    problem, = namespace_problems(space)
    assert (problem.kind, problem.subject) == (
        "dentry-without-inode", "entry 'h' of inode 1 (/)")


def test_dentry_of_another_type_than_its_inode() -> None:
    space = sound()
    space.dentries[4] = entry(1, "h", 21, meta_pb2.SYMLINK)
    assert kinds(namespace_problems(space)) == ["dentry-type"]


def test_link_count_of_a_file() -> None:
    space = sound()
    space.inodes[20].nlink = 3
    problem, = namespace_problems(space)
    assert problem.kind == "link-count"
    assert problem.subject == "inode 20 (/d/f)"


def test_unlinked_file_that_is_open_is_sound() -> None:
    space = sound()
    space.inodes[22] = file(22, nlink=0)
    assert namespace_problems(space) == []


def test_file_without_a_name() -> None:
    space = sound()
    space.inodes[22] = file(22)
    assert kinds(namespace_problems(space)) == ["no-dentry"]


def test_link_count_of_a_directory() -> None:
    space = sound()
    space.inodes[10].nlink = 2
    assert kinds(namespace_problems(space)) == ["directory-link-count"]


def test_directory_with_a_wrong_parent() -> None:
    space = sound()
    space.inodes[11].parent = 1
    assert kinds(namespace_problems(space)) == ["directory-parent"]


def test_directory_with_two_names() -> None:
    space = sound()
    space.dentries.append(entry(1, "z", 11, DIRECTORY))
    assert kinds(namespace_problems(space)) == [
        "directory-link-count", "directory-several-dentries"]


def test_cycle() -> None:
    space = sound()
    space.dentries[0] = entry(11, "d", 10, DIRECTORY)
    space.inodes[10].parent = 11
    space.inodes[1].nlink, space.inodes[11].nlink = 2, 3
    assert kinds(namespace_problems(space)) == ["unreachable", "unreachable"]


def test_lost_directory_is_told_once_not_all_below_it() -> None:
    space = sound()
    del space.dentries[0]
    space.inodes[1].nlink = 2
    assert kinds(namespace_problems(space)) == ["no-dentry"]


def test_no_root() -> None:
    assert kinds(namespace_problems(Namespace())) == ["no-root"]


def info(
    number: int, index: int, *, version: int = 1, pending: int = 0, checksum: int = 0
) -> storage_pb2.ChunkInfo:
    return storage_pb2.ChunkInfo(
        chunk_id=chunk_id(number, index), committed_version=version, pending_version=pending,
        length=1, checksum=checksum)


def test_chunks_in_their_place() -> None:
    space = sound()
    space.garbage.add(99)
    chunks = [info(21, 0), info(21, 2), info(99, 0)]
    assert placement_problems(space, TABLE, 1, chunks) == []
    assert placement_problems(space, TABLE, 2, [info(21, 1)]) == []


def test_chunk_of_no_file() -> None:
    assert kinds(placement_problems(sound(), TABLE, 1, [info(98, 0)])) == ["orphan-chunk"]
    assert kinds(placement_problems(sound(), TABLE, 1, [info(10, 0)])) == ["orphan-chunk"]


def test_chunk_on_a_chain_of_another() -> None:
    assert kinds(placement_problems(sound(), TABLE, 3, [info(21, 0)])) == ["misplaced-chunk"]


def test_chunk_beyond_the_end() -> None:
    space = sound()
    beyond = [info(21, 4)]
    assert kinds(placement_problems(space, TABLE, 1, beyond)) == ["chunk-beyond-end"]
    space.writing.add(21)
    assert placement_problems(space, TABLE, 1, beyond) == []
    space.writing.clear()
    space.inodes[21].trim_pending = True
    assert placement_problems(space, TABLE, 1, beyond) == []


def replicas(
    first: list[storage_pb2.ChunkInfo], second: list[storage_pb2.ChunkInfo]
) -> dict[int, dict[bytes, storage_pb2.ChunkInfo]]:
    return {number: {item.chunk_id: item for item in items}
            for number, items in ((100, first), (200, second))}


def test_equal_replicas() -> None:
    assert replica_problems(CHAIN, replicas([info(21, 0)], [info(21, 0)])) == []
    assert replica_problems(CHAIN, replicas([], [])) == []


def test_replicas_that_differ() -> None:
    for other in (info(21, 0, version=2), info(21, 0, checksum=7)):
        problem, = replica_problems(CHAIN, replicas([info(21, 0)], [other]))
        assert problem.kind == "replicas-differ"


def test_missing_replica() -> None:
    problem, = replica_problems(CHAIN, replicas([], [info(21, 0)]))
    assert problem.kind == "missing-replica"
    assert "target [100] lacks it" in problem.message


def test_pending_version() -> None:
    found = replica_problems(
        CHAIN, replicas([info(21, 0, pending=2)], [info(21, 0)]))
    assert kinds(found) == ["pending-version"]


def test_what_changes_between_two_passes_is_not_the_same_problem() -> None:
    before, after = sound(), sound()
    for number, space in enumerate((before, after)):
        space.inodes[10].nlink = 9
        space.inodes[10].ctime_ns = number
    assert not set(namespace_problems(before)) & set(namespace_problems(after))


def accounted() -> Namespace:
    """Everything below /d counts for it, also the file that has a name elsewhere."""
    space = sound()
    for number in (10, 11, 20):
        space.inodes[number].quota_root = 10
    space.inodes[20].length = 7
    space.quotas[10] = meta_pb2.Quota(inode_id=10, bytes_used=7, inodes_used=3)
    return space


def test_usage_is_what_the_inodes_have() -> None:
    space = accounted()
    assert quota_problems(space) == []
    for change in (meta_pb2.Quota(bytes_used=8, inodes_used=3),
                   meta_pb2.Quota(bytes_used=7, inodes_used=4)):
        change.inode_id = 10
        space.quotas[10] = change
        assert kinds(quota_problems(space)) == ["quota-usage"]
    del space.quotas[10]
    assert kinds(quota_problems(space)) == ["quota-usage"]


def test_inodes_count_for_the_root_above_them() -> None:
    space = accounted()
    space.inodes[11].quota_root = 0
    space.quotas[10].inodes_used = 2
    problem, = quota_problems(space)
    assert (problem.kind, problem.subject) == ("quota-root", "inode 11 (/d/e)")
    space.quotas[10].pending = True
    assert quota_problems(space) == [], "the walk will find it"


def test_entries_of_a_removed_tree() -> None:
    space = sound()
    del space.inodes[10]
    space.dentries.remove(entry(1, "d", 10, DIRECTORY))
    space.inodes[1].nlink = 2
    assert kinds(namespace_problems(space)) == ["dentry-without-directory"] * 2
    space.garbage.add(10)
    assert namespace_problems(space) == []
