"""Engines that share blocks of the KV cache, while namespaces change under them.

A block's bytes follow from its namespace and key, so that a wrong byte shows wherever it is read.
What volumes promise is watched where they run (promises.py); here is what clients see: every call
is back at its deadline and says what became of each key, whatever failed, and what a lease holds is
no miss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from luciole.errors import FsError
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.namespace import Blocks, Lease
from luciole.proto import mgmtd_pb2
from luciole.tests.sim.caches import CacheClient
from luciole.tests.sim.platter import Block
from luciole.tests.sim.process import LEASE_S
from luciole.tests.sim.promises import Watch, told
from luciole.tests.sim.workloads.base import require_true, timed
from luciole.tests.sim.world import World

T = TypeVar("T")
PROMPTS = 4  # of each namespace
PROMPT_BLOCKS = 8
SIZES = [700, 1200, 3000, 3000, 7000, 12_000]  # no part that is read reaches beyond
QUOTA = 90_000
TTL_S = 4
TWICE, SHORT, PASSING = "twice", "short", "passing"
NAMES = [TWICE, SHORT, PASSING]
DEADLINES_S = [0.02, 0.3, 1.0, 3.0]
LEASES_S = [0.5, 2.0, 5.0]
SLACK_S = 0.1  # between a deadline and the return
SETTLE_SECONDS_MAX = 60.0


def key_of(name: str, prompt: int, block: int) -> bytes:
    """The key of a prompt's block."""
    return hashlib.sha256(f"{name}/{prompt}/{block}".encode()).digest()


def content(namespace_id: int, key: bytes) -> bytes:
    """The bytes that belong to a key."""
    size = SIZES[key[0] % len(SIZES)]
    return hashlib.shake_128(namespace_id.to_bytes(4, "big") + key).digest(size)


@dataclass(frozen=True)
class Place:
    """Where a client looks for a block that has one copy, and what watches that volume."""

    node: int
    watch: Watch


