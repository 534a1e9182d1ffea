"""What a replica does with an update from its predecessor.

Layer: pure. Versions of a chunk increase. The head numbers an update one above the chunk's
committed version, but never below `chain version << 32`: whatever was written under a newer chain
version is newer than all that a replica outside the chain can still hold, even if the chunk was
removed and made again meanwhile. An update names the version that it builds on (its base).

    the replica has                                     | judgement
    ----------------------------------------------------+---------------------------------------
    committed = version, made by the same update        | DONE: a resent message
    nothing, and the update is a removal                | DONE: removed before
    less than version, and the update carries all bytes | APPLY; a pending version is replaced
    committed = base                                    | APPLY; a pending version is replaced
    any other, and it is syncing                        | APPLY: what the predecessor has is right
    any other                                           | DISAGREE: the predecessor sends all bytes

A syncing replica may hold anything from before this chain version. What it received under it came
from this predecessor in order: over that, an older update is a message that was delayed, and the
last but one row does not hold.

Source: van Renesse and Schneider, "Chain Replication", OSDI 2004; Terrace and Freedman, "Object
Storage on CRAQ", USENIX ATC 2009.
"""

from __future__ import annotations

import enum

from luciole.proto import storage_pb2
from luciole.storage.engine.interface import ChunkState, Tag

EPOCH_SHIFT = 32


class Judgement(enum.Enum):
    """What to do with a forwarded update."""

    APPLY = "apply"
    DONE = "done"
    DISAGREE = "disagree"


def judge(
    state: ChunkState | None, request: storage_pb2.ForwardRequest, tag: Tag | None,
    *, received: bool,
) -> Judgement:
    """Judges a forwarded update against what the replica has.

    `received`: the committed version came from the predecessor under this chain version.
    """
    committed = state.committed if state else None
    number = committed.number if committed else 0
    kind = request.io.kind
    if committed and number == request.version and tag is not None and committed.tag == tag:
        return Judgement.DONE
    if state is None and kind == storage_pb2.REMOVE:
        return Judgement.DONE
    if carries_all(kind) and number < request.version:
        return Judgement.APPLY
    if request.syncing and carries_all(kind) and not received:
        return Judgement.APPLY
    if number == request.base_version and number < request.version:
        return Judgement.APPLY
    return Judgement.DISAGREE


def carries_all(kind: int) -> bool:
    """Whether an update of this kind needs nothing that was there before."""
    return kind in {storage_pb2.REPLACE, storage_pb2.REMOVE}


def next_version(committed: int, chain_version: int) -> int:
    """The number that the head gives the next update of a chunk."""
    return max(committed + 1, chain_version << EPOCH_SHIFT)


def needs_tail(state: ChunkState, is_tail: bool) -> bool:
    """Whether a reader must first ask the tail which version is committed (CRAQ's dirty read)."""
    return state.pending is not None and not is_tail


def reads_pending(state: ChunkState, tail_version: int) -> bool:
    """Whether the pending version is the one that the tail has committed."""
    return state.pending is not None and state.pending.number == tail_version
