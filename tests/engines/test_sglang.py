"""SGLang's own factory loads the backend; a host pool of plain tensors stands for its pool."""

from __future__ import annotations

import pytest
import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

from luciole.kvcache.connectors.sglang_hicache import LucioleHiCache
from luciole.tests.engines.conftest import Cluster

PAGE_TOKENS, HEADS, WIDTH, LAYERS, TOKENS = 16, 2, 32, 3, 16 * 12
TOKEN_BYTES = 2 * LAYERS * HEADS * WIDTH * 2
MODULE = "luciole.kvcache.connectors.sglang_hicache"


class Pool:
    """What HiCache backends use of `HostKVCache`, for keys and values, pages first."""

    layout = "page_first"
    dtype = torch.float16
    page_size = PAGE_TOKENS

    def __init__(self) -> None:
        self.kv = torch.randn(2, TOKENS, LAYERS, HEADS, WIDTH).to(self.dtype)

    def get_size_per_token(self) -> int:
        return TOKEN_BYTES

    def get_page_buffer_meta(self, indices: torch.Tensor) -> tuple[list[int], list[int]]:
        pointers = [self.kv[part, int(at)].data_ptr()
                    for at in indices[::PAGE_TOKENS] for part in (0, 1)]
        return pointers, [TOKEN_BYTES // 2 * PAGE_TOKENS] * len(pointers)

    def page(self, number: int) -> torch.Tensor:
        return self.kv[:, number * PAGE_TOKENS : (number + 1) * PAGE_TOKENS]


def indices(*pages: int) -> torch.Tensor:
    return torch.cat([torch.arange(page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS)
                      for page in pages])


def backend(cluster: Cluster, pool: Pool, model: str = "tiny", *, mla: bool = False,
            rank: int = 0) -> LucioleHiCache:
    config = HiCacheStorageConfig(
        tp_rank=rank, tp_size=2, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
        is_mla_model=mla, enable_storage_metrics=False, is_page_first_layout=True,
        model_name=model, extra_config={
            "backend_name": "luciole", "module_path": MODULE, "class_name": "LucioleHiCache",
            "interface_v1": 1, "config": str(cluster.config)})
    made = StorageBackendFactory.create_backend("dynamic", config, pool)
    made.register_mem_pool_host(pool)
    assert isinstance(made, LucioleHiCache)
    return made


def test_pages_go_to_another_engine(cluster: Cluster) -> None:
    pool, other = Pool(), Pool()
    keys = [f"{number:064x}" for number in range(1, 5)]
    one = backend(cluster, pool)
    assert one.batch_exists(keys) == 0
    assert one.batch_set_v1(keys[:3], indices(0, 1, 2)) == [True] * 3
    one.close()
    two = backend(cluster, other)
    assert two.batch_exists(keys) == 3
    assert two.exists(keys[0])
    assert two.batch_get_v1(keys, indices(7, 8, 9, 10)) == [True, True, True, False]
    for here, there in zip((0, 1, 2), (7, 8, 9), strict=True):
        assert torch.equal(pool.page(here), other.page(there))
    two.close()


def test_ranks_and_models_do_not_meet_unless_their_bytes_are_equal(cluster: Cluster) -> None:
    pool, keys = Pool(), ["a" * 64]
    engines = [backend(cluster, pool, "mla", mla=True, rank=rank) for rank in (0, 1)]
    assert engines[1].batch_set_v1(keys, indices(0)) == [True]  # rank 0 writes for all
    assert engines[1].batch_exists(keys) == 0
    assert engines[0].batch_set_v1(keys, indices(0)) == [True]
    assert engines[1].batch_exists(keys) == 1
    ranks = [backend(cluster, pool, rank=rank) for rank in (0, 1)]
    assert ranks[0].batch_set_v1(keys, indices(0)) == [True]
    assert ranks[1].batch_exists(keys) == 0
    for each in (*engines, *ranks):
        each.close()


def test_keys_of_other_schemes_and_single_tensors(cluster: Cluster) -> None:
    engine = backend(cluster, Pool(), "single")
    value, target = torch.arange(100.0), torch.zeros(100)
    assert engine.set("abc_ukv1-0123_L0-3", value)
    assert engine.get("abc_ukv1-0123_L0-3", target) is target
    assert torch.equal(value, target)
    assert engine.get("unknown", torch.zeros(100)) is None
    engine.close()


def test_a_dead_node_is_a_miss(cluster: Cluster) -> None:
    engine = backend(cluster, Pool(), "dead")
    keys = [f"{number:064x}" for number in (1, 2)]
    assert engine.batch_set_v1(keys, indices(0, 1)) == [True] * 2
    cluster.kill_storage()
    try:
        assert engine.batch_exists(keys) == 0
        assert engine.batch_get_v1(keys, indices(2, 3)) == [False] * 2
        assert engine.batch_set_v1(keys, indices(0, 1)) == [False] * 2
    finally:
        cluster.up()
        engine.close()


@pytest.mark.parametrize("options", [{}, {"config": "x", "speed": 11}])
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
        is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=True,
        model_name="tiny", extra_config=options)
    with pytest.raises(Exception, match="the connector's options are wrong"):
        LucioleHiCache(config, {})
