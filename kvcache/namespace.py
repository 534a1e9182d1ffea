"""One namespace as a client sees it: prefixes, blocks, leases.

Layer: shell; coroutines that await only their ports (luciole/runtime.py), so the same code serves
threads and trio. No method raises for a volume that fails or is late: each key has a result that
says what became of it. FsError is for arguments that cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luciole.errors import FsError, Kind, require
from luciole.kvcache.asking import Deadline, Volumes, explain
from luciole.kvcache.buffers import BlockBuffer, size_of, views_of
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.core.packing import KEY_BYTES_MAX, KEY_BYTES_MIN, KEYS_MAX
from luciole.kvcache.memory import MemoryTier
from luciole.kvcache.remote import VolumeCalls
from luciole.kvcache.statistics import Statistics
from luciole.proto import mgmtd_pb2

DEADLINE_S = 10.0  # of calls that name none
FIRST_GUESS_BYTES_S = 1e9
CALL_GUESS_S = 0.0005
LEARNING = 0.2  # weight of the newest measurement


@dataclass(frozen=True)
class Lease:
    """A promise that the blocks of a match stay."""

    lease_id: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """What `match_prefix` found.

    `count` blocks from the first on are there, of `size` bytes together (estimated where the run
    ended on several volumes); reading them takes about `estimate_seconds`. Without `lease` any of
    them may go at any time.
    """

    count: int
    lease: Lease | None
    estimate_seconds: float
    size: int


class Blocks:
    """The blocks of one namespace.

    Args:
        record: of the namespace.
        volumes: of the cluster.
        tier: memory of this process.
        statistics: of the store.
    """

    def __init__(
        self, record: mgmtd_pb2.KvNamespace, volumes: Volumes, tier: MemoryTier,
        statistics: Statistics,
    ) -> None:
        self.record = record
        self._volumes = volumes
        self._tier = tier
        self._statistics = statistics
        self._bytes_s = FIRST_GUESS_BYTES_S

    async def match_prefix(
        self, keys: Sequence[bytes], lease: float = 0.0, deadline: float = DEADLINE_S
    ) -> Match:
        """How many blocks are there, from the first key to the first gap.

        Args:
            keys: of the blocks of a prompt, in order.
            lease: seconds for which they shall stay; 0: no promise.
            deadline: seconds after which volumes that have not answered count as gaps.
        """
        limit = self._begin(keys, deadline)
        lease_id = int.from_bytes(self._volumes.runtime.entropy.token(8), "little")
        sizes = self._tier.pin(
            self.record.namespace_id, keys, lease_id, lease, self.record.ttl_seconds)
        granted: set[int] = set()

        async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
            count, size = await calls.match(_some(keys, indices), lease_id, lease)
            if count:
                granted.add(node_id)
                each = max(1, size // count)
                for index in indices[:count]:
                    sizes[index] = each

        await self._volumes.ask(
            self.record, keys, range(len(keys)), limit, ask, settled=lambda i: sizes[i] > 0)
        count = sizes.index(0) if 0 in sizes else len(keys)
        total = sum(sizes[:count])
        self._statistics.note("match", limit.elapsed(), {
            Outcome.HIT: count, Outcome.MISS: len(keys) - count})
        held = Lease(lease_id, tuple(sorted(granted))) if lease > 0 else None
        if held is not None and count == 0:
            # Volumes know of their own keys alone, and may have leased blocks behind the gap.
            await self._lease(held, 0, max(limit.remaining(), 0.0))
            held = None
        return Match(count, held, CALL_GUESS_S + total / self._bytes_s if count else 0.0, total)

    async def extend(self, lease: Lease, seconds: float, deadline: float = DEADLINE_S) -> bool:
        """Lets a lease last until `seconds` from now. False: some of its blocks may have gone."""
        require(seconds > 0, Kind.INVALID_ARGUMENT, "a lease lasts for some time: release it")
        self._tier.lease(lease.lease_id, seconds)
        return await self._lease(lease, seconds, deadline)

    async def release(self, lease: Lease, deadline: float = DEADLINE_S) -> None:
        """Ends a lease. On a volume that cannot be told it ends by itself."""
        self._tier.lease(lease.lease_id, 0)
        await self._lease(lease, 0, deadline)

    async def _lease(self, lease: Lease, seconds: float, deadline: float) -> bool:
        limit = Deadline(self._volumes.runtime, deadline)
        found = True
        for node_id in lease.nodes:
            calls = self._volumes.calls(node_id, self.record.namespace_id, limit)
            try:
                if calls is None or not await calls.lease(lease.lease_id, seconds):
                    found = False
            except FsError:
                found = False
        return found

    async def get(
        self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer], offset: int | None = None,
        deadline: float = DEADLINE_S,
    ) -> list[Outcome]:
        """Reads blocks into the caller's memory.

        Args:
            keys: of the blocks.
            buffers: one for each, or a sequence of them (buffers.py), exactly as long as the block.
            offset: if given, of each block only so many bytes from there are read as its buffer
                has (some layers of it); all buffers then have one length.
            deadline: seconds after which what has not arrived is LATE.

        Returns a result for each key; a buffer whose result is not `ok` holds anything. Raises
        FsError INVALID_ARGUMENT for keys and buffers that do not fit together.
        """
        limit = self._begin(keys, deadline, buffers)
        views = [views_of(buffer, writable=True) for buffer in buffers]
        require(offset is None or len({size_of(each) for each in views}) <= 1,
                Kind.INVALID_ARGUMENT, "buffers for parts of blocks differ in length")
        namespace_id = self.record.namespace_id
        outcomes = [Outcome.MISS] * len(keys)
        if self._tier.capacity:
            for index, key in enumerate(keys):
                if self._tier.read(
                        namespace_id, key, views[index], offset, self.record.ttl_seconds):
                    outcomes[index] = Outcome.HIT
        missing = [i for i, outcome in enumerate(outcomes) if not outcome.ok]

        async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
            some = [Outcome.LATE] * len(indices)
            try:
                await calls.get(
                    _some(keys, indices), [views[i] for i in indices], offset, some)
            except FsError as failure:
                explain(some, failure)
                raise
            finally:
                for index, outcome in zip(indices, some, strict=True):
                    outcomes[index] = outcome

        asked = limit.elapsed()
        await self._volumes.ask(
            self.record, keys, missing, limit, ask, settled=lambda i: outcomes[i].ok,
            outcomes=outcomes, size=size_of(views[0]) * len(missing) if missing else 0)
        got = [index for index in missing if outcomes[index].ok]
        if got:
            self._learn(sum(size_of(views[i]) for i in got), limit.elapsed() - asked)
        if self._tier.capacity and offset is None:
            for index in got:
                self._tier.keep(namespace_id, keys[index], views[index])
        arrived = sum(size_of(views[i]) for i, outcome in enumerate(outcomes) if outcome.ok)
        self._statistics.note("get", limit.elapsed(), outcomes, arrived)
        return outcomes

    async def put(
        self, keys: Sequence[bytes], buffers: Sequence[BlockBuffer], deadline: float = DEADLINE_S
    ) -> list[Outcome]:
        """Stores blocks that are not there yet: a block of a key is always the same bytes.

        Arguments and results as for `get`; a block is `ok` once one volume has it.
        """
        limit = self._begin(keys, deadline, buffers)
        views = [views_of(buffer) for buffer in buffers]
        require(all(size_of(each) for each in views), Kind.INVALID_ARGUMENT, "a block is empty")
        outcomes = [Outcome.UNREACHABLE] * len(keys)

        async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
            some = [Outcome.LATE] * len(indices)
            try:
                await calls.put(_some(keys, indices), [views[i] for i in indices], some)
            except FsError as failure:
                explain(some, failure)
                raise
            finally:
                for index, outcome in zip(indices, some, strict=True):
                    if not outcomes[index].ok or outcome is Outcome.STORED:
                        outcomes[index] = outcome

        await self._volumes.ask(
            self.record, keys, range(len(keys)), limit, ask, outcomes=outcomes,
            size=size_of(views[0]) * len(keys) if views else 0)
        if self._tier.capacity:
            for index, outcome in enumerate(outcomes):
                if outcome.ok:
                    self._tier.keep(self.record.namespace_id, keys[index], views[index])
        stored = sum(
            size_of(views[i]) for i, outcome in enumerate(outcomes) if outcome is Outcome.STORED)
        self._statistics.note("put", limit.elapsed(), outcomes, stored)
        return outcomes

    async def exists(
        self, keys: Sequence[bytes], deadline: float = DEADLINE_S, *, touch: bool = False
    ) -> list[bool]:
        """Which blocks are there. `touch`: and count it as a use, so that they stay longer."""
        limit = self._begin(keys, deadline)
        found = [False] * len(keys)

        async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
            statuses = await calls.exists(_some(keys, indices), touch=touch)
            for index, status in zip(indices, statuses, strict=True):
                if status:
                    found[index] = True

        await self._volumes.ask(
            self.record, keys, range(len(keys)), limit, ask, settled=found.__getitem__)
        self._statistics.note("exists", limit.elapsed(),
                              {Outcome.HIT: sum(found), Outcome.MISS: len(keys) - sum(found)})
        return found

    async def touch(self, keys: Sequence[bytes], deadline: float = DEADLINE_S) -> list[bool]:
        """As `exists`, counted as a use."""
        return await self.exists(keys, deadline, touch=True)

    async def delete(self, keys: Sequence[bytes], deadline: float = DEADLINE_S) -> list[bool]:
        """Removes blocks from all volumes that can be reached; tells which were there."""
        limit = self._begin(keys, deadline)
        self._tier.drop(self.record.namespace_id, keys)
        found = [False] * len(keys)

        async def ask(node_id: int, calls: VolumeCalls, indices: list[int]) -> None:
            statuses = await calls.delete(_some(keys, indices))
            for index, status in zip(indices, statuses, strict=True):
                found[index] = found[index] or bool(status)

        await self._volumes.ask(self.record, keys, range(len(keys)), limit, ask)
        self._statistics.note("delete", limit.elapsed())
        return found

    def _begin(
        self, keys: Sequence[bytes], deadline: float, buffers: Sequence[BlockBuffer] | None = None
    ) -> Deadline:
        """Raises FsError INVALID_ARGUMENT for arguments that cannot be."""
        require(len(keys) <= KEYS_MAX, Kind.INVALID_ARGUMENT,
                f"{len(keys)} keys are too many for one call: {KEYS_MAX} are possible")
        sizes = set(map(len, keys))
        require(len(sizes) <= 1, Kind.INVALID_ARGUMENT,
                "the keys of one call differ in size: hash them to one size")
        require(all(KEY_BYTES_MIN <= size <= KEY_BYTES_MAX for size in sizes),
                Kind.INVALID_ARGUMENT, f"keys of {sizes} bytes: {KEY_BYTES_MIN} to "
                f"{KEY_BYTES_MAX} are possible, so hash them")
        require(buffers is None or len(buffers) == len(keys), Kind.INVALID_ARGUMENT,
                f"{len(keys)} keys and {len(buffers or ())} buffers")
        return Deadline(self._volumes.runtime, deadline)

    def _learn(self, size: int, seconds: float) -> None:
        """Keeps the rate at which blocks came lately, for estimates."""
        measured = size / max(seconds - CALL_GUESS_S, 1e-6)
        self._bytes_s += LEARNING * (measured - self._bytes_s)


def _some(keys: Sequence[bytes], indices: list[int]) -> Sequence[bytes]:
    """The keys at `indices`, which are distinct and ascend."""
    return keys if len(indices) == len(keys) else [keys[index] for index in indices]
