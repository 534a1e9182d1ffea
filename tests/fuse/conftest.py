"""A filesystem in memory, mounted through each binding in turn, and a directory for each test."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.tests.fuse.mounted import BINDINGS, mounted


@pytest.fixture(scope="module", params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def root(binding: str) -> Iterator[Path]:
    # pytest's own directories are closed to other users, who are to reach this one.
    place = Path(tempfile.mkdtemp(prefix="luciole-test-"))
    place.chmod(0o755)
    try:
        with mounted(binding, place):
            yield place
    finally:
        place.rmdir()


@pytest.fixture
def place(root: Path, request: pytest.FixtureRequest) -> Path:
    """A directory for one test."""
    made = root / re.sub(r"\W", "_", str(request.node.name))
    made.mkdir()
    return made
