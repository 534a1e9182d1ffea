"""What holds for all tests: those that mount never run beside each other."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts every test marked `mount` into one group, which pytest-xdist gives to one process."""
    for item in items:
        if item.get_closest_marker("mount"):
            item.add_marker(pytest.mark.xdist_group("mount"))
