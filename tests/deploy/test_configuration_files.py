"""The files in deploy/config are the defaults, to the last key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

import luciole.deploy
from luciole.config import CONFIGS, load

DIRECTORY = Path(luciole.deploy.__file__).parent / "config"


@pytest.mark.parametrize("service", sorted(CONFIGS))
def test_file_equals_the_defaults(service: str) -> None:
    path = DIRECTORY / f"{service}.toml"
    kind = CONFIGS[service]
    assert load(path, kind) == kind()  # type: ignore[type-var]
    assert set(tomllib.loads(path.read_text())) == {
        field.name for field in msgspec.structs.fields(kind)}
