"""Placement: every target once, no two of a chain on one node, heads spread evenly."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.errors import FsError, Kind
from luciole.mgmtd.core.placement import place_chains
from luciole.proto import mgmtd_pb2


def targets_on(nodes: int, each: int) -> dict[int, list[int]]:
    return {node: [node * 100 + number for number in range(each)] for node in range(1, nodes + 1)}


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
@settings(deadline=None, max_examples=300)
def test_every_grouping_that_exists_is_found(nodes: int, each: int, replicas: int) -> None:
    by_node = targets_on(nodes, each)
    if nodes < replicas or nodes * each % replicas:
        with pytest.raises(FsError) as caught:
            place_chains(by_node, replicas, allow_shared_nodes=False)
        assert caught.value.kind == Kind.INVALID_ARGUMENT
        return
    chains = place_chains(by_node, replicas, allow_shared_nodes=False)
    members = [[target.target_id for target in made.targets] for made in chains]
    assert sorted(chain.from_iterable(members)) == sorted(chain.from_iterable(by_node.values()))
    assert [made.chain_id for made in chains] == list(range(1, len(chains) + 1))
    for made, ids in zip(chains, members, strict=True):
        assert len({target // 100 for target in ids}) == replicas == len(ids)
        assert list(made.preferred_order) == ids
        assert made.version == 1
        assert all(target.state == mgmtd_pb2.SERVING for target in made.targets)
    heads = Counter(dict.fromkeys(by_node, 0))
    heads.update(ids[0] // 100 for ids in members)
    assert max(heads.values()) - min(heads.values()) <= 1


def test_a_failed_node_s_load_falls_on_all_others() -> None:
    chains = place_chains(targets_on(5, 8), 2, allow_shared_nodes=False)
    partners = Counter(
        other.target_id // 100 for made in chains
        if any(target.target_id // 100 == 1 for target in made.targets)
        for other in made.targets if other.target_id // 100 != 1)
    assert set(partners) == {2, 3, 4, 5}


def test_too_few_nodes_need_a_word_from_the_operator() -> None:
    with pytest.raises(FsError, match="add nodes"):
        place_chains(targets_on(1, 4), 2, allow_shared_nodes=False)
    chains = place_chains(targets_on(1, 4), 2, allow_shared_nodes=True)
    assert sorted(t.target_id for made in chains for t in made.targets) == [100, 101, 102, 103]


@pytest.mark.parametrize(
    ("by_node", "replicas"),
    [({}, 1), ({1: []}, 1), ({1: [1]}, 0), ({1: [1, 2], 2: [3]}, 1), (targets_on(3, 1), 2)],
    ids=["no nodes", "no targets", "no replicas", "uneven nodes", "left over"],
)
def test_what_cannot_be_grouped_is_refused(by_node: dict[int, list[int]], replicas: int) -> None:
    with pytest.raises(FsError) as caught:
        place_chains(by_node, replicas, allow_shared_nodes=False)
    assert caught.value.kind == Kind.INVALID_ARGUMENT
