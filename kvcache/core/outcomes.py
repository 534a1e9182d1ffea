"""What became of one block of a call, for applications.

Layer: pure.
"""

from __future__ import annotations

import enum

from luciole.proto import kvcache_pb2


class Outcome(enum.Enum):
    """The result for one key. What is not `ok` is to be computed anew; none is an error."""

    HIT = "read"
    STORED = "stored"
    PRESENT = "was there already"
    MISS = "is not there"
    DAMAGED = "did not have its checksum"
    WRONG_SIZE = "has another size than its buffer"
    LATE = "did not come before the deadline"
    UNREACHABLE = "its node does not answer"
    REFUSED = "there is no room: what could go is leased, or the disk is full"

    @property
    def ok(self) -> bool:
        """Whether the block is where it was to be."""
        return self in _OK


_OK = frozenset({Outcome.HIT, Outcome.STORED, Outcome.PRESENT})
_GET: dict[int, Outcome] = {
    kvcache_pb2.PRESENT: Outcome.HIT, kvcache_pb2.DAMAGED: Outcome.DAMAGED,
    kvcache_pb2.OTHER_SIZE: Outcome.WRONG_SIZE}
_PUT: dict[int, Outcome] = {
    kvcache_pb2.STORED: Outcome.STORED, kvcache_pb2.PRESENT: Outcome.PRESENT,
    kvcache_pb2.DAMAGED: Outcome.DAMAGED}


def of_get(status: int) -> Outcome:
    """What a status of a get says."""
    return _GET.get(status, Outcome.MISS)


def of_put(status: int) -> Outcome:
    """What a status of a put says."""
    return _PUT.get(status, Outcome.REFUSED)
