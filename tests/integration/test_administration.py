"""Nodes out of service and back, managers that die, through the command line."""

from __future__ import annotations

import json
import time

import pytest

from luciole.tests.integration.cluster import Cluster


def status(cluster: Cluster, expect: int = 0) -> dict[str, list[dict[str, object]]]:
    text = cluster.luciole("status", str(cluster.directory.path), "--json", expect=expect)
    found: dict[str, list[dict[str, object]]] = json.loads(text)
    return found


@pytest.mark.slow
def test_nodes_and_managers_come_and_go(cluster: Cluster) -> None:
    where = ["--dir", str(cluster.directory.path)]
    cluster.up("--nodes", "3", "--replicas", "2", "--targets-per-node", "2", "--managers", "2")
    assert "out of service" in cluster.luciole("node", "disable", "101", *where)
    text = cluster.luciole("node", "disable", "102", *where, expect=1)
    assert "the only serving target" in text
    assert "chain" in text
    assert "no such node" in cluster.luciole("node", "drain", "7", *where, expect=1)
    before = status(cluster, 3)
    assert {node["node_id"]: node["state"] for node in before["nodes"]}[101] == "disabled"
    primary = next(manager for manager in before["managers"] if manager["state"] == "primary")
    cluster.kill(str(primary["name"]))
    deadline = time.monotonic() + 20.0
    while True:
        after = status(cluster, 3)
        states = {manager["name"]: manager["state"] for manager in after["managers"]}
        if "primary" in states.values():
            break
        assert time.monotonic() < deadline, states
        time.sleep(0.2)
    assert states[primary["name"]] == "down"
    assert {node["node_id"]: node["state"] for node in after["nodes"]}[101] == "disabled"
    cluster.up()  # healthy but for what was disabled on purpose
    assert "in service again" in cluster.luciole("node", "enable", "101", *where)
    assert "out of service" in cluster.luciole("node", "drain", "102", *where)
    cluster.luciole("node", "enable", "102", *where)
    cluster.up()
    assert {member["state"] for chain in status(cluster)["chains"]
            for member in chain["targets"]} == {"serving"}  # type: ignore[attr-defined]
