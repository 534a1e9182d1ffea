"""fsck: reads everything that a cluster knows of itself and tells what cannot be right.

Layer: shell. Online and read-only: the cluster may be in use. A pass is a series of pages, not a
snapshot, so whatever it finds is looked for again in a second pass, begun after the collector
and slow writers had time; only what both found alike, evidence included, is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luciole.client.core.consistency import (
    Namespace,
    Problem,
    namespace_problems,
    placement_problems,
    quota_problems,
    replica_problems,
)
from luciole.client.session import Client
from luciole.errors import FsError
from luciole.proto import common_pb2, meta_pb2, storage_pb2
from luciole.proto.method import Method
from luciole.proto.services import (
    META_SCAN_CONTENTS,
    META_SCAN_DENTRIES,
    META_SCAN_GARBAGE,
    META_SCAN_INODES,
    META_SCAN_QUOTAS,
    META_SCAN_SESSIONS,
)
from luciole.retry import retrying
from luciole.routing import serving_targets
from luciole.runtime import Runtime

SECOND_LOOK_S = 3.0  # more than the collector's pause between two passes
CHUNK_PAGE = 1000
VOLUME_CHECK_S = 120.0
Progress = Callable[[str, int, int], None]
Scan = Method[meta_pb2.ScanRequest, meta_pb2.ScanReply]


@dataclass
class Report:
    """What fsck read and what it found."""

    inodes: int
    dentries: int
    chunks: int  # each counted once for each replica
    problems: list[Problem]
    cached: int = 0  # blocks of the KV cache


async def check(client: Client, runtime: Runtime, progress: Progress) -> Report:
    """Checks a whole cluster.

    Args:
        client: connected (its routing is there).
        runtime: of the client.
        progress: hears (step, done, total; 0: unknown).

    Raises FsError when the metadata cannot be read; chains that cannot be read are problems.
    """
    report = await _pass(client, runtime, progress)
    if not report.problems:
        return report
    progress("looking again at what may be changing", 0, 0)
    await runtime.sleep(SECOND_LOOK_S)
    await client.manager.follow(wait_ms=0)
    again = await _pass(client, runtime, progress)
    before = set(report.problems)
    again.problems = [problem for problem in again.problems if problem in before]
    return again


async def _pass(client: Client, runtime: Runtime, progress: Progress) -> Report:
    space = await _read_namespace(client, progress)
    problems = namespace_problems(space) + quota_problems(space)
    chains = client.routing.current().chains()
    chunks = 0
    for number, chain in enumerate(chains):
        progress("reading chains", number, len(chains))
        count, found = await _check_chain(client, runtime, space, chain.chain_id)
        chunks += count
        problems += found
    cached, found = await _check_volumes(client, progress)
    return Report(
        len(space.inodes), len(space.dentries), chunks, problems + found, cached=cached)


async def _check_volumes(client: Client, progress: Progress) -> tuple[int, list[Problem]]:
    """(blocks compared, problems) of the KV cache's volumes: each compares itself with its disk."""
    table = client.routing.current()
    blocks = 0
    problems = []
    for number, node_id in enumerate(nodes := table.kv_volumes()):
        progress("checking volumes of the KV cache", number, len(nodes))
        subject = f"volume of node {node_id}"
        try:
            reply = await client.connections.kv_cache(table.node(node_id)).check(
                common_pb2.Empty(), timeout=VOLUME_CHECK_S)
        except FsError as failure:
            problems.append(Problem("unreadable-volume", subject, str(failure)))
            continue
        blocks += reply.blocks
        problems += [Problem("cache-volume", subject, text) for text in reply.problems]
    return blocks, problems


async def _read_namespace(client: Client, progress: Progress) -> Namespace:
    space = Namespace()

    async def scan(method: Scan, text: str, take: Callable[[meta_pb2.ScanReply], int]) -> None:
        after, seen = b"", 0
        while True:
            reply = await client.meta.ask(method, meta_pb2.ScanRequest(after=after))
            seen += take(reply)
            progress(text, seen, 0)
            if not reply.more:
                return
            after = reply.last

    def take_inodes(reply: meta_pb2.ScanReply) -> int:
        space.inodes.update((inode.inode_id, inode) for inode in reply.inodes)
        return len(reply.inodes)

    def take_dentries(reply: meta_pb2.ScanReply) -> int:
        space.dentries.extend(reply.dentries)
        return len(reply.dentries)

    def take_sessions(reply: meta_pb2.ScanReply) -> int:
        space.writing.update(session.inode_id for session in reply.sessions if session.write)
        return len(reply.sessions)

    def take_garbage(reply: meta_pb2.ScanReply) -> int:
        space.garbage.update(reply.garbage)
        return len(reply.garbage)

    def take_quotas(reply: meta_pb2.ScanReply) -> int:
        space.quotas.update((quota.inode_id, quota) for quota in reply.quotas)
        return len(reply.quotas)

    def take_contents(reply: meta_pb2.ScanReply) -> int:
        space.contents.update((record.inode_id, record.length) for record in reply.contents)
        return len(reply.contents)

    await scan(META_SCAN_INODES, "reading inodes", take_inodes)
    await scan(META_SCAN_CONTENTS, "reading inline parts", take_contents)
    await scan(META_SCAN_QUOTAS, "reading quotas", take_quotas)
    await scan(META_SCAN_DENTRIES, "reading entries", take_dentries)
    await scan(META_SCAN_SESSIONS, "reading sessions", take_sessions)
    await scan(META_SCAN_GARBAGE, "reading the garbage list", take_garbage)
    return space


async def _check_chain(
    client: Client, runtime: Runtime, space: Namespace, chain_id: int
) -> tuple[int, list[Problem]]:
    """(chunks read, problems) of one chain, whose chunks are all held in memory."""
    table = client.routing.current()
    chain = table.chain(chain_id)
    subject = f"chain {chain_id}"
    serving = serving_targets(chain)
    if not serving:
        return 0, [Problem("no-serving-target", subject, "no target of the chain serves")]
    replicas = {}
    for target in serving:
        try:
            replicas[target] = await _list_target(client, runtime, target)
        except FsError as failure:
            return 0, [Problem("unreadable-target", f"target {target} of {subject}",
                               f"it serves, and cannot be read: {failure}")]
    union: dict[bytes, storage_pb2.ChunkInfo] = {}
    for chunks in replicas.values():
        for identity, info in chunks.items():
            if identity not in union or not union[identity].committed_version:
                union[identity] = info
    problems = replica_problems(chain, replicas)
    problems += placement_problems(space, table, chain_id, union.values())
    return sum(map(len, replicas.values())), problems


async def _list_target(
    client: Client, runtime: Runtime, target_id: int
) -> dict[bytes, storage_pb2.ChunkInfo]:
    found: dict[bytes, storage_pb2.ChunkInfo] = {}
    begin = b""
    while True:
        request = storage_pb2.ListChunksRequest(
            target_id=target_id, begin=begin, limit=CHUNK_PAGE)
        deadline = runtime.clock.now() + client.config.request_timeout_seconds

        async def ask(_: int) -> storage_pb2.ListChunksReply:
            node = client.routing.current().node_of(target_id)
            return await client.connections.storage(node).list_chunks(
                request, timeout=client.config.request_timeout_seconds)  # noqa: B023

        async def newer(seconds: float) -> None:
            await client.manager.follow(wait_ms=int(seconds * 1000))

        reply = await retrying(runtime, deadline, ask, newer)
        found.update((info.chunk_id, info) for info in reply.chunks)
        if not reply.more or not reply.chunks:
            return found
        begin = reply.chunks[-1].chunk_id + b"\0"
