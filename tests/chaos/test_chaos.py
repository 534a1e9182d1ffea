"""A short run of the chaos harness; `python -m luciole.tests.chaos` makes long ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luciole.tests.chaos import namespaces
from luciole.tests.chaos.content import BLOCK, Known, block, generation_of
from luciole.tests.chaos.worker import differences
from luciole.tests.integration.cluster import needs_fuse


def test_the_checker_sees_what_is_wrong() -> None:
    content = block(7, 0, 5) + block(7, 1, 6)
    assert generation_of(block(7, 1, 6), 7, 1) == 6
    assert differences(content, 7, Known([5, 6])) == ""
    for wrong in (
        content[:-1], content + b"x", bytes(2 * BLOCK), block(7, 1, 6) + block(7, 0, 5),
        block(8, 0, 5) + block(8, 1, 6), block(7, 0, 5) + block(7, 1, 5),
        content[:-1] + bytes([content[-1] ^ 1]),
    ):
        assert differences(wrong, 7, Known([5, 6]))


def run(where: Path, *arguments: str) -> dict[str, list[str]]:
    """The report of a run in which applications noticed nothing."""
    # A process of its own: it starts services that outlive what started them.
    done = subprocess.run(
        [sys.executable, "-m", "luciole.tests.chaos", *arguments, "--json"],
        capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(where)})
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, list[str]] = json.loads(done.stdout)
    assert report["errors"] == report["mismatches"] == report["fsck"] == []
    return report


@pytest.mark.slow
@pytest.mark.mount
@needs_fuse
def test_applications_do_not_notice_that_processes_die(tmp_path: Path) -> None:
    report = run(
        tmp_path, "--minutes", "0.42", "--nodes", "4", "--replicas", "3", "--targets-per-node", "3",
        "--every", "3", "--kill", "storage", "--kill", "mgmtd", "--kill", "meta")
    assert len(report["faults"]) >= 2


@pytest.mark.slow
@pytest.mark.mount
@needs_fuse
def test_applications_do_not_notice_that_networks_part(tmp_path: Path) -> None:
    reason = namespaces.why_not()
    if reason:
        pytest.skip(reason)
    report = run(
        tmp_path, "--minutes", "0.6", "--targets-per-node", "3", "--every", "1.5",
        "--cut-seconds", "5.5", "--kill", "cut-link", "--kill", "cut-manager", "--kill", "one-way",
        "--kill", "cut-storage")
    link, manager = report["faults"][:2]
    assert "parted after" in link
    assert "another leads after" in manager
    assert "not primary" in manager
    assert len(report["faults"]) >= 4
