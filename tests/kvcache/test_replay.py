"""Traces are read, made and replayed, and what a replay counts is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from luciole.deploy.cli import main
from luciole.deploy.kv_replay import replay
from luciole.deploy.kv_trace import BLOCK_TOKENS, Request, generate, read_trace, write_trace
from luciole.deploy.output import silent
from luciole.errors import FsError
from luciole.tests.kvcache.world import World

PUBLISHED = (
    '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 48]}\n')


def test_the_public_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(PUBLISHED)
    assert read_trace(path, 0) == [
        Request(27482, 6955, 52, [46, 47]), Request(30535, 6472, 26, [46, 48])]
    assert len(read_trace(path, 1)) == 1
    path.write_text(PUBLISHED + '{"timestamp": 1}\n')
    with pytest.raises(FsError, match="line 3"):
        read_trace(path, 0)
    with pytest.raises(FsError, match="cannot read"):
        read_trace(tmp_path / "none", 0)


def test_generated_traces_share_prefixes_and_repeat(tmp_path: Path) -> None:
    made = list(generate(300, 5))
    assert made == list(generate(300, 5)) != list(generate(300, 6))
    assert write_trace(tmp_path / "t", iter(made)) == 300
    assert read_trace(tmp_path / "t", 0) == made
    seen: set[int] = set()
    shared = total = 0
    for request in made:
        new = [number not in seen for number in request.hash_ids]
        # What was seen before stands at the begin: it is a prefix that is shared.
        assert new == sorted(new)
        shared, total = shared + new.count(False), total + len(new)
        seen.update(request.hash_ids)
        assert (len(request.hash_ids) - 1) * BLOCK_TOKENS < request.input_length
        assert request.input_length <= len(request.hash_ids) * BLOCK_TOKENS
    assert 0.4 < shared / total < 0.95
    assert [request.timestamp for request in made] == sorted(r.timestamp for r in made)


def test_a_replay_counts_hits_and_saved_tokens(tmp_path: Path) -> None:
    world = World(tmp_path, 2, slabs=8)
    try:
        requests = [Request(0, 1024, 1, [1, 2]), Request(1, 1500, 1, [1, 2, 3]),
                    Request(2, 512, 1, [9]), Request(3, 1500, 1, [1, 2, 3])]
        result = replay(world.namespace, requests, 1000, silent)
        assert (result.requests, result.blocks) == (4, 9)
        assert result.hit_blocks == 0 + 2 + 0 + 3
        assert result.stored_blocks == 4
        assert result.saved_tokens == 1024 + 1500
        assert result.lost_blocks == result.wrong_blocks == 0
        assert result.curve[-1][1:] == (5, 9)
        assert result.lookup.count == 4
        assert result.plain()["hit_rate"] == pytest.approx(5 / 9)
        assert not any(len(volume.leases) for volume in world.volumes.values())
    finally:
        world.close()


def test_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["kv"], *(["kv", name] for name in (
            "create", "set", "list", "stat", "drop", "evict", "bench", "replay"))):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        assert "example: luciole kv" in capsys.readouterr().out
    assert main(["kv", "replay"]) == 1
    assert "name a trace" in capsys.readouterr().err
