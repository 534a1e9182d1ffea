"""The preferred order comes back: a replica that was the head may become the tail."""

from __future__ import annotations

from luciole.tests.sim.cluster import SERVING, SimCluster, simulate
from luciole.tests.sim.network import Fault, Loss, sound
from luciole.tests.storage.test_chain import forwards, read, write


def test_a_former_head_does_not_commit_alone_what_it_could_not_pass_on() -> None:
    async def scenario(cluster: SimCluster) -> None:
        await write(cluster, 1, b"old")
        cluster.network.rule = forwards(  # type: ignore[assignment]
            1, 2, Fault(loss=Loss.REQUEST), times=1000)
        result = await write(cluster, 1, b"new", sequence=1, timeout=0.5)
        assert result.HasField("error")
        cluster.set_chain((2, SERVING), (3, SERVING), (1, SERVING))
        found = [await read(cluster, node, 3) for node in (2, 3, 1, 2, 3)]
        assert found == [b"old"] * 5  # not once the new content, then the old again
        cluster.network.rule = sound
        result = await write(cluster, 2, b"new", sequence=1)
        assert not result.HasField("error")
        assert {await read(cluster, node, 3) for node in (1, 2, 3)} == {b"new"}
        await cluster.same_everywhere()

    simulate(scenario)
