"""What must hold in every world, whatever was done in it.

Layer: tests. `watch` looks while things happen, `check_end` when the world has healed.
"""

from __future__ import annotations

import trio
from google.protobuf.message import Message

from luciole.client import fsck
from luciole.errors import FsError
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.tests.sim.process import COLLECT_S, GRACE_S, Process, StorageProcess
from luciole.tests.sim.world import ViolationError, World

SERVED_LATE_S = 3.0  # waits inside a handler, entered just before
HEAL_SECONDS_MAX = 90.0
CLEAN_SECONDS_MAX = 90.0


def watch(world: World) -> None:
    """A fenced process answers no data request with success; routing never goes back."""

    newest = 0  # version of the routing that any manager has answered with

    def check(process: Process, handler: str, reply: Message) -> None:
        nonlocal newest
        if isinstance(reply, mgmtd_pb2.GetRoutingReply):
            if reply.version < newest:
                world.violate(f"{process.name} answers with routing version {reply.version}, "
                              f"after {newest} was seen")
            newest = reply.version
        if not isinstance(process, StorageProcess):
            return
        now = process.runtime.clock.now()
        if handler in {"write", "read"}:
            assert isinstance(reply, storage_pb2.WriteReply | storage_pb2.ReadReply)
            served = any(not result.HasField("error") for result in reply.results)
            # Entered while the lease ran, a handler may end a little later.
            if served and now > process.lease_until + SERVED_LATE_S:
                world.violate(f"{process.name} answered {handler} at its {now:.3f}, fenced since "
                              f"{process.lease_until:.3f}")

    world.wire.answer_checks.append(check)


async def healed(world: World) -> None:
    """Waits until all serve. Raises ViolationError when that takes too long."""
    deadline = trio.current_time() + HEAL_SECONDS_MAX
    while not world.healed():
        if trio.current_time() > deadline:
            raise ViolationError(f"the chains do not heal: {chains(world)}")
        await trio.sleep(0.5)
    world.trace.note("healed", "every target serves")


def chains(world: World) -> str:
    """All chains, for people."""
    return "; ".join(
        f"chain {chain.chain_id} version {chain.version}: " + ", ".join(
            f"{target.target_id} {mgmtd_pb2.PublicState.Name(target.state)}"
            for target in chain.targets)
        for chain in world.table().chains())


async def settled(world: World) -> None:
    """Waits until collectors and sessions of the dead have had their time."""
    await trio.sleep(3 * GRACE_S + 2 * COLLECT_S)


async def clean(world: World) -> None:
    """Waits until fsck finds nothing. Raises ViolationError with what it finds for too long."""
    client = world.clients[0]
    deadline = trio.current_time() + CLEAN_SECONDS_MAX
    while True:
        try:
            report = await fsck.check(client.client, client.runtime, lambda *_: None)
        except FsError as failure:
            problems = [str(failure)]
        else:
            problems = [f"{problem.kind}: {problem.subject}: {problem.message}"
                        for problem in report.problems]
            world.count("chunks", report.chunks)
        if not problems:
            return
        if trio.current_time() > deadline:
            raise ViolationError("fsck finds, again and again: " + "; ".join(sorted(problems)[:5]))
        await trio.sleep(5.0)


async def same_everywhere(world: World) -> None:
    """All replicas of a chain hold the same bytes under the same versions, and nothing else."""
    for chain in world.table().chains():
        held: dict[int, dict[bytes, tuple[int, bytes]]] = {}
        for target in chain.targets:
            engine = world.engines[target.target_id]
            states, _ = await engine.list(b"", None, 1 << 20)
            found = held.setdefault(target.target_id, {})
            for state in states:
                if state.pending is not None or state.committed is None:
                    raise ViolationError(
                        f"target {target.target_id} has a pending version: {state}")
                buffer = memoryview(bytearray(state.committed.length))
                try:
                    await engine.read(state.chunk_id, 0, buffer)
                except FsError as failure:
                    raise ViolationError(f"target {target.target_id}: {failure}") from failure
                found[state.chunk_id] = (state.committed.number, bytes(buffer))
        first, *others = held.items()
        for other in others:
            if other[1] != first[1]:
                raise ViolationError(f"chain {chain.chain_id}: " + difference(first, other))


def difference(
    one: tuple[int, dict[bytes, tuple[int, bytes]]],
    other: tuple[int, dict[bytes, tuple[int, bytes]]],
) -> str:
    """Where two replicas differ first, for people."""
    for identity in sorted(one[1].keys() | other[1].keys()):
        a, b = one[1].get(identity), other[1].get(identity)
        if a != b:
            told = [f"target {target} has " + (
                "nothing" if copy is None else f"version {copy[0]}, {len(copy[1])} bytes")
                for target, copy in ((one[0], a), (other[0], b))]
            return f"chunk {identity.hex()}: {' and '.join(told)}"
    return "no difference"
