"""Spreads chains over targets so that every node and every pair of nodes shares the load.

Layer: pure. Each target is a member of exactly one chain, and a chain never has two targets on
one node, so a disk carries as many targets as chains pass through it. Chains take the replicas in
rotation: chain number c begins at node c and continues with a step that grows each time round,
so that the chains of one node lean on all others alike when it fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2


def place_chains(
    targets_by_node: Mapping[int, Sequence[int]], replicas: int, *, allow_shared_nodes: bool
) -> list[mgmtd_pb2.Chain]:
    """Groups all targets into chains of `replicas`.

    Args:
        targets_by_node: target ids of each node; every node has the same number of them.
        replicas: targets of a chain.
        allow_shared_nodes: let two targets of a chain share a node when there are too few nodes.

    Returns:
        Chains numbered from 1, all targets SERVING, preferred order set.

    Raises:
        FsError INVALID_ARGUMENT when the targets cannot be grouped so.
    """
    nodes = sorted(targets_by_node)
    counts = {len(targets) for targets in targets_by_node.values()}
    if replicas < 1 or not nodes or counts == {0}:
        raise FsError(Kind.INVALID_ARGUMENT, "there are no targets to make chains of")
    if len(nodes) < replicas and not allow_shared_nodes:
        raise FsError(Kind.INVALID_ARGUMENT, f"{replicas} replicas need {replicas} nodes, there "
                      f"are {len(nodes)}: add nodes, or allow replicas to share one")
    total = sum(len(targets) for targets in targets_by_node.values())
    if len(counts) != 1 or total % replicas:
        raise FsError(Kind.INVALID_ARGUMENT, f"{total} targets on {len(nodes)} nodes do not make "
                      f"whole chains of {replicas}: give every node the same number of targets, "
                      f"and a total that {replicas} divides")
    free = {node: sorted(targets_by_node[node], reverse=True) for node in nodes}
    chains = []
    for number in range(total // replicas):
        members = _members(free, nodes, replicas, number)
        chain = mgmtd_pb2.Chain(
            chain_id=number + 1, version=1, preferred_order=members)
        for target in members:
            chain.targets.add(target_id=target, state=mgmtd_pb2.SERVING)
        chains.append(chain)
    return chains


def _members(
    free: dict[int, list[int]], nodes: list[int], replicas: int, number: int
) -> list[int]:
    """Takes one free target from each of `replicas` nodes, those with most left first."""
    step = 1 + (number // len(nodes)) % max(1, len(nodes) - 1)
    rotation = [nodes[(number + k * step) % len(nodes)] for k in range(len(nodes))]
    rotation += [node for node in nodes if node not in rotation]
    # Taking from the fullest keeps the rest solvable; the rotation decides between equals.
    ranked = sorted(dict.fromkeys(rotation), key=lambda node: -len(free[node]))
    chosen = [node for node in ranked if free[node]][:replicas]
    while len(chosen) < replicas:
        chosen.append(max(nodes, key=lambda node: len(free[node]) - chosen.count(node)))
    chosen.sort(key=rotation.index)
    return [free[node].pop() for node in chosen]
