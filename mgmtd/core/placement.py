"""Spreads chains over targets so that every node and every pair of nodes shares the load.

Layer: pure. Each target is a member of exactly one chain, and a chain never has two targets on
one node, so a disk carries as many targets as chains pass through it. Chains take the replicas in
rotation: chain number c begins at node c and continues with a step that grows each time round,
so that the chains of one node lean on all others alike when it fails. Heads, which take the
writes, are then shared out so that no node has two more of them than another.
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
    node_of = {target: node for node in nodes for target in targets_by_node[node]}
    groups = [_members(free, nodes, replicas, number) for number in range(total // replicas)]
    _spread_heads(groups, node_of)
    chains = []
    for number, members in enumerate(groups):
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


def _spread_heads(groups: list[list[int]], node_of: Mapping[int, int]) -> None:
    """Reorders chains until the nodes' numbers of heads differ by one at most.

    A chain can hand its head on to any of its nodes; a way of such steps from a node to
    one with two heads fewer evens them out. Where each node has the same number of targets
    there is such a way as long as there are such nodes (Hall's theorem).
    """
    nodes = sorted(set(node_of.values()))
    while True:
        count = dict.fromkeys(nodes, 0)
        for group in groups:
            count[node_of[group[0]]] += 1
        ways = (
            _way(groups, node_of, node, {n for n in nodes if count[n] <= count[node] - 2})
            for node in nodes)
        way = next((way for way in ways if way), None)
        if way is None:
            return
        for group, target in way:
            group.remove(target)
            group.insert(0, target)


def _way(
    groups: list[list[int]], node_of: Mapping[int, int], begin: int, ends: set[int]
) -> list[tuple[list[int], int]]:
    """The shortest sequence of (chain, its new head) that moves one head to one of `ends`."""
    ways: dict[int, list[tuple[list[int], int]]] = {begin: []}
    pending = [begin]
    while pending:
        node = pending.pop(0)
        if node in ends:
            return ways[node]
        for group in groups:
            if node_of[group[0]] == node:
                for target in group[1:]:
                    if node_of[target] not in ways:
                        ways[node_of[target]] = [*ways[node], (group, target)]
                        pending.append(node_of[target])
    return []
