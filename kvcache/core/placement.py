"""Which volumes a block belongs to: rendezvous hashing, done once for 4096 buckets.

Layer: pure. A block's bucket is the CRC32C of its key, begun with its namespace's id, modulo 4096.
For each bucket every volume draws a number from a hash of (bucket, volume), and the order of these
numbers is the bucket's ranking of volumes (rendezvous or highest random weight hashing: Thaler &
Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 6(1), 1998). A volume
of twice the capacity wins twice as many buckets (-capacity / ln(draw), Schindelhauer & Schomaker,
SPAA 2005). A volume that goes takes only its own buckets with it, one that comes takes an equal
part from all others.

Hashing buckets instead of keys makes a lookup one CRC and one list access, and makes the share of
each volume a number that everybody knows exactly: it is the share of a namespace's quota too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from luciole.checksum import crc32c

BUCKETS = 4096
_DRAWS = 1 << 64


class Placement:
    """The ranking of volumes for every bucket.

    Args:
        capacities: bytes of each volume, by node id.
    """

    def __init__(self, capacities: Mapping[int, int]) -> None:
        self.capacities = {node: size for node, size in sorted(capacities.items()) if size > 0}
        nodes = list(self.capacities)
        draws = {node: _draws(node) for node in nodes}
        self._rankings: list[tuple[int, ...]] = [
            tuple(sorted(nodes, key=lambda node: (
                _score(self.capacities[node], draws[node][bucket]), node), reverse=True))
            for bucket in range(BUCKETS)]

    def ranking(self, namespace_id: int, key: bytes) -> tuple[int, ...]:
        """Node ids, the first choice first; empty if there is no volume."""
        return self._rankings[crc32c(key, namespace_id) % BUCKETS]

    def share(self, node: int, replication: int) -> int:
        """Of how many buckets a node holds one of the first `replication` copies."""
        return sum(node in ranking[:replication] for ranking in self._rankings)

    def quota_of(self, node: int, quota: int, replication: int) -> int:
        """A node's part of a namespace's quota, in bytes. All parts make the quota, or a bit less.

        Of the keys that are put, a volume gets the same part but for chance: the share of its
        buckets, give or take the square root of how many keys it holds.
        """
        copies = BUCKETS * max(1, min(replication, len(self.capacities)))
        return quota * self.share(node, replication) // copies


def _draws(node: int) -> list[int]:
    """A number below 2^64 for each bucket."""
    stream = hashlib.shake_128(b"luciole-kv" + node.to_bytes(8, "big")).digest(8 * BUCKETS)
    return [int.from_bytes(stream[at : at + 8], "big") for at in range(0, 8 * BUCKETS, 8)]


def _score(capacity: int, draw: int) -> float:
    return -capacity / math.log((draw + 0.5) / _DRAWS)
