"""Who is the primary manager: the rules of the lease, without any clock but each manager's own.

Layer: pure. The lease is one record of the key-value store. Its holder renews it by raising a
counter in it; the others watch. Seconds are never compared across machines:

- The holder acts as the primary until `held_until`, counted from *before* it sent the renewal
  that succeeded last.
- Another may take the lease once it has itself seen the record unchanged for the whole lease
  time, counted from *after* the read that showed it first.

The last renewal was sent before it could be seen, so the holder stops before another begins as
long as the rates of two clocks differ by less than 1 to 1/HELD_PART. Safety of what is stored
does not rest on this: every transaction of a primary also checks that the record names it
(mgmtd/primary.py). The time keeps the answers to heartbeats honest, with which nodes may serve.

Source: Gray and Cheriton, "Leases", SOSP 1989; the observer's rule as in Kubernetes' election.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from luciole.proto import mgmtd_pb2

HELD_PART = 0.75  # of the lease time


class Step(enum.Enum):
    """What a manager does about the lease now."""

    WAIT = "wait"  # another may hold it
    RENEW = "renew"  # it is ours
    CLAIM = "claim"  # nobody holds it, and nobody was watched to lose it
    TAKE_OVER = "take over"  # the holder was silent for the whole lease time


@dataclass(frozen=True)
class Watch:
    """The record as it was read last, and since when it looks like this (own seconds)."""

    record: mgmtd_pb2.PrimaryLease | None = None
    since: float = math.inf


def observe(watch: Watch, record: mgmtd_pb2.PrimaryLease | None, now: float) -> Watch:
    """What is known after a read that ended at `now`."""
    if record is not None and record == watch.record:
        return watch
    return Watch(record, now)


def decide(
    me: mgmtd_pb2.PrimaryLease,
    record: mgmtd_pb2.PrimaryLease | None,
    watch: Watch,
    now: float,
    lease_seconds: float,
) -> Step:
    """What to do about `record`, as it was just read.

    Args:
        me: node id, generation and address of this process, which listens at the address.
        record: the lease in the store.
        watch: what earlier reads have shown.
        now: own seconds before the read began.
        lease_seconds: time for which an unchanged record protects its holder.
    """
    if record is None or record.released:
        return Step.CLAIM
    if record.generation == me.generation:
        return Step.RENEW
    if (record.node_id, record.address) == (me.node_id, me.address):
        # We listen where the holder did: that process of ours has ended.
        return Step.CLAIM
    if record == watch.record and now >= watch.since + lease_seconds:
        return Step.TAKE_OVER
    return Step.WAIT


def after_step(
    me: mgmtd_pb2.PrimaryLease, record: mgmtd_pb2.PrimaryLease | None, step: Step
) -> mgmtd_pb2.PrimaryLease:
    """The record to store for any step but WAIT."""
    assert step is not Step.WAIT
    known = record or mgmtd_pb2.PrimaryLease()
    renewed = step is Step.RENEW
    return mgmtd_pb2.PrimaryLease(
        node_id=me.node_id, generation=me.generation, address=me.address,
        epoch=known.epoch if renewed else known.epoch + 1,
        renewals=known.renewals + 1 if renewed else 0)


def held_until(sent_at: float, lease_seconds: float) -> float:
    """Until when the holder may act that sent its renewal at `sent_at` (own seconds)."""
    return sent_at + HELD_PART * lease_seconds
