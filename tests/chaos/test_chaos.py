"""A short run of the chaos harness; `python -m luciole.tests.chaos` makes long ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from luciole.tests.chaos.content import BLOCK, Known, block, generation_of
from luciole.tests.chaos.harness import Plan, Run
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


@pytest.mark.slow
@pytest.mark.mount
@needs_fuse
def test_applications_do_not_notice_that_processes_die(tmp_path: Path) -> None:
    plan = Plan(
        seconds=25.0, nodes=4, replicas=3, targets_per_node=3, every_seconds=3.0,
        kills=("storage", "mgmtd", "storage", "meta"))
    report = Run(plan, tmp_path).execute()
    assert report.ok, msgspec.json.format(msgspec.json.encode(report)).decode()
    assert len(report.faults) >= 2
