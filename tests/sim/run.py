"""One run: a pure function of a seed (and of the scenario and the mutant, where they are named).

Layer: tests. Faults for a while, then none; then the world must heal, and everything must hold.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from luciole.tests.sim import checks
from luciole.tests.sim.nemesis import Nemesis
from luciole.tests.sim.scenarios import SCENARIOS, Scenario
from luciole.tests.sim.schedule import chance_for, run_seeded
from luciole.tests.sim.trace import Trace
from luciole.tests.sim.workloads.base import Workload
from luciole.tests.sim.workloads.blocks import Sharing
from luciole.tests.sim.workloads.files import Files
from luciole.tests.sim.workloads.locks import Counting
from luciole.tests.sim.workloads.names import Storm
from luciole.tests.sim.workloads.registers import Registers
from luciole.tests.sim.world import ViolationError, World

VIRTUAL_SECONDS_MAX = 900.0


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    scenario: str
    failure: str = ""
    digest: str = ""
    events: int = 0
    calls: int = 0
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """All but the trace, for machines."""
        return {key: value for key, value in asdict(self).items() if key != "trace"}


def pick(seed: int) -> Scenario:
    """The scenario that a seed stands for."""
    return SCENARIOS[chance_for(seed, "scenario").choice(list(SCENARIOS))]


def workloads_of(world: World, scenario: Scenario) -> list[Workload]:
    """One or all of the scenario's workloads, as the seed says."""
    losing = world.shape.durability == "process" and any(
        action.startswith("power") for action in scenario.actions)
    makers: dict[str, Callable[[], Workload]] = {
        "registers": lambda: Registers(world),
        "files": lambda: Files(world, durable=losing, cuts=scenario.cuts),
        "names": lambda: Storm(world),
        "locks": lambda: Counting(world),
        "blocks": lambda: Sharing(world),
    }
    chance = world.draw("workloads")
    chosen = list(scenario.workloads)
    if chance.random() < 0.6:
        chosen = [chance.choice(chosen)]
    return [makers[name]() for name in chosen]


async def live(world: World, scenario: Scenario) -> None:
    """From the first process to the last check. Raises ViolationError."""
    checks.watch(world)
    await world.start()
    workloads = workloads_of(world, scenario)
    for workload in workloads:
        await workload.prepare()
    nemesis = Nemesis(world, scenario)
    async with trio.open_nursery() as faults:
        faults.start_soon(nemesis.run)
        until = trio.current_time() + scenario.seconds
        async with trio.open_nursery() as nursery:
            for workload in workloads:
                nursery.start_soon(workload.run, until)
        faults.cancel_scope.cancel()
    await nemesis.mend()
    await checks.healed(world)
    if world.clients:
        await checks.settled(world)
    for workload in workloads:
        await workload.check()
    if world.clients:
        await checks.clean(world)
    if not scenario.rot:
        await checks.same_everywhere(world)


def run_seed(
    seed: int, scenario: Scenario | None = None, *, keep_all: bool = False,
    mutant: AbstractContextManager[None] | None = None,
) -> Outcome:
    """Runs a seed. Never raises for what happens within."""
    scenario = scenario or pick(seed)
    outcome = Outcome(seed, scenario.name)
    trace = Trace(trio.current_time, keep_all=keep_all)
    began = time.monotonic()
    worlds: list[World] = []

    async def main() -> None:
        with trio.fail_after(VIRTUAL_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                worlds.append(World(nursery, seed, scenario.shape, trace))
                await live(worlds[0], scenario)
                outcome.virtual_seconds = trio.current_time()
                nursery.cancel_scope.cancel()

    try:
        with trace.hears_logs(), mutant or nullcontext():
            run_seeded(main, seed)
    except BaseException as failure:
        if isinstance(failure, KeyboardInterrupt):
            raise
        outcome.failure = told(failure)
    world = worlds[0]
    problems = [*world.violations, *(f"an error was logged: {text}" for text in trace.errors)]
    if problems:
        outcome.failure = "; ".join([*problems[:3], outcome.failure]).rstrip("; ")
    outcome.digest, outcome.events, outcome.calls = trace.digest, trace.events, world.wire.calls
    outcome.counts, outcome.trace = dict(world.counts), list(trace.recent)
    outcome.real_seconds = time.monotonic() - began
    return outcome


def told(failure: BaseException) -> str:
    """The violation, or the trace of whatever broke the run."""
    leaves = [failure]
    while leaves and isinstance(leaves[0], BaseExceptionGroup):
        leaves = [*leaves[0].exceptions, *leaves[1:]]
    found = [leaf for leaf in leaves if isinstance(leaf, ViolationError)] or leaves
    if isinstance(found[0], ViolationError):
        return str(found[0])
    return "".join(traceback.format_exception(found[0]))
