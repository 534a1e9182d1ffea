"""What goes wrong in a world, how often and how badly: the seed picks one unless it is named.

Layer: tests. A scenario is data. Weights say how often an action of `nemesis.py` is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from luciole.kv.memory import NO_FAULTS, Faults
from luciole.tests.sim.caches import SLAB
from luciole.tests.sim.world import Shape

SHAKY = Faults(conflict=0.05, unknown_applied=0.03, unknown_dropped=0.03)

USUAL = Shape()
# The KV cache needs no metadata service and no chains.
CACHES = Shape(targets=0, metas=0, managers=2, clients=0, engines=3, volume_bytes=5 * SLAB,
               skew=0.05)


@dataclass(frozen=True)
class Scenario:
    """One kind of bad day."""

    name: str
    shape: Shape = USUAL
    workloads: tuple[str, ...] = ("registers", "files", "names")
    seconds: float = 20.0  # of faults
    every: float = 3.0  # mean time between two actions
    actions: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    repeat: float = 0.0
    straggle: float = 0.0
    delay: float = 0.002
    kv: Faults = NO_FAULTS
    cuts: bool = False  # files are truncated
    rot: bool = False  # what rotted stays so: replicas need not be alike at the end


SCENARIOS = {scenario.name: scenario for scenario in (
    Scenario("calm", seconds=8.0, cuts=True),
    Scenario("lossy", loss=0.05, repeat=0.05, straggle=0.02, delay=0.02, kv=SHAKY),
    Scenario("kills", actions={"kill_storage": 5, "kill_meta": 2, "kill_client": 1},
             straggle=0.01),
    Scenario("rolling", actions={"roll": 1}, every=8.0, loss=0.01),
    Scenario("manager", actions={"kill_manager": 3, "kill_storage": 2, "cut_off": 1}, every=5.0),
    Scenario("splits", actions={"split": 3, "cut_off": 3, "one_way": 2}, every=4.0,
             shape=Shape(skew=0.05)),
    Scenario("pairs", shape=Shape(nodes=4, targets=2, replicas=2, stripe=3),
             actions={"kill_storage": 4, "cut_off": 2, "slow_peer": 2, "slow_disk": 2},
             straggle=0.02, loss=0.02),
    Scenario("slow", actions={"slow_peer": 3, "slow_disk": 3, "kill_storage": 1}, straggle=0.05,
             delay=0.05, shape=Shape(skew=0.1)),
    Scenario("storm", actions={
        "kill_storage": 3, "kill_meta": 1, "kill_client": 1, "kill_manager": 1, "split": 1,
        "cut_off": 1, "one_way": 1, "slow_peer": 1, "slow_disk": 1}, every=2.0, loss=0.03,
        repeat=0.05, straggle=0.03, kv=SHAKY, shape=Shape(skew=0.05)),
    Scenario("full", actions={"fill_disk": 3, "kill_storage": 1}),
    Scenario("power", shape=Shape(durability="power"),
             actions={"power_one": 2, "power_all": 1, "kill_storage": 1}, every=4.0),
    Scenario("rot", actions={"rot": 1}, every=2.0, workloads=("registers", "files"), rot=True),
    Scenario("cuts", workloads=("files",), actions={"kill_storage": 2, "kill_meta": 1},
             straggle=0.02, cuts=True),
    Scenario("fsync", workloads=("files",), every=5.0, actions={
        "power_all": 2, "power_one": 2, "kill_storage": 1}),
    Scenario("links", actions={"cut_link": 5, "kill_storage": 1, "kill_manager": 1}, every=4.0,
             loss=0.01, shape=Shape(skew=0.05)),
    Scenario("managers", shape=Shape(managers=3, skew=0.1), kv=SHAKY, loss=0.01, every=2.0,
             workloads=("registers", "names"), actions={
                 "kill_primary": 3, "kill_manager": 1, "cut_primary": 4, "kill_storage": 2,
                 "split": 1}),
    Scenario("locks", workloads=("locks",), seconds=40.0, kv=SHAKY, loss=0.02, repeat=0.03,
             straggle=0.02, actions={"kill_meta": 3, "kill_client": 3, "cut_off": 2}),
    Scenario("kvcache", shape=CACHES, workloads=("blocks",), every=1.5, loss=0.01, straggle=0.01,
             actions={
                 "kill_storage": 1, "kill_writer": 4, "kill_client": 1, "kill_primary": 2,
                 "split": 1, "one_way": 1, "slow_peer": 1, "slow_volume": 4, "fill_volume": 1}),
    Scenario("kvdisks", shape=CACHES, workloads=("blocks",), every=1.5, actions={
        "power_one": 2, "power_all": 1, "kill_storage": 1, "rot_block": 5, "slow_volume": 2,
        "fill_volume": 1, "break_volume": 2}),
)}