class Sharing:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.draw("blocks")

    async def prepare(self) -> None:
        """Makes the namespaces."""
        for record in (
            mgmtd_pb2.KvNamespace(name=TWICE, quota_bytes=QUOTA, replication=2),
            mgmtd_pb2.KvNamespace(name=SHORT, quota_bytes=QUOTA, ttl_seconds=TTL_S),
            mgmtd_pb2.KvNamespace(name=PASSING),
        ):
            await self._world.inferring[0].cluster.set_namespace(record)

    async def run(self, until: float) -> None:
        """Three tasks a client, and one that changes namespaces."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rule, until)
            for client in self._world.inferring:
                for _ in range(3):
                    nursery.start_soon(self._work, client, until)

    async def _rule(self, until: float) -> None:
        """Quotas change; a namespace goes and another one of its name comes."""
        while trio.current_time() < until:
            await trio.sleep(self._chance.expovariate(0.3))
            client = self._chance.choice(self._world.inferring)
            name = self._chance.choice(NAMES)
            if client.up:
                try:
                    await timed(self._world, client, f"rules {name}", self._change(client, name),
                                calls=6)
                except FsError:
                    continue  # managers may fail, and say so

    async def _change(self, client: CacheClient, name: str) -> None:
        cluster = client.cluster
        known = {record.name: record for record in cluster.routing.current().kv_namespaces()}
        record = mgmtd_pb2.KvNamespace(name=name)
        if name in known:
            record.CopyFrom(known[name])
        if name != PASSING:
            record.quota_bytes = int(QUOTA * self._chance.choice([0.6, 1.0, 1.5]))
        elif name in known:
            number = record.namespace_id
            await cluster.manager.call(lambda stub: stub.drop_kv_namespace(
                mgmtd_pb2.DropKvNamespaceRequest(namespace_id=number), timeout=1.0))
            return
        await cluster.set_namespace(record)

    async def _work(self, client: CacheClient, until: float) -> None:
        actions = [self._put, self._lease, self._get, self._look, self._delete, self._collide]
        while trio.current_time() < until:
            await trio.sleep(self._chance.expovariate(4.0))
            if not client.up:
                continue
            try:
                blocks = await client.cluster.blocks(self._chance.choice(NAMES))
            except FsError:
                continue  # dropped, or no manager has told this client anything yet
            action = self._chance.choices(actions, [5, 4, 3, 2, 1, 1])[0]
            await action(client, blocks)

    async def _call(
        self, client: CacheClient, what: str, deadline: float, call: Awaitable[T]
    ) -> T | None:
        """What a call returns, in time; None if the client died. Raising is a violation."""
        try:
            return await timed(self._world, client, what, call,
                               seconds=deadline / client.rate + SLACK_S)
        except FsError as failure:
            if client.up and "the client died" not in failure.message:
                self._world.violate(f"{client.name} {what} raises {failure}")
            return None

    def _keys(self, blocks: Blocks) -> list[bytes]:
        """Some blocks from the begin of a prompt."""
        prompt = self._chance.randrange(PROMPTS)
        return [key_of(blocks.record.name, prompt, number)
                for number in range(self._chance.randint(1, PROMPT_BLOCKS))]

    async def _put(self, client: CacheClient, blocks: Blocks) -> None:
        await self.store(client, blocks, self._keys(blocks), self._chance.choice(DEADLINES_S))

    async def store(
        self, client: CacheClient, blocks: Blocks, keys: Sequence[bytes], deadline: float
    ) -> list[Outcome]:
        """Puts blocks; what became of them, nothing if the client died."""
        number = blocks.record.namespace_id
        outcomes = await self._call(
            client, f"puts {told((number, keys[0]))} and {len(keys) - 1} more", deadline,
            blocks.put(keys, [content(number, key) for key in keys], deadline=deadline))
        self._note(client, "put", keys, outcomes)
        return outcomes or []

    async def _get(self, client: CacheClient, blocks: Blocks) -> None:
        await self.fetch(client, blocks, self._keys(blocks), self._chance.choice(DEADLINES_S),
                         offset=self._chance.choice([None, None, 0, 100]))

    async def fetch(
        self, client: CacheClient, blocks: Blocks, keys: Sequence[bytes], deadline: float, *,
        offset: int | None = None,
    ) -> list[Outcome]:
        """Gets blocks, or 500 bytes of each, and compares them with what they must be."""
        number = blocks.record.namespace_id
        wanted = [content(number, key) for key in keys]
        if offset is not None:
            wanted = [whole[offset : offset + 500] for whole in wanted]
        buffers = [bytearray(len(each)) for each in wanted]
        outcomes = await self._call(
            client, f"gets {told((number, keys[0]))} and {len(keys) - 1} more", deadline,
            blocks.get(keys, buffers, offset=offset, deadline=deadline))
        self._note(client, "get", keys, outcomes)
        for key, outcome, buffer, right in zip(keys, outcomes or [], buffers, wanted, strict=False):
            if outcome is Outcome.HIT and buffer != right:
                self._world.violate(f"{client.name} gets wrong bytes for {told((number, key))}")
            if outcome is Outcome.WRONG_SIZE:
                self._world.violate(f"{client.name}: {told((number, key))} has another size")
        return outcomes or []

    def _note(
        self, client: CacheClient, what: str, keys: Sequence[bytes],
        outcomes: list[Outcome] | None,
    ) -> None:
        if outcomes is None:
            return
        if len(outcomes) != len(keys):
            self._world.violate(f"{what} of {len(keys)} keys returns {len(outcomes)} outcomes")
        for outcome in outcomes:
            self._world.count(f"kv {what} {outcome.name.lower()}")
        self._world.trace.note("saw", f"{client.name} {what}: " + " ".join(
            outcome.name for outcome in outcomes))

    async def _look(self, client: CacheClient, blocks: Blocks) -> None:
        keys, deadline = self._keys(blocks), self._chance.choice(DEADLINES_S)
        if self._chance.random() < 0.5:
            found = await self._call(client, f"touches {len(keys)} keys", deadline,
                                     blocks.touch(keys, deadline=deadline))
            if found is not None and len(found) != len(keys):
                self._world.violate(f"touch of {len(keys)} keys returns {len(found)}")
        else:
            match = await self._call(client, f"matches {len(keys)} keys", deadline,
                                     blocks.match_prefix(keys, deadline=deadline))
            if match is not None and (match.lease is not None or match.count > len(keys)):
                self._world.violate(f"a match of {len(keys)} keys without a lease returns {match}")

    async def _delete(self, client: CacheClient, blocks: Blocks) -> None:
        keys, deadline = self._keys(blocks)[-2:], self._chance.choice(DEADLINES_S)
        await self._call(client, f"deletes {len(keys)} keys", deadline,
                         blocks.delete(keys, deadline=deadline))

    async def _collide(self, client: CacheClient, blocks: Blocks) -> None:
        """Reads blocks while they are deleted from the last to the first, and stored again."""
        keys, deadline = self._keys(blocks), 1.0

        async def replace() -> None:
            await self._call(client, f"deletes {len(keys)} keys", deadline,
                             blocks.delete(keys[::-1], deadline=deadline))
            await self.store(client, blocks, keys, deadline)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fetch, client, blocks, keys, deadline)
            nursery.start_soon(replace)

    async def _lease(self, client: CacheClient, blocks: Blocks) -> None:
        """Matches with a lease, reads what is leased for a while, and gives it up."""
        keys, deadline = self._keys(blocks), self._chance.choice(DEADLINES_S)
        generation = client.generation
        places = self._places(client, blocks, keys)
        watches = self._watches()
        number = blocks.record.namespace_id
        match = await self._call(
            client, f"leases {told((number, keys[0]))} and {len(keys) - 1} more", deadline,
            blocks.match_prefix(keys, self._chance.choice(LEASES_S), deadline))
        if match is None or match.lease is None:
            return
        self._world.count("kv leased", match.count)
        keys = keys[: match.count]
        self._compare_grant(client, blocks, match.lease, keys, watches)
        for _ in range(self._chance.randint(1, 3)):
            outcomes = await self.fetch(client, blocks, keys, deadline)
            missing = [key for key, outcome in zip(keys, outcomes, strict=False)
                       if outcome is Outcome.MISS]
            now = self._places(client, blocks, missing) if client.up else {}
            for key, place in now.items():
                if places.get(key) == place:
                    self._require_unleased(client, place, match.lease, (number, key))
            await trio.sleep(self._chance.random())
            if client.generation != generation:
                return  # who had the lease is dead
            if self._chance.random() < 0.5 and client.up:
                await self._call(client, "extends a lease", deadline, blocks.extend(
                    match.lease, self._chance.choice(LEASES_S), deadline))
        if client.up and self._chance.random() < 0.7:
            await self._call(client, "releases a lease", deadline,
                             blocks.release(match.lease, deadline))

    def _places(
        self, client: CacheClient, blocks: Blocks, keys: Sequence[bytes]
    ) -> dict[bytes, Place]:
        """Where this client looks for blocks, if it looks in one place."""
        if blocks.record.replication > 1 or not client.cluster.routing.version:
            return {}
        placement = client.cluster.volumes.placement()
        if not placement.capacities:
            return {}
        nodes = {key: placement.ranking(blocks.record.namespace_id, key)[0] for key in keys}
        return {key: Place(node, self._world.caches[node].watch) for key, node in nodes.items()}

    def _watches(self) -> dict[int, Watch]:
        return {node: cache.watch for node, cache in self._world.caches.items()}

    def _compare_grant(
        self, client: CacheClient, blocks: Blocks, lease: Lease, keys: Sequence[bytes],
        before: dict[int, Watch],
    ) -> None:
        """What a match says is leased, a volume has leased, unless one of them is another now."""
        now = self._watches()
        if client.memory_bytes or any(before[node] is not now[node] for node in lease.nodes):
            return
        for key in keys:
            block = blocks.record.namespace_id, key
            if not any(now[node].granted(lease.lease_id, block) for node in lease.nodes):
                self._world.violate(f"{client.name}: {told(block)} is leased nowhere")

    def _require_unleased(
        self, client: CacheClient, place: Place, lease: Lease, block: Block
    ) -> None:
        """A block was a miss where its client looked: it may not be leased there still."""
        if place.watch.holds(lease.lease_id, block):
            self._world.violate(f"{client.name} misses {told(block)}, which is leased on node "
                                f"{place.node}")

    async def check(self) -> None:
        """Everybody knows the same, no volume is wrong, and blocks are stored and found."""
        await self._settled()
        await trio.sleep(2 * max(LEASES_S))
        world = self._world
        for node, cache in world.caches.items():
            for space in cache.volume.spaces.values():
                world.count("kv evicted", space.counts.evicted)
                world.count("kv expired", space.counts.expired)
            problems = cache.problems()
            require_true(not problems, f"the volume of node {node}: {problems}")
        for name in (TWICE, SHORT):
            for user in world.inferring:
                await self._round_trip(user, name)
        for user in world.inferring:
            for name in NAMES:
                await self._read_all(user, name)

    async def _settled(self) -> None:
        """Until all know the newest routing; then all must place blocks alike."""
        world = self._world
        deadline = trio.current_time() + SETTLE_SECONDS_MAX
        while not self._same_routing():
            require_true(trio.current_time() < deadline, "clients do not learn the newest routing")
            await trio.sleep(LEASE_S / 8)
        keys = [key_of(name, prompt, 0) for name in NAMES for prompt in range(PROMPTS)]
        rankings = [[user.cluster.volumes.placement().ranking(1, key) for key in keys]
                    for user in world.inferring]
        require_true(all(ranking == rankings[0] for ranking in rankings)
                     and all(set(each) == world.caches.keys() for each in rankings[0]),
                     "clients place blocks differently")

    def _same_routing(self) -> bool:
        world = self._world
        newest = world.table().version
        return all(process.routing.version == newest for process in world.storages) and all(
            user.cluster.routing.version == newest for user in world.inferring)

    async def _round_trip(self, user: CacheClient, name: str) -> None:
        """What one stores now all find: nothing fails any more."""
        blocks = await user.cluster.blocks(name)
        key = hashlib.sha256(f"{name}/{user.name}/at the end".encode()).digest()
        outcomes = await self.store(user, blocks, [key], 3.0)
        require_true(len(outcomes) == 1 and outcomes[0].ok, f"{user.name} cannot put: {outcomes}")
        for other in self._world.inferring:
            outcomes = await self.fetch(other, blocks_of(other, blocks), [key], 3.0)
            require_true(outcomes == [Outcome.HIT],
                         f"{other.name} does not find what {user.name} has put: {outcomes}")

    async def _read_all(self, user: CacheClient, name: str) -> None:
        """Right or a miss: no volume fails any more."""
        try:
            blocks = await user.cluster.blocks(name)
        except FsError:
            return
        for prompt in range(PROMPTS):
            keys = [key_of(name, prompt, number) for number in range(PROMPT_BLOCKS)]
            outcomes = await self.fetch(user, blocks, keys, 3.0)
            require_true(not {Outcome.LATE, Outcome.UNREACHABLE} & set(outcomes),
                         f"{user.name} cannot read in a world without faults: {outcomes}")


def blocks_of(user: CacheClient, blocks: Blocks) -> Blocks:
    """The same namespace as another client has it."""
    cluster = user.cluster
    return Blocks(blocks.record, cluster.volumes, cluster.tier, cluster.statistics)
