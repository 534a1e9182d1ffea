"""Random histories: concurrent clients, an unreliable network, a replica that dies and returns.

Every chunk is a register of one value. A history that no order explains is printed with its seed;
`simulate(body, seed)` runs it again step by step.
"""

from __future__ import annotations

import trio
from google.protobuf.message import Message

from luciole.errors import FsError
from luciole.tests.sim.cluster import CHUNK, SimCluster, file, simulate
from luciole.tests.sim.network import SOUND, Fault, Loss
from luciole.tests.sim.registers import FOREVER, Operation, linearizable

SEEDS = 200
CHUNKS = 2
WRITERS, READERS = 3, 3
OPERATIONS = 4
VALUE = 8


class History:
    """What clients did, by chunk."""

    def __init__(self) -> None:
        self.operations: dict[int, list[Operation]] = {index: [] for index in range(CHUNKS)}
        self._next = 0

    def fresh(self) -> int:
        self._next += 1
        return self._next


def shaky(cluster: SimCluster, loss: float) -> None:
    """Calls are lost, delayed and repeated at random."""
    chance = cluster.random

    def rule(source: int, destination: int, method: str, request: Message) -> Fault:
        if chance.random() > loss:
            return Fault(delay=chance.random() * 0.02)
        if method != "forward" and chance.random() < 0.5:
            return SOUND
        return Fault(
            loss=chance.choice(list(Loss)), delay=chance.random() * 0.1,
            reply_delay=chance.random() * 0.2,
            repeat_after=chance.random() * 0.3 if method == "forward" else None)

    cluster.network.rule = rule


async def writer(cluster: SimCluster, number: int, history: History) -> None:
    client = cluster.client(number, attempt=0.5, total=3.0)
    for _ in range(OPERATIONS):
        index, value = cluster.random.randrange(CHUNKS), history.fresh()
        began = trio.current_time()
        try:
            await client.write(file(), index * CHUNK, memoryview(value.to_bytes(VALUE, "big")))
            ended = trio.current_time()
        except FsError:
            ended = FOREVER
        history.operations[index].append(Operation(True, value, began, ended))
        await trio.sleep(cluster.random.random() * 0.1)


async def reader(cluster: SimCluster, number: int, history: History) -> None:
    client = cluster.client(number, attempt=0.5, total=3.0)
    for _ in range(OPERATIONS * 2):
        index = cluster.random.randrange(CHUNKS)
        buffer = memoryview(bytearray(VALUE))
        began = trio.current_time()
        try:
            await client.read(file(), index * CHUNK, buffer)
        except FsError:
            continue
        history.operations[index].append(
            Operation(False, int.from_bytes(buffer, "big"), began, trio.current_time()))
        await trio.sleep(cluster.random.random() * 0.1)


async def managed(cluster: SimCluster, stopped: trio.Event) -> None:
    """The manager and the resync loops, with routing that reaches some nodes late."""
    while not stopped.is_set():
        if await cluster.tick():
            order = list(cluster.nodes)
            cluster.random.shuffle(order)
            for number in order:
                await trio.sleep(cluster.random.random() * 0.05)
                cluster.publish([number])
        for number, node in cluster.nodes.items():
            if cluster.network.up(number):
                await node.resync.run_once()
        await trio.sleep(0.05)


async def body(cluster: SimCluster) -> None:
    history, stopped = History(), trio.Event()
    shaky(cluster, loss=cluster.random.choice([0.0, 0.1, 0.3]))
    async with trio.open_nursery() as background:
        background.start_soon(managed, cluster, stopped)
        async with trio.open_nursery() as clients:
            for number in range(WRITERS):
                clients.start_soon(writer, cluster, number + 1, history)
            for number in range(READERS):
                clients.start_soon(reader, cluster, number + 100, history)
            victim = cluster.random.choice([0, 1, 2, 3])
            await trio.sleep(cluster.random.random() * 0.3)
            if victim:
                cluster.crash(victim)
                await trio.sleep(cluster.random.random() * 0.4)
                cluster.restart(victim)
        stopped.set()
    cluster.network.rule = lambda *_: SOUND
    await trio.sleep(1.0)  # what was delayed has arrived
    await cluster.heal()
    last = cluster.client(250)
    for index in range(CHUNKS):
        buffer = memoryview(bytearray(VALUE))
        for _ in range(3):
            began = trio.current_time()
            await last.read(file(), index * CHUNK, buffer)
            history.operations[index].append(
                Operation(False, int.from_bytes(buffer, "big"), began, trio.current_time()))
            await trio.sleep(0.01)
        await last.write(file(), index * CHUNK, memoryview(bytes(VALUE)))
    await cluster.same_everywhere()
    for index, operations in history.operations.items():
        assert linearizable(operations, 0), f"chunk {index}: {sorted(operations, key=str)}"


def test_every_history_can_be_explained() -> None:
    for seed in range(SEEDS):
        try:
            simulate(body, seed)
        except BaseException as failure:
            failure.add_note(f"seed {seed}")
            raise
