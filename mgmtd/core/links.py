"""Which storage nodes do not reach each other, and which of two neighbours steps down for it.

Layer: pure. Two nodes may both reach the manager and not each other. In a chain they must not be
neighbours then: what the first passes on would never arrive. One of them leaves its place while
others serve, and comes back behind a target that reaches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from luciole.proto import mgmtd_pb2


@dataclass(frozen=True)
class Links:
    """What is known of the ways between nodes."""

    cut: frozenset[frozenset[int]] = frozenset()  # pairs of nodes that do not reach each other
    node_of: Mapping[int, int] = field(default_factory=dict)  # target id -> node id
    # Whether every living node was heard; only then no news is good news.
    complete: bool = True

    def apart(self, first: int, second: int) -> bool:
        """Whether two targets lie on nodes that do not reach each other."""
        return bool(self.cut) and frozenset(
            (self.node_of.get(first, 0), self.node_of.get(second, 0))) in self.cut

    def passable(self, targets: Iterable[int]) -> bool:
        """Whether updates can be passed on along targets in this order."""
        return not any(self.apart(first, second) for first, second in pairwise(targets))

    def losses(self, target_id: int) -> int:
        """How many nodes do not reach the node of a target."""
        node_id = self.node_of.get(target_id, 0)
        return sum(node_id in pair for pair in self.cut)


ALL_REACHED = Links()


def cut_links(
    unreachable: Mapping[int, Mapping[int, int]], patience_ms: int
) -> frozenset[frozenset[int]]:
    """Pairs of nodes of which one has not reached the other for `patience_ms`.

    Args:
        unreachable: by node, which other nodes do not answer it and for how many milliseconds.
            Only nodes that live, and have lived for a while, may stand here: who is dead reaches
            nobody, and is judged by its silence.
    """
    return frozenset(
        frozenset((node_id, other)) for node_id, others in unreachable.items()
        for other, for_ms in others.items() if for_ms >= patience_ms and other in unreachable)


def who_steps_down(chain: mgmtd_pb2.Chain, links: Links) -> int | None:
    """The target that must leave its place, of the first two neighbours that are apart; or None.

    It is the one that more nodes have lost, and the second of two alike. Another target serves
    then by definition: its neighbour.
    """
    serving = [member.target_id for member in chain.targets
               if member.state == mgmtd_pb2.SERVING]
    for first, second in pairwise(serving):
        if links.apart(first, second):
            return first if links.losses(first) > links.losses(second) else second
    return None
