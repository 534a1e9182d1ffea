"""What may not be: rules between inodes, entries, sessions and chunks.

Layer: pure. Works on one pass of scans that is not one snapshot, so a finding may come of a
change made between two scans. Each finding therefore carries its evidence, everything that
changes whenever its subject does; `client/fsck.py` believes what two passes found exactly alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from luciole.client.core.layout import KIND_FILE, chain_of, parse_chunk_id
from luciole.errors import FsError
from luciole.inline import chunks_end, is_inline
from luciole.limits import INLINE_BYTES_MAX
from luciole.proto import meta_pb2, mgmtd_pb2, storage_pb2
from luciole.routing import RoutingTable

ROOT_ID = 1
PATH_DEPTH_MAX = 4096


@dataclass(frozen=True)
class Problem:
    """Something that may not be."""

    kind: str
    subject: str
    message: str
    evidence: tuple[int, ...] = ()


@dataclass
class Namespace:
    """One pass over the metadata. All of it is held in memory."""

    inodes: dict[int, meta_pb2.Inode] = field(default_factory=dict)
    dentries: list[meta_pb2.Dentry] = field(default_factory=list)
    writing: set[int] = field(default_factory=set)  # inodes with an open write session
    garbage: set[int] = field(default_factory=set)
    quotas: dict[int, meta_pb2.Quota] = field(default_factory=dict)
    contents: dict[int, int] = field(default_factory=dict)  # inode -> bytes of its inline record
    _entries_of: dict[int, list[meta_pb2.Dentry]] | None = None

    def entries_of(self, inode_id: int) -> list[meta_pb2.Dentry]:
        """All entries that lead to an inode. Call when the scan is complete."""
        if self._entries_of is None:
            self._entries_of = {}
            for dentry in self.dentries:
                self._entries_of.setdefault(dentry.inode_id, []).append(dentry)
        return self._entries_of.get(inode_id, [])

    def path(self, inode_id: int) -> str:
        """A path of an inode as far as entries lead up, for people."""
        names: list[str] = []
        while inode_id != ROOT_ID and len(names) < PATH_DEPTH_MAX:
            entries = self.entries_of(inode_id)
            if not entries:
                return f"<inode {inode_id}>/{'/'.join(reversed(names))}".rstrip("/")
            names.append(entries[0].name.decode(errors="backslashreplace"))
            inode_id = entries[0].parent
        return "/" + "/".join(reversed(names))

    def name_of(self, inode_id: int) -> str:
        """"inode 4097 (/a/b)"."""
        return f"inode {inode_id} ({self.path(inode_id)})"


def _evidence(inode: meta_pb2.Inode) -> tuple[int, ...]:
    return (inode.mtime_ns, inode.ctime_ns, inode.nlink, inode.truncate_version, inode.length)


def namespace_problems(space: Namespace) -> list[Problem]:
    """Problems among inodes and entries."""
    found = []
    if ROOT_ID not in space.inodes:
        found.append(Problem("no-root", f"inode {ROOT_ID}", "there is no root directory"))
    for dentry in space.dentries:
        found += _dentry_problems(space, dentry)
    subdirectories: dict[int, int] = {}
    for dentry in space.dentries:
        if dentry.type == meta_pb2.DIRECTORY:
            subdirectories[dentry.parent] = subdirectories.get(dentry.parent, 0) + 1
    for inode in space.inodes.values():
        if inode.type == meta_pb2.DIRECTORY:
            found += _directory_problems(space, inode, subdirectories.get(inode.inode_id, 0))
        else:
            found += _file_problems(space, inode)
    return found + _unreachable(space) + _inline_problems(space)


def _inline_problems(space: Namespace) -> list[Problem]:
    """Inline records without a file that says so, and files whose record is another."""
    found = [
        Problem("inline-record", f"inline record of inode {inode_id}", "there is no inline file "
                "that it belongs to", (length,))
        for inode_id, length in space.contents.items()
        if inode_id not in space.inodes or not is_inline(space.inodes[inode_id])]
    for inode in space.inodes.values():
        length = space.contents.get(inode.inode_id, 0)
        if is_inline(inode) and not length == inode.inline_bytes <= min(
                inode.length, INLINE_BYTES_MAX):
            found.append(Problem(
                "inline-length", space.name_of(inode.inode_id), f"it has {inode.length} bytes and "
                f"says that {inode.inline_bytes} are in its inline record, which has {length}",
                (*_evidence(inode), length)))
    return found


def _dentry_problems(space: Namespace, dentry: meta_pb2.Dentry) -> list[Problem]:
    name = dentry.name.decode(errors="backslashreplace")
    subject = f"entry {name!r} of {space.name_of(dentry.parent)}"
    inode = space.inodes.get(dentry.inode_id)
    found = []
    if dentry.parent not in space.inodes and dentry.parent not in space.garbage:
        found.append(Problem("dentry-without-directory", subject,
                             "the directory that it is in does not exist"))
    if inode is None:
        found.append(Problem("dentry-without-inode", subject,
                             f"it leads to inode {dentry.inode_id}, which does not exist"))
    elif inode.type != dentry.type:
        found.append(Problem(
            "dentry-type", subject, f"it says {_type_name(dentry.type)}, inode {inode.inode_id} "
            f"is {_type_name(inode.type)}", _evidence(inode)))
    return found


def _type_name(kind: meta_pb2.FileType) -> str:
    return meta_pb2.FileType.Name(kind).lower()


def _file_problems(space: Namespace, inode: meta_pb2.Inode) -> list[Problem]:
    names = len(space.entries_of(inode.inode_id))
    if names == inode.nlink:
        return []
    kind = "no-dentry" if names == 0 else "link-count"
    return [Problem(kind, space.name_of(inode.inode_id), f"its link count is {inode.nlink}, and "
                    f"{names} entries lead to it", _evidence(inode))]


def _directory_problems(
    space: Namespace, inode: meta_pb2.Inode, subdirectories: int
) -> list[Problem]:
    subject, evidence = space.name_of(inode.inode_id), _evidence(inode)
    entries = space.entries_of(inode.inode_id)
    found = []
    if inode.nlink != 2 + subdirectories:
        found.append(Problem("directory-link-count", subject, f"its link count is {inode.nlink}, "
                             f"and with {subdirectories} subdirectories it must be "
                             f"{2 + subdirectories}", evidence))
    if inode.inode_id == ROOT_ID:
        if entries:
            found.append(Problem("root-with-dentry", subject, "an entry leads to the root"))
        return found
    if not entries:
        found.append(Problem("no-dentry", subject, "no entry leads to the directory", evidence))
    elif len(entries) > 1:
        found.append(Problem("directory-several-dentries", subject, f"{len(entries)} entries lead "
                             "to the directory", evidence))
    elif entries[0].parent != inode.parent:
        found.append(Problem("directory-parent", subject, f"it says that inode {inode.parent} is "
                             f"its parent, and its entry is in inode {entries[0].parent}",
                             evidence))
    return found


def _unreachable(space: Namespace) -> list[Problem]:
    """Directories from which entries lead up, but never to the root: a cycle."""
    reachable: dict[int, bool] = {ROOT_ID: True}
    for inode in space.inodes.values():
        trail: list[int] = []
        here = inode.inode_id
        while inode.type == meta_pb2.DIRECTORY and here not in reachable:
            trail.append(here)
            reachable[here] = False  # met again on this trail: a cycle
            entries = space.entries_of(here)
            if not entries:
                reachable.update(dict.fromkeys(trail, True))  # told as no-dentry
                break
            here = entries[0].parent
        else:
            reachable.update(dict.fromkeys(trail, reachable.get(here, True)))
    return [
        Problem("unreachable", f"inode {inode_id}", "the directory cannot be reached from the "
                "root: its ancestors form a cycle", _evidence(space.inodes[inode_id]))
        for inode_id, fine in reachable.items() if not fine and inode_id in space.inodes
    ]


def quota_problems(space: Namespace) -> list[Problem]:
    """Quota roots whose usage is not that of the inodes that name them, and inodes that name
    another root than the directory that they are in."""
    truth: dict[int, tuple[int, int]] = dict.fromkeys(space.quotas, (0, 0))
    for inode in space.inodes.values():
        if inode.quota_root:
            size, number = truth.get(inode.quota_root, (0, 0))
            truth[inode.quota_root] = size + inode.length, number + 1
    found = []
    for root, real in truth.items():
        quota = space.quotas.get(root, meta_pb2.Quota())
        counted = quota.bytes_used, quota.inodes_used
        if counted != real:
            found.append(Problem(
                "quota-usage", f"quota of {space.name_of(root)}", "its counters say {} bytes in {} "
                "inodes, and the inodes have {} in {}".format(*counted, *real), counted + real))
    if any(quota.pending for quota in space.quotas.values()):
        return found  # some are still to be brought to their root
    for dentry in space.dentries:
        parent, child = space.inodes.get(dentry.parent), space.inodes.get(dentry.inode_id)
        if parent is None or child is None or child.quota_root in {
                parent.quota_root, child.inode_id}:
            continue
        # A file with several names may have got them before its directories had quotas.
        if child.type == meta_pb2.DIRECTORY or child.nlink == 1:
            found.append(Problem(
                "quota-root", space.name_of(child.inode_id), f"it counts for {child.quota_root}, "
                f"and the directory that it is in for {parent.quota_root}",
                (*_evidence(parent), *_evidence(child))))
    return found


def placement_problems(
    space: Namespace, table: RoutingTable, chain_id: int, chunks: Iterable[storage_pb2.ChunkInfo]
) -> list[Problem]:
    """Committed chunks of one chain that belong to nobody, or not there."""
    found = []
    for info in chunks:
        if info.chunk_id[0] != KIND_FILE or not info.committed_version:
            continue
        inode_id, index = parse_chunk_id(info.chunk_id)
        subject = f"chunk {index} of {space.name_of(inode_id)} on chain {chain_id}"
        inode = space.inodes.get(inode_id)
        if inode is None:
            if inode_id not in space.garbage:
                found.append(Problem("orphan-chunk", subject, "its file neither exists nor is "
                                     "being removed", (info.committed_version,)))
            continue
        evidence = (*_evidence(inode), info.committed_version)
        if not inode.HasField("layout"):
            found.append(Problem("orphan-chunk", subject, f"its inode is "
                                 f"{_type_name(inode.type)}, which has no chunks", evidence))
            continue
        wrong = _wrong_place(inode.layout, table, chain_id, index)
        if wrong:
            found.append(Problem("misplaced-chunk", subject, wrong, evidence))
        settled = not inode.trim_pending and inode_id not in space.writing
        if settled and index * inode.layout.chunk_size >= chunks_end(inode):
            found.append(Problem("chunk-beyond-end", subject, f"the file has {inode.length} bytes, "
                                 f"none of them in it, and nobody writes", evidence))
    return found


def _wrong_place(
    layout: meta_pb2.Layout, table: RoutingTable, chain_id: int, index: int
) -> str:
    """Why a chunk may not be on a chain; empty when it may."""
    try:
        right = chain_of(layout, table.table(layout.table_id, layout.table_version), index)
    except FsError as failure:
        return f"its file's layout cannot be followed: {failure}"
    return "" if right == chain_id else f"the file's layout puts it on chain {right}"


def replica_problems(
    chain: mgmtd_pb2.Chain, replicas: Mapping[int, Mapping[bytes, storage_pb2.ChunkInfo]]
) -> list[Problem]:
    """Chunks that the serving targets of a chain do not hold alike.

    Args:
        chain: the chain.
        replicas: all chunks by id, of each serving target.
    """
    found = []
    for identity in sorted(set().union(*replicas.values())):
        copies = {target: chunks.get(identity) for target, chunks in replicas.items()}
        inode_id, index = parse_chunk_id(identity)
        subject = f"chunk {index} of inode {inode_id} on chain {chain.chain_id}"
        pending = {target: copy.pending_version for target, copy in copies.items()
                   if copy is not None and copy.pending_version}
        if pending:
            found.append(Problem("pending-version", subject, "a write was begun and not finished: "
                                 + _each("target {} holds version {}", pending)))
        committed = {target: copy for target, copy in copies.items()
                     if copy is not None and copy.committed_version}
        missing = [target for target in copies if target not in committed]
        if committed and missing:
            found.append(Problem(
                "missing-replica", subject, f"target {missing} lacks it, and "
                + _each("target {} holds version {}", {
                    target: copy.committed_version for target, copy in committed.items()})))
        facts = {target: (copy.committed_version, copy.length, copy.checksum)
                 for target, copy in committed.items()}
        if len(set(facts.values())) > 1:
            found.append(Problem("replicas-differ", subject, "(version, length, checksum) differ: "
                                 + _each("target {}: {}", facts)))
    return found


def _each(text: str, values: Mapping[int, object]) -> str:
    return ", ".join(text.format(target, value) for target, value in sorted(values.items()))
