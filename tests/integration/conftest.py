"""The fixture that every test with real processes uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.tests.integration.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of a module."""
    made = Cluster(tmp_path_factory.mktemp("module"))
    yield made
    made.destroy()
