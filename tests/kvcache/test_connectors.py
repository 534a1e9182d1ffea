"""What all connectors share. Each of them is tested in its engine (tests/engines)."""

from __future__ import annotations

import pytest

from luciole.errors import FsError, Kind
from luciole.kvcache.connectors.opening import Settings, name_of, settings_of
from luciole.mgmtd.core.kv_namespaces import settled
from luciole.proto import mgmtd_pb2


def test_options_are_read_and_wrong_ones_are_named() -> None:
    assert settings_of({"config": "a.toml", "threads": 2}) == Settings(config="a.toml", threads=2)
    for options, word in (({}, "config"), ({"config": 3}, "config"),
                          ({"config": "a", "speed": 1}, "speed")):
        with pytest.raises(FsError, match=word) as failure:
            settings_of(options)
        assert failure.value.kind == Kind.CONFIG_INVALID


def test_a_namespace_has_one_meaning() -> None:
    meaning = {"dtype": "bf16", "rank": [0, 2]}
    name, text = name_of("llama", meaning)
    assert name_of("llama", dict(reversed(meaning.items()))) == (name, text)
    assert "bf16" in text
    assert name_of("llama", meaning | {"rank": [1, 2]})[0] != name
    assert name_of("other", meaning)[0] != name


@pytest.mark.parametrize("prefix", [
    "org/model-70B", "/models/x y/", "", "...", "é", "a" * 51 + "-b" * 9, "x" * 300])
def test_the_manager_takes_every_name(prefix: str) -> None:
    name, _ = name_of(prefix, {"model": prefix})
    assert settled(mgmtd_pb2.KvNamespace(name=name), [], 1).name == name
