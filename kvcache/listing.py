"""Which blocks there are: looks at the volumes that change nothing in them.

Layer: shell; coroutines that await only their ports (luciole/runtime.py). A volume that does not
answer has no blocks, as everywhere in the KV cache: what is on it cannot be read now.
"""

from __future__ import annotations

from luciole.errors import FsError
from luciole.kvcache.asking import Deadline, Volumes, explain
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.remote import VolumeCalls
from luciole.proto import kvcache_pb2, mgmtd_pb2


async def list_blocks(
    volumes: Volumes, namespace_id: int, prefix: bytes, after: bytes, *, limit: int,
    seconds: float,
) -> tuple[list[kvcache_pb2.KvBlock], bool]:
    """A page of a namespace's blocks, in order of their keys, each once however many copies it has.

    Args:
        volumes: of the cluster.
        namespace_id: whose blocks.
        prefix: of the keys.
        after: keys greater than this.
        limit: how many blocks at most.
        seconds: after which volumes that have not answered are left out.

    Returns the blocks, and whether there are more behind the last of them.
    """
    replies: list[kvcache_pb2.KvListReply] = []

    async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
        replies.append(await calls.list_blocks(prefix, after, limit))

    await volumes.ask_all(namespace_id, Deadline(volumes.runtime, seconds), ask)
    # Behind the end of the shortest page another volume may have blocks that it did not name.
    end = min((reply.blocks[-1].key for reply in replies if reply.more and reply.blocks),
              default=None)
    found = {block.key: block for reply in replies for block in reply.blocks
             if end is None or block.key <= end}
    keys = sorted(found)
    return [found[key] for key in keys[:limit]], end is not None or len(keys) > limit


async def describe(
    volumes: Volumes, record: mgmtd_pb2.KvNamespace, key: bytes, seconds: float
) -> tuple[kvcache_pb2.KvBlock | None, Outcome]:
    """A block's size and time, or why it is not known: MISS, LATE or UNREACHABLE."""
    found: list[kvcache_pb2.KvBlock] = []
    outcomes = [Outcome.MISS]

    async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
        some = [Outcome.LATE]
        try:
            block = await calls.describe(key)
        except FsError as failure:
            explain(some, failure)
            [outcomes[0]] = some
            raise
        outcomes[0] = Outcome.MISS if block is None else Outcome.HIT
        found.extend([block] if block is not None else [])

    await volumes.ask(
        record, [key], [0], Deadline(volumes.runtime, seconds), ask,
        settled=lambda _: bool(found), outcomes=outcomes)
    return (found[0] if found else None), outcomes[0]
