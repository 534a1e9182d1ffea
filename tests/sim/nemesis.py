"""Does to a world what its scenario says, and undoes it.

Layer: tests. Every action is a coroutine that breaks something, waits and mends it, so that at the
end of the faults, when the nemesis is cancelled, `mend` finds the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from luciole.kv.memory import NO_FAULTS
from luciole.tests.sim.caches import Cache, CacheClient
from luciole.tests.sim.link import STORE
from luciole.tests.sim.process import ClientProcess, ManagerProcess, Process, StorageProcess
from luciole.tests.sim.scenarios import Scenario
from luciole.tests.sim.wire import Weather
from luciole.tests.sim.world import World

START_AGAIN_S = 0.5
FILES_S = 2.0
WRITER_LOOKS, WRITER_LOOK_S = 200, 0.0037


class Nemesis:
    """Faults of one run."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        self._chance = world.draw("nemesis")
        self._actions: dict[str, Callable[[], Awaitable[None]]] = {
            "kill_storage": lambda: self._kill(self._chance.choice(world.storages)),
            "kill_meta": lambda: self._kill(self._chance.choice(world.metas)),
            "kill_manager": lambda: self._kill(self._chance.choice(world.managers)),
            "kill_primary": lambda: self._kill(self._primary()),
            "cut_primary": self._cut_primary,
            "kill_client": lambda: self._kill(self._chance.choice(world.callers)),
            "roll": self._roll,
            "split": self._split,
            "cut_off": self._cut_off,
            "one_way": self._one_way,
            "cut_link": self._cut_link,
            "slow_peer": self._slow_peer,
            "slow_disk": self._slow_disk,
            "fill_disk": self._fill_disk,
            "power_one": lambda: self._power([self._chance.choice(world.storages)]),
            "power_all": lambda: self._power(world.storages),
            "rot": self._rot,
            "kill_writer": self._kill_writer,
            "rot_block": self._rot_block,
            "slow_volume": self._slow_volume,
            "fill_volume": self._fill_volume,
            "break_volume": self._break_volume,
        }

    async def run(self) -> None:
        """Acts until cancelled."""
        world, scenario = self._world, self._scenario
        world.wire.weather = Weather(
            files=FILES_S, delay=scenario.delay, loss=scenario.loss, repeat=scenario.repeat,
            straggle=scenario.straggle)
        world.store.faults = scenario.kv
        if not scenario.actions:
            await trio.sleep_forever()
        names, weights = list(scenario.actions), list(scenario.actions.values())
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._chance.expovariate(1 / scenario.every))
                name = self._chance.choices(names, weights)[0]
                world.trace.note("fault", name)
                nursery.start_soon(self._actions[name])

    async def mend(self) -> None:
        """Everything works again."""
        world = self._world
        world.trace.note("mend", "all faults end")
        world.wire.weather = Weather()
        world.store.faults = NO_FAULTS
        for engine in world.engines.values():
            engine.slow = 0.0
            engine.fill_disk(False)
        for cache in world.caches.values():
            cache.platter.slow, cache.platter.full, cache.platter.failing = 0.0, False, False
        for process in [*world.servers, *world.callers]:
            await self._start(process)

    async def _start(self, process: Process) -> None:
        if not process.up and not process.starting:
            await process.start()
            while not process.running:
                await trio.sleep(START_AGAIN_S)
                if not process.starting:
                    await process.start()
            if isinstance(process, ClientProcess | CacheClient):
                process.spawn(process.connect)

    async def _kill(self, process: Process) -> None:
        process.crash()
        await trio.sleep(self._chance.choice([0.05, 0.5, 3.0, 8.0]) * (0.5 + self._chance.random()))
        await self._start(process)

    async def _roll(self) -> None:
        """Every server in turn, as an upgrade does it."""
        for process in self._world.servers:
            process.crash()
            await trio.sleep(0.3 + self._chance.random())
            await self._start(process)
            await trio.sleep(self._chance.choice([0.5, 2.0, 6.0]))

    async def _power(self, nodes: list[StorageProcess]) -> None:
        for node in nodes:
            node.crash(power={
                "records_survive": self._chance.random() < 0.5,
                "bytes_survive": self._chance.random() < 0.5})
        for node in nodes:
            await trio.sleep(self._chance.random() * 6)
            await self._start(node)

    async def _cut(self, ways: set[tuple[int, int]]) -> None:
        cut = self._world.wire.weather.cut
        self._world.trace.note("cut", " ".join(f"{a}>{b}" for a, b in sorted(ways)))
        cut |= ways
        await trio.sleep(self._chance.choice([0.5, 2.0, 6.0, 10.0]) * (0.5 + self._chance.random()))
        cut -= ways
        self._world.trace.note("joined", "")

    def _numbers(self) -> list[int]:
        return [process.number for process in [*self._world.servers, *self._world.callers]]

    async def _split(self) -> None:
        """Two halves that do not hear each other."""
        numbers = self._numbers()
        one = set(self._chance.sample(numbers, self._chance.randint(1, len(numbers) - 1)))
        await self._cut({(a, b) for a in numbers for b in numbers if (a in one) != (b in one)})

    async def _cut_off(self) -> None:
        """A storage node that everybody reaches but the manager."""
        node = self._chance.choice(self._world.storages).number
        managers = [process.number for process in self._world.managers]
        await self._cut({way for m in managers for way in ((m, node), (node, m))})

    def _primary(self) -> ManagerProcess:
        return self._world.primary() or self._chance.choice(self._world.managers)

    async def _cut_primary(self) -> None:
        """The primary loses the store, everybody else, or both; to one side or to either."""
        primary = self._primary().number
        others = [number for number in self._numbers() if number != primary]
        cut_from = self._chance.choice([[STORE], [STORE], others, [STORE, *others]])
        there = {(primary, other) for other in cut_from}
        back = {(other, primary) for other in cut_from}
        await self._cut(self._chance.choice([there, back, there | back]))

    async def _one_way(self) -> None:
        """What one says another does not hear."""
        first, second = self._chance.sample(self._numbers(), 2)
        await self._cut({(first, second)})

    async def _cut_link(self) -> None:
        """Two storage nodes that everybody reaches but the other."""
        nodes = [process.number for process in self._world.storages]
        first, second = self._chance.sample(nodes, 2)
        await self._cut({(first, second), (second, first)})

    async def _slow_peer(self) -> None:
        number, slow = self._chance.choice(self._numbers()), self._world.wire.weather.slow
        slow[number] = self._chance.choice([0.05, 0.3, 0.8])
        await trio.sleep(self._chance.random() * 8)
        slow.pop(number, None)

    async def _slow_disk(self) -> None:
        engine = self._chance.choice(list(self._world.engines.values()))
        engine.slow = self._chance.choice([0.02, 0.2, 1.0])
        await trio.sleep(self._chance.random() * 8)
        engine.slow = 0.0

    async def _fill_disk(self) -> None:
        engine = self._chance.choice(list(self._world.engines.values()))
        engine.fill_disk()
        await trio.sleep(self._chance.random() * 4)
        engine.fill_disk(False)

    async def _rot(self) -> None:
        """One bit of one replica; never the same chunk on all."""
        first_node = min(self._world.engines) // 100
        target = self._chance.choice([
            target for target in self._world.engines if target // 100 == first_node])
        engine = self._world.engines[target]
        states, _ = await engine.list(b"", None, 1000)
        whole = [state for state in states if state.committed and state.committed.length]
        if whole:
            state = self._chance.choice(whole)
            assert state.committed is not None
            engine.corrupt(state.chunk_id, self._chance.randrange(state.committed.length))

    def _cache(self) -> Cache:
        return self._chance.choice(list(self._world.caches.values()))

    async def _kill_writer(self) -> None:
        """A storage node dies while its volume writes or removes a block."""
        node = self._chance.choice(self._world.storages)
        assert node.cache is not None
        for _ in range(WRITER_LOOKS):
            if node.up and node.cache.volume.in_hand():
                await self._kill(node)
                return
            await trio.sleep(WRITER_LOOK_S)

    async def _slow_volume(self) -> None:
        platter = self._cache().platter
        platter.slow = self._chance.choice([0.02, 0.1, 0.4])
        await trio.sleep(self._chance.random() * 6)
        platter.slow = 0.0

    async def _fill_volume(self) -> None:
        """No slab can be begun."""
        platter = self._cache().platter
        platter.full = True
        await trio.sleep(self._chance.random() * 6)
        platter.full = False

    async def _break_volume(self) -> None:
        """Some calls fail."""
        platter = self._cache().platter
        platter.failing = True
        await trio.sleep(self._chance.random() * 3)
        platter.failing = False

    async def _rot_block(self) -> None:
        """One bit of a block on one volume, or of its header."""
        cache = self._cache()
        blocks = [(number, entry) for number, space in cache.volume.spaces.items()
                  for entry in space.index.values()]
        if blocks:
            number, entry = self._chance.choice(blocks)
            cache.platter.rotten.add((number, entry.key))
            place = cache.volume.slots.position(entry.place)
            cache.platter.flip("blocks", place + self._chance.randrange(entry.size))
