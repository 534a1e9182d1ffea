"""What holds for all tests: those that use what a machine has once never run beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Local clusters choose free ports, and mounts share the kernel's table of them.
USES_THE_MACHINE = (HERE / "deploy", HERE / "integration")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts such tests into one group, which pytest-xdist gives to one of its processes."""
    for item in items:
        uses_ports = any(item.path.is_relative_to(folder) for folder in USES_THE_MACHINE)
        if uses_ports or item.get_closest_marker("mount"):
            item.add_marker(pytest.mark.xdist_group("machine"))
