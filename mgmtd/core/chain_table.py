"""How a chain changes: a pure, total function of its state and of what its targets report.

Layer: pure. `next_chain(chain, reports)` looks at every target's public state and at its local
report (LOCAL_OFFLINE when its node is silent; "sound" is up to date or online, "here" also
doubtful: back after a power loss that may have taken what it had acknowledged):

    public        | local        | other targets                  | becomes
    --------------+--------------+--------------------------------+------------------------------
    SERVING       | sound        |                                | SERVING
    SERVING       | not sound    | another stays SERVING          | OFFLINE
    SERVING       | not sound    | none stays SERVING             | LAST_SERVING (all of them)
    LAST_SERVING  | sound        | none is SERVING                | SERVING
    LAST_SERVING  | doubtful     | none is SERVING, or returns so | SERVING (the first such)
    LAST_SERVING  | here         | one is SERVING again           | as WAITING
    LAST_SERVING  | offline      | none is SERVING                | LAST_SERVING
    LAST_SERVING  | offline      | one is SERVING again           | OFFLINE
    SYNCING       | up to date   | one is SERVING                 | SERVING
    SYNCING       | online       | one is SERVING                 | SYNCING
    SYNCING       | here         | the last SERVING is apart      | WAITING
    SYNCING       | here         | none is SERVING                | WAITING
    WAITING,      | here         | one SERVING, none SYNCING, and | SYNCING (the first such)
                  |              |   the last SERVING is not apart|
      OFFLINE     | here         | otherwise                      | WAITING
    not SERVING   | offline      |                                | OFFLINE

Serving targets that are lost in one step are each LAST_SERVING: no write can have been
acknowledged without every one of them, so any that returns may serve. Doubtful ones may each lack
something else, so only one of them does and the others are brought to what it has.

That one may lack what was acknowledged and not flushed: the chain counts it as a loss.

The order is SERVING, LAST_SERVING, SYNCING, WAITING, OFFLINE, each group keeping its order: a
target that comes back takes its place at the end of those that serve. Any change raises the
version by one. When every target serves, the preferred order is restored.

Two targets are *apart* when their nodes do not reach each other (core/links.py). Of two that serve
side by side one is asked to step down, and then reports to be doubtful: it must have stopped to
answer before the others go on without it. It comes back as soon as it is not apart from the last
serving target; an order that would bring two that are apart side by side is not restored.

Source: the transition rules of 3FS's cluster manager, with the changes that ARCHITECTURE.md names.
"""

from __future__ import annotations

from collections.abc import Mapping

from luciole.errors import FsError, Kind
from luciole.mgmtd.core.links import ALL_REACHED, Links
from luciole.proto import mgmtd_pb2

Public = mgmtd_pb2.PublicState
Local = mgmtd_pb2.LocalState
SERVING, LAST_SERVING = mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING
SYNCING, WAITING, OFFLINE = mgmtd_pb2.SYNCING, mgmtd_pb2.WAITING, mgmtd_pb2.OFFLINE
_ORDER = {SERVING: 0, LAST_SERVING: 1, SYNCING: 2, WAITING: 3, OFFLINE: 4}


def next_chain(
    chain: mgmtd_pb2.Chain, reports: Mapping[int, mgmtd_pb2.LocalState],
    links: Links = ALL_REACHED,
) -> mgmtd_pb2.Chain:
    """The chain after what its targets report.

    Args:
        chain: as it is.
        reports: local state by target id; a missing one counts as LOCAL_OFFLINE. An up-to-date
            report made under another chain version must be given as LOCAL_ONLINE; a doubtful one
            too, but for a LAST_SERVING target as LOCAL_OFFLINE: it must have seen that first.
        links: which targets are apart.

    Returns:
        `chain` itself when nothing changes, otherwise a new one with the next version.
    """
    before = [(target.target_id, target.state) for target in chain.targets]
    local = {target: reports.get(target, mgmtd_pb2.LOCAL_OFFLINE) for target, _ in before}
    after = _join(_serving_step(before, local, links), links)
    ordered = _in_order(after, list(chain.preferred_order), links)
    if ordered == before:
        return chain
    doubtful = any(
        state == SERVING and local[target] == mgmtd_pb2.LOCAL_DOUBTFUL for target, state in after)
    changed = mgmtd_pb2.Chain(
        chain_id=chain.chain_id, version=chain.version + 1,
        preferred_order=chain.preferred_order, losses=chain.losses + doubtful)
    for target_id, state in ordered:
        changed.targets.add(target_id=target_id, state=state)
    return changed


