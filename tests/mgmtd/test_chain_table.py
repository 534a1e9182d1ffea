"""Chain transitions: the table of the module, row by row, and every state that can be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.mgmtd.core.chain_table import next_chain
from luciole.mgmtd.core.links import Links, cut_links, who_steps_down
from luciole.proto import mgmtd_pb2

SERVING, LAST, SYNCING = mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING, mgmtd_pb2.SYNCING
WAITING, OFFLINE = mgmtd_pb2.WAITING, mgmtd_pb2.OFFLINE
UP, ON, OFF = mgmtd_pb2.LOCAL_UP_TO_DATE, mgmtd_pb2.LOCAL_ONLINE, mgmtd_pb2.LOCAL_OFFLINE
DOUBT = mgmtd_pb2.LOCAL_DOUBTFUL
ASIDE = mgmtd_pb2.LOCAL_ASIDE
PUBLIC = (SERVING, LAST, SYNCING, WAITING, OFFLINE)
LOCAL = (UP, ON, OFF)
RANK = {state: rank for rank, state in enumerate(PUBLIC)}
States = tuple[tuple[int, mgmtd_pb2.PublicState], ...]


def chain_of(states: States, preferred: tuple[int, ...] = ()) -> mgmtd_pb2.Chain:
    chain = mgmtd_pb2.Chain(chain_id=4, version=10, preferred_order=preferred)
    for target, state in states:
        chain.targets.add(target_id=target, state=state)
    return chain


def states_of(chain: mgmtd_pb2.Chain) -> States:
    return tuple((target.target_id, target.state) for target in chain.targets)


def step(states: States, local: Mapping[int, mgmtd_pb2.LocalState]) -> States:
    return states_of(next_chain(chain_of(states), local))


# Each row: (public, local) of targets 1, 2, 3 before; targets and states after, in order.
ROWS = [
    ("serving stays", [(SERVING, ON), (SERVING, UP)], [(1, SERVING), (2, SERVING)]),
    ("lost, another serves", [(SERVING, OFF), (SERVING, UP)], [(2, SERVING), (1, OFFLINE)]),
    ("all lost at once", [(SERVING, OFF), (SERVING, OFF)], [(1, LAST), (2, LAST)]),
    ("the last one lost", [(SERVING, OFF), (OFFLINE, OFF)], [(1, LAST), (2, OFFLINE)]),
    ("last returns", [(LAST, ON), (OFFLINE, OFF)], [(1, SERVING), (2, OFFLINE)]),
    ("one last returns", [(LAST, OFF), (LAST, UP)], [(2, SERVING), (1, OFFLINE)]),
    ("both last return", [(LAST, ON), (LAST, UP)], [(1, SERVING), (2, SERVING)]),
    ("last behind one serving", [(SERVING, UP), (LAST, ON)], [(1, SERVING), (2, SYNCING)]),
    ("last still away", [(LAST, OFF), (OFFLINE, ON)], [(1, LAST), (2, WAITING)]),
    ("last away, one serves", [(SERVING, UP), (LAST, OFF)], [(1, SERVING), (2, OFFLINE)]),
    ("synced", [(SERVING, UP), (SYNCING, UP)], [(1, SERVING), (2, SERVING)]),
    ("still syncing", [(SERVING, UP), (SYNCING, ON)], [(1, SERVING), (2, SYNCING)]),
    ("source of sync lost", [(SERVING, OFF), (SYNCING, UP)], [(1, LAST), (2, WAITING)]),
    ("syncing lost", [(SERVING, UP), (SYNCING, OFF)], [(1, SERVING), (2, OFFLINE)]),
    ("waiting begins to sync", [(SERVING, UP), (WAITING, ON)], [(1, SERVING), (2, SYNCING)]),
    ("returns, begins to sync", [(SERVING, UP), (OFFLINE, ON)], [(1, SERVING), (2, SYNCING)]),
    ("waits its turn", [(SERVING, UP), (SYNCING, ON), (OFFLINE, ON)],
     [(1, SERVING), (2, SYNCING), (3, WAITING)]),
    ("the first waits no more", [(SERVING, UP), (WAITING, ON), (WAITING, ON)],
     [(1, SERVING), (2, SYNCING), (3, WAITING)]),
    ("next after sync", [(SERVING, UP), (SYNCING, UP), (WAITING, ON)],
     [(1, SERVING), (2, SERVING), (3, SYNCING)]),
    ("waiting lost", [(SERVING, UP), (WAITING, OFF)], [(1, SERVING), (2, OFFLINE)]),
    ("waiting, none serves", [(LAST, OFF), (WAITING, ON)], [(1, LAST), (2, WAITING)]),
    ("steps aside", [(SERVING, UP), (SERVING, ASIDE)], [(1, SERVING), (2, OFFLINE)]),
    ("aside, the other lost", [(SERVING, OFF), (SERVING, ASIDE)], [(1, LAST), (2, LAST)]),
    ("last was aside", [(LAST, OFF), (LAST, ASIDE)], [(2, SERVING), (1, OFFLINE)]),
    ("offline stays", [(SERVING, UP), (OFFLINE, OFF)], [(1, SERVING), (2, OFFLINE)]),
]


@pytest.mark.parametrize(("before", "after"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_row(
    before: list[tuple[mgmtd_pb2.PublicState, mgmtd_pb2.LocalState]],
    after: list[tuple[int, mgmtd_pb2.PublicState]],
) -> None:
    states = tuple((target, public) for target, (public, _) in enumerate(before, 1))
    local = {target: report for target, (_, report) in enumerate(before, 1)}
    assert step(states, local) == tuple(after)


def links_cut(*pairs: tuple[int, int], complete: bool = True) -> Links:
    """Each target on the node of the same number."""
    return Links(
        frozenset(frozenset(pair) for pair in pairs), {n: n for n in range(1, 7)}, complete)


# As ROWS, with the pairs that are apart.
ROWS_APART = [
    ("serving side by side stay until one steps down", [(1, 2)],
     [(SERVING, UP), (SERVING, UP)], [(1, SERVING), (2, SERVING)]),
    ("one that stepped down is lost", [(1, 2)],
     [(SERVING, UP), (SERVING, DOUBT)], [(1, SERVING), (2, OFFLINE)]),
    ("it waits while apart", [(1, 2)], [(SERVING, UP), (OFFLINE, ON)],
     [(1, SERVING), (2, WAITING)]),
    ("it syncs behind another", [(1, 2)], [(SERVING, UP), (OFFLINE, ON), (SERVING, UP)],
     [(1, SERVING), (3, SERVING), (2, SYNCING)]),
    ("one behind it syncs first", [(1, 2)], [(SERVING, UP), (WAITING, ON), (WAITING, ON)],
     [(1, SERVING), (3, SYNCING), (2, WAITING)]),
    ("cut while it syncs", [(1, 2)], [(SERVING, UP), (SYNCING, ON)], [(1, SERVING), (2, WAITING)]),
    ("cut when it has synced", [(1, 2)], [(SERVING, UP), (SYNCING, UP)],
     [(1, SERVING), (2, WAITING)]),
    ("a distant cut changes nothing", [(1, 3)], [(SERVING, UP), (SERVING, UP), (SYNCING, UP)],
     [(1, SERVING), (2, SERVING), (3, SERVING)]),
]


@pytest.mark.parametrize(
    ("pairs", "before", "after"), [row[1:] for row in ROWS_APART], ids=[r[0] for r in ROWS_APART])
def test_row_apart(
    pairs: list[tuple[int, int]],
    before: list[tuple[mgmtd_pb2.PublicState, mgmtd_pb2.LocalState]],
    after: list[tuple[int, mgmtd_pb2.PublicState]],
) -> None:
    # A target that steps down changes its place first: the order that rows give is the new one.
    states = tuple((target, public) for target, (public, _) in enumerate(before, 1))
    local = {target: report for target, (_, report) in enumerate(before, 1)}
    found = next_chain(chain_of(states), local, links_cut(*pairs))
    assert states_of(found) == tuple(after)
    assert states_of(next_chain(found, local | {2: ON}, links_cut(*pairs)))[0] == (1, SERVING)


def test_the_preferred_order_waits_until_neighbours_reach_each_other() -> None:
    chain = chain_of(((1, SERVING), (3, SERVING), (2, SERVING)), (1, 2, 3))
    local = {1: UP, 2: UP, 3: UP}
    assert next_chain(chain, local, links_cut((1, 2))) is chain
    assert next_chain(chain, local, links_cut(complete=False)) is chain
    after = next_chain(chain, local, links_cut())
    assert [target for target, _ in states_of(after)] == [1, 2, 3]


def test_who_steps_down() -> None:
    chain = chain_of(((1, SERVING), (2, SERVING), (3, SERVING)))
    assert who_steps_down(chain, links_cut()) is None
    assert who_steps_down(chain, links_cut((1, 3))) is None
    assert who_steps_down(chain, links_cut((1, 2))) == 2
    assert who_steps_down(chain, links_cut((2, 3))) == 3
    # The one that more have lost, wherever it stands.
    assert who_steps_down(chain, links_cut((1, 2), (1, 4))) == 1
    assert who_steps_down(chain, links_cut((2, 3), (2, 5))) == 2
    # Never one alone.
    assert who_steps_down(chain_of(((1, SERVING), (2, SYNCING))), links_cut((1, 2))) is None


def test_a_link_is_cut_by_the_word_of_either_end_if_both_live() -> None:
    assert cut_links({1: {2: 1500}, 2: {}}, 1500) == {frozenset({1, 2})}
    assert cut_links({1: {2: 1499}, 2: {1: 10}}, 1500) == frozenset()
    assert cut_links({1: {2: 9000}}, 1500) == frozenset()


def test_a_target_without_report_is_offline() -> None:
    assert step(((1, SERVING), (2, SERVING)), {1: ON}) == ((1, SERVING), (2, OFFLINE))


def test_the_preferred_order_comes_back_when_all_serve() -> None:
    chain = chain_of(((2, SERVING), (3, SERVING), (1, SYNCING)), (1, 2, 3))
    after = next_chain(chain, {1: UP, 2: UP, 3: UP})
    assert states_of(after) == ((1, SERVING), (2, SERVING), (3, SERVING))
    assert list(after.preferred_order) == [1, 2, 3]
    assert after.chain_id == 4


def all_cases() -> Iterator[tuple[States, dict[int, mgmtd_pb2.LocalState]]]:
    for count in (1, 2, 3):
        for publics in product(PUBLIC, repeat=count):
            for locals_ in product(LOCAL, repeat=count):
                yield tuple(enumerate(publics, 1)), dict(enumerate(locals_, 1))


def test_all_combinations_of_up_to_three_targets() -> None:
    """Total, versioned, ordered, one syncing at most, nobody serves who is not here."""
    for (states, local), links in product(all_cases(), (links_cut(), links_cut((1, 2)))):
        chain = chain_of(states)
        after = next_chain(chain, local, links)
        found = states_of(after)
        about = (states, local, found)
        assert sorted(target for target, _ in found) == [target for target, _ in states], about
        assert (after is chain) == (found == states), about
        assert after.version == chain.version + (after is not chain), about
        assert chain == chain_of(states), about
        ranks = [RANK[state] for _, state in found]
        assert ranks == sorted(ranks), about
        before_syncing = sum(state == SYNCING for _, state in states)
        syncing = sum(state == SYNCING for _, state in found)
        assert syncing <= max(1, before_syncing), about
        for target, state in found:
            assert local[target] != OFF or state in {LAST, OFFLINE}, about
        if any(state in {SERVING, LAST} for _, state in states):
            assert any(state in {SERVING, LAST} for _, state in found), about


def test_what_can_be_reached_settles_and_loses_nothing() -> None:
    """Explores every chain of three targets together with who holds all acknowledged writes.

    Between two steps of the manager a write is acknowledged by the serving targets (a syncing one
    that has caught up gets it too), and a syncing target may catch up. A target that says that it
    is up to date must be one that is.
    """
    start: tuple[States, frozenset[int]] = (
        ((1, SERVING), (2, SERVING), (3, SERVING)), frozenset({1, 2, 3}))
    seen = {start}
    pending = [start]
    while pending:
        states, holders = pending.pop()
        serving = {target for target, state in states if state == SERVING}
        syncing = {target for target, state in states if state == SYNCING}
        lasting = {target for target, state in states if state == LAST}
        assert serving <= holders
        assert lasting <= holders
        assert serving or lasting
        assert not (serving and lasting)
        assert len(syncing) <= 1
        worlds = {holders}
        if serving:
            worlds |= {holders | syncing, frozenset(serving | (holders & syncing)),
                       frozenset(serving | syncing)}
        for held in worlds:
            for reports in product(LOCAL, repeat=3):
                local = dict(enumerate(reports, 1))
                if any(local[target] == UP and target not in held for target in syncing):
                    continue  # only a complete target says so
                after = step(states, local)
                quiet = {t: ON if r == UP and dict(after)[t] == SYNCING else r
                         for t, r in local.items()}
                assert step(after, quiet) == after
                found = (after, held)
                if found not in seen:
                    seen.add(found)
                    pending.append(found)
    assert len(seen) > 50


@given(
    st.lists(st.sampled_from(PUBLIC), min_size=4, max_size=6),
    st.lists(st.lists(st.sampled_from(LOCAL), min_size=6, max_size=6), max_size=6),
)
@settings(deadline=None, max_examples=100)
def test_longer_chains_keep_their_targets_and_order(
    publics: list[mgmtd_pb2.PublicState], rounds: list[list[mgmtd_pb2.LocalState]]
) -> None:
    chain = chain_of(tuple(enumerate(publics, 1)), tuple(range(1, len(publics) + 1)))
    for reports in rounds:
        after = next_chain(chain, dict(enumerate(reports, 1)))
        ranks = [RANK[target.state] for target in after.targets]
        assert ranks == sorted(ranks)
        assert {t.target_id for t in after.targets} == {t.target_id for t in chain.targets}
        assert (after == chain) == (after.version == chain.version)
        chain = after


def test_only_a_power_loss_counts_as_a_loss() -> None:
    before = chain_of(((1, LAST), (2, OFFLINE)))
    assert next_chain(before, {1: DOUBT}).losses == before.losses + 1
    assert next_chain(before, {1: ASIDE}).losses == before.losses
    assert next_chain(before, {1: UP}).losses == before.losses
