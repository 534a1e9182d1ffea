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

A syncing replica may hold anything from before this chain version, so there the predecessor is
always right. That needs messages in order, and a connection that broke may still hold one back:
every message carries its sender's *link*, which grows whenever the sender gives a call up, and
the receiver refuses what comes from an older link than it has seen (`Links`).

Source: van Renesse and Schneider, "Chain Replication", OSDI 2004; Terrace and Freedman, "Object
Storage on CRAQ", USENIX ATC 2009.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from luciole.proto import storage_pb2
from luciole.storage.engine.interface import ChunkState, Tag

EPOCH_SHIFT = 32


@dataclass(frozen=True)
class Links:
    """The newest link that a successor has seen of its predecessor under one chain version.

    Messages of older chain versions are refused anyway. In memory only: messages to a process
    die with it, since a connection does.
    """

    chain_version: int = 0
    newest: int = 0

    def seen(self, chain_version: int, link: int) -> Links:
        """What is known when a message has arrived."""
        if chain_version > self.chain_version:
            return Links(chain_version, link)
        if chain_version < self.chain_version or link <= self.newest:
            return self
        return Links(chain_version, link)

    def overtaken(self, chain_version: int, link: int) -> bool:
        """Whether a message is from before its sender gave a call up."""
        return (chain_version, link) < (self.chain_version, self.newest)


class Judgement(enum.Enum):
    """What to do with a forwarded update."""

    APPLY = "apply"
    DONE = "done"
    DISAGREE = "disagree"


def judge(
    state: ChunkState | None, request: storage_pb2.ForwardRequest, tag: Tag | None
) -> Judgement:
    """Judges a forwarded update against what the replica has."""
    committed = state.committed if state else None
    number = committed.number if committed else 0
    kind = request.io.kind
    if committed and number == request.version and tag is not None and committed.tag == tag:
        return Judgement.DONE
    if state is None and kind == storage_pb2.REMOVE:
        return Judgement.DONE
    if carries_all(kind) and number < request.version:
        return Judgement.APPLY
    if request.syncing and carries_all(kind):
        return Judgement.APPLY
    if number == request.base_version and number < request.version:
        return Judgement.APPLY
    return Judgement.DISAGREE


class Fate(enum.Enum):
    """What became of an update that a replica holds pending and did not see committed."""

    OPEN = "the head has it pending, and will settle it"
    DONE = "it is committed: the head has it"
    VOID = "it never reached the head of now, so nobody acknowledged it"


def fate_of(
    number: int, head: ChunkState | None, chain_version: int, *, removal: bool = False
) -> Fate:
    """Judges a pending version by what the head of now has of the chunk.

    Members may change places when the preferred order is restored: a former head can hold an update
    that it could not pass on, or whose answer it missed. No tail can have committed what the head
    lacks: it went through every member of its time, and later ones were brought up to date. What
    came under the chain version of now may be on its way still.

    Args:
        number: of the pending version.
        head: what the head has; None: no such chunk.
        removal: whether the pending version is one: when done, it has left nothing at the head.
    """
    committed = head.committed.number if head and head.committed else 0
    if committed == number:
        return Fate.DONE
    pending = head is not None and head.pending is not None and head.pending.number == number
    if pending or committed > number or number >> EPOCH_SHIFT >= chain_version:
        return Fate.OPEN
    return Fate.DONE if removal and head is None else Fate.VOID


def holds_version(state: ChunkState, number: int) -> bool:
    """Whether a replica has a version, or one that came after it."""
    committed = state.committed.number if state.committed else 0
    pending = state.pending.number if state.pending else 0
    return max(committed, pending) >= number


def carries_all(kind: int) -> bool:
    """Whether an update of this kind needs nothing that was there before."""
    return kind in {storage_pb2.REPLACE, storage_pb2.REMOVE}


def next_version(committed: int, removed_up_to: int, chain_version: int) -> int:
    """The number that the head gives the next update of a chunk.

    Args:
        committed: the chunk's version; 0: there is no such chunk.
        removed_up_to: the highest version that a removal had here. A chunk that is made again
            must not get the number of one that was removed.
    """
    return max(committed + 1 if committed else removed_up_to + 1, chain_version << EPOCH_SHIFT)


def needs_tail(state: ChunkState, is_tail: bool) -> bool:
    """Whether a reader must first ask the tail which version is committed (CRAQ's dirty read)."""
    return state.pending is not None and not is_tail


def reads_pending(state: ChunkState, tail_version: int) -> bool:
    """Whether the pending version is the one that the tail has committed."""
    return state.pending is not None and state.pending.number == tail_version