def without_content(chain: mgmtd_pb2.Chain, target_id: int) -> mgmtd_pb2.Chain:
    """The chain when a target has lost all it had: emptied, or a disk in the place of another.

    Raises FsError NOT_SERVING when no other target has what the chain held.
    """
    holds = [target.target_id for target in chain.targets
             if target.state in {SERVING, LAST_SERVING}]
    if holds == [target_id]:
        raise FsError(Kind.NOT_SERVING, f"it is empty or replaced, and the last that served chain "
                      f"{chain.chain_id}: bring back the directory that it had",
                      f"target {target_id}")
    changed = mgmtd_pb2.Chain()
    changed.CopyFrom(chain)
    changed.version += 1
    del changed.targets[:]
    states = [(member.target_id, OFFLINE if member.target_id == target_id else member.state)
              for member in chain.targets]
    for other, state in sorted(states, key=lambda item: _ORDER[item[1]]):
        changed.targets.add(target_id=other, state=state)
    return changed


def _serving_step(
    before: list[tuple[int, Public]], local: Mapping[int, Local], links: Links
) -> list[tuple[int, Public]]:
    """Settles who serves: losses first, then returns."""
    here = {target for target, state in local.items() if state != mgmtd_pb2.LOCAL_OFFLINE}
    sound = {target for target in here if local[target] != mgmtd_pb2.LOCAL_DOUBTFUL}
    keeps = any(state == SERVING and target in sound for target, state in before)
    last = [target for target, state in before if state == LAST_SERVING and target in here]
    returning: list[int] = []
    if not keeps:
        returning = [target for target in last if target in sound] or last[:1]
    serves = keeps or bool(returning)
    after: list[tuple[int, Public]] = []
    for target, state in before:
        if state == SERVING:
            lost = OFFLINE if serves else LAST_SERVING
            after.append((target, SERVING if target in sound else lost))
        elif target in returning:
            after.append((target, SERVING))
        elif state == LAST_SERVING and not serves:
            after.append((target, LAST_SERVING))
        elif target not in here:
            after.append((target, OFFLINE))
        elif state == SYNCING and serves and _reached(after, target, links):
            caught_up = local[target] == mgmtd_pb2.LOCAL_UP_TO_DATE
            after.append((target, SERVING if caught_up else SYNCING))
        else:
            after.append((target, WAITING))
    return after


def _reached(states: list[tuple[int, Public]], target: int, links: Links) -> bool:
    """Whether the last serving target, if there is one, reaches a target behind it."""
    serving = [other for other, state in states if state == SERVING]
    return not serving or not links.apart(serving[-1], target)


def _join(states: list[tuple[int, Public]], links: Links) -> list[tuple[int, Public]]:
    """Lets the first waiting target that can sync do so, if one serves and none syncs."""
    kinds = {state for _, state in states}
    if SERVING not in kinds or SYNCING in kinds:
        return states
    first = next((target for target, state in states
                  if state == WAITING and _reached(states, target, links)), None)
    return [(target, SYNCING if target == first else state) for target, state in states]


def _in_order(
    states: list[tuple[int, Public]], preferred: list[int], links: Links
) -> list[tuple[int, Public]]:
    restores = preferred and links.complete and links.passable(preferred)
    if restores and all(state == SERVING for _, state in states):
        return sorted(states, key=lambda item: preferred.index(item[0]))
    return sorted(states, key=lambda item: _ORDER[item[1]])
