"""`luciole bench` from the command line, on the local disk alone: no peer has to be installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = 14
RUN_SECONDS = 120


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "luciole.deploy", "bench", *options],
        check=False, capture_output=True, text=True, timeout=RUN_SECONDS, env=os.environ)


def test_options_are_the_comparisons_own() -> None:
    shown = bench("-h")
    assert shown.returncode == 0
    assert "--durability" in shown.stdout
    assert bench("--size", "33").returncode == 2


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    refused = bench("--sides", "nothing", "--out", str(tmp_path / "out"))
    assert refused.returncode == 1
    assert "no side is left" in refused.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_disk_alone_gives_all_rows(tmp_path: Path) -> None:
    made = bench("--sides", "disk", "--size", "32", "--files", "5", "--rounds", "2",
                 "--out", str(tmp_path))
    assert made.returncode == 0, made.stdout + made.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = {row["name"]: [one["disk"]["rate"] for one in row["rounds"]]
             for row in figures["rows"]}
    assert len(rates) == ROWS
    assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert all(rate > 0 for rate in figures["ceilings"].values())
    assert "What luciole reaches" not in made.stdout  # where it took no part
