"""The KV cache on a real cluster: processes at once, a killed node, a flipped bit, a restart.

`LUCIOLE_KV_SECONDS=300` makes the test of eight processes as long as that.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.store import Namespace, Store, open_trio_store
from luciole.tests.integration.cluster import Cluster
from luciole.tests.kvcache.volumes import content, key

SECONDS = float(os.environ.get("LUCIOLE_KV_SECONDS", "10"))
WORKERS = 8
BLOCK = 64 * 1024
BLOCKS = 2048  # the working set
QUOTA = BLOCKS * BLOCK // 8
NAMES = [key(number) for number in range(60)]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def up(cluster: Cluster, *options: str) -> Store:
    cluster.up("--nodes", "3", "--replicas", "1", "--targets-per-node", "1",
               "--kv-capacity", "200M", *options)
    return Store(cluster.directory.client_config())


def kv(cluster: Cluster, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cluster.luciole(
        "kv", *arguments, "--dir", str(cluster.directory.path), "--json"))
    return found


def made(cluster: Cluster, store: Store, name: str, *options: str) -> Namespace:
    """A namespace that every volume knows."""
    kv(cluster, "create", name, *options)
    namespace = store.namespace(name)
    probes = [key(number) for number in range(10_000, 10_100)]
    until(lambda: all(outcome.ok for outcome in namespace.put(probes, [b"x"] * len(probes))),
          "the volumes learn of the namespace")
    namespace.delete(probes)
    return namespace


def fill(namespace: Namespace) -> None:
    results = namespace.put(NAMES, [content(name, BLOCK) for name in NAMES])
    assert results == [Outcome.STORED] * len(NAMES)


def read(namespace: Namespace, deadline: float = 10.0) -> list[Outcome]:
    buffers = [bytearray(BLOCK) for _ in NAMES]
    outcomes = namespace.get(NAMES, buffers, deadline=deadline)
    for name, buffer, outcome in zip(NAMES, buffers, outcomes, strict=True):
        assert not outcome.ok or bytes(buffer) == content(name, BLOCK)
    return outcomes


def total(cluster: Cluster, name: str) -> dict[str, int]:
    found = kv(cluster, "stat", name)["total"]
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_eight_processes_share_a_namespace_within_its_quota(cluster: Cluster) -> None:
    with up(cluster) as store:
        made(cluster, store, "shared", "--quota", str(QUOTA))
        config = str(cluster.directory.config_file("client"))
        workers = [subprocess.Popen(
            [sys.executable, "-m", "luciole.tests.kvcache.worker", config, "shared", str(seed),
             str(SECONDS), str(BLOCKS), str(BLOCK)], stdout=subprocess.PIPE, text=True)
            for seed in range(WORKERS)]
        try:
            reports = [json.loads(worker.communicate(timeout=SECONDS + 60)[0])
                       for worker in workers]
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    worker.kill()
                worker.wait(10)
        counts = {name: sum(report["counts"].get(name, 0) for report in reports)
                  for report in reports for name in report["counts"]}
        assert [report["wrong"] for report in reports] == [[]] * WORKERS
        # What was matched under a lease was read, every block of it.
        assert counts["get HIT"] == counts["matched"] > 0
        assert {name for name in counts if name.startswith("get")} == {"get HIT"}
        stats = total(cluster, "shared")
        assert stats["evicted"] > 0
        assert stats["used_bytes"] <= QUOTA
        # Leases are released, so there is nearly always something that can go.
        assert counts.get("put REFUSED", 0) < 0.01 * counts["put STORED"]
        assert stats["used_bytes"] >= 0.98 * QUOTA or SECONDS < 20
        assert stats["damaged"] == 0
    assert cluster.fsck() == []


@pytest.mark.slow
def test_a_killed_node_costs_misses_and_comes_back_with_its_blocks(cluster: Cluster) -> None:
    with up(cluster) as store:
        namespace = made(cluster, store, "kill")
        fill(namespace)
        assert read(namespace) == [Outcome.HIT] * len(NAMES)
        cluster.kill("storage-2")
        for _ in range(10):
            began = time.monotonic()
            outcomes = read(namespace, deadline=1.0)
            assert time.monotonic() - began < 1.6
            assert {Outcome.HIT} < set(outcomes)
            assert namespace.match_prefix(NAMES, deadline=1.0).count < len(NAMES)
        # When routing has learnt of it, others take its part.
        until(lambda: len(store.cluster.routing.current().kv_volumes()) == 2, "the node fails")
        assert all(outcome.ok for outcome in namespace.put(
            NAMES, [content(name, BLOCK) for name in NAMES]))
        assert read(namespace) == [Outcome.HIT] * len(NAMES)
        namespace.delete(NAMES)
        cluster.up()
        until(lambda: len(store.cluster.routing.current().kv_volumes()) == 3, "the node returns")
        until(lambda: Outcome.UNREACHABLE not in read(namespace), "the node answers")
        # What it had when it was killed is there; the rest was deleted meanwhile.
        assert read(namespace).count(Outcome.HIT) == outcomes.count(Outcome.UNREACHABLE)
    assert cluster.fsck() == []


@pytest.mark.slow
def test_restarts_keep_blocks_and_flipped_bytes_are_misses(cluster: Cluster) -> None:
    with up(cluster) as store:
        namespace = made(cluster, store, "keep")
        fill(namespace)
    cluster.down()
    with up(cluster) as store:
        namespace = store.namespace("keep")
        assert read(namespace) == [Outcome.HIT] * len(NAMES)
        flipped = flip(cluster.directory.path, content(NAMES[7], BLOCK))
        assert flipped == 1
        outcomes = read(namespace)
        assert outcomes.pop(7) is Outcome.DAMAGED
        assert set(outcomes) == {Outcome.HIT}
        assert total(cluster, "keep")["damaged"] == 1
        assert read(namespace)[7] is Outcome.MISS
        trio.run(read_under_trio, store)
        kv(cluster, "evict", "keep")
        assert total(cluster, "keep")["blocks"] == 0
        kv(cluster, "drop", "keep")
        assert kv(cluster, "list")["namespaces"] == []
    assert cluster.fsck() == []


def flip(root: Path, data: bytes) -> int:
    """Changes a byte of a block wherever it lies; how many copies were found."""
    found = 0
    for path in root.glob("storage-*/disk0/kvcache/blocks"):
        with path.open("r+b") as file:
            at = file.read().find(data)
            if at >= 0:
                file.seek(at + 1000)
                file.write(bytes([data[1000] ^ 255]))
                found += 1
    return found


async def read_under_trio(store: Store) -> None:
    async with open_trio_store(store.cluster.config) as trio_store:
        blocks = await trio_store.namespace("keep")
        buffers = [bytearray(BLOCK) for _ in NAMES]
        outcomes = await blocks.get(NAMES, buffers)
        assert outcomes.count(Outcome.HIT) == len(NAMES) - 1
        match = await blocks.match_prefix(NAMES, lease=5.0)
        assert match.count == 7
        assert match.lease is not None
        await blocks.release(match.lease)
