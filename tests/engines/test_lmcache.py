"""LMCache's own loaders, both ways, with its own memory objects."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.config import get_type_name_for_config
from lmcache.v1.distributed.l2_adapters.factory import create_l2_adapter_from_registry
from lmcache.v1.distributed.l2_adapters.plugin_l2_adapter import PluginL2AdapterConfig
from lmcache.v1.memory_allocators.ad_hoc_memory_allocator import AdHocMemoryAllocator
from lmcache.v1.memory_management import MemoryFormat, MemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import CreateConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

from luciole.tests.engines.conftest import Cluster

LAYERS, TOKENS, HEADS, WIDTH = 2, 64, 2, 16
SHAPE = torch.Size([2, LAYERS, TOKENS, HEADS * WIDTH])
WAIT_S = 20.0
T = TypeVar("T")


def memory(fill: float | None = None) -> MemoryObj:
    made = AdHocMemoryAllocator("cpu").allocate(
        [SHAPE], [torch.float32], fmt=MemoryFormat.KV_2LTD)
    assert made is not None
    made.tensor.fill_(fill) if fill is not None else made.tensor.zero_()
    return made


@pytest.fixture
def adapter(cluster: Cluster) -> Iterator[Any]:
    config = PluginL2AdapterConfig.from_dict({
        "type": "plugin", "module_path": "luciole.kvcache.connectors.lmcache_l2",
        "class_name": "LucioleL2Adapter", "adapter_params": {"config": str(cluster.config)}})
    assert get_type_name_for_config(config) == "plugin"
    made = create_l2_adapter_from_registry(config)
    yield made
    made.close()


def wait_for(event: int, ask: Callable[[], T]) -> T:
    """Waits as LMCache's controllers do."""
    assert select.select([event], [], [], WAIT_S)[0]
    os.eventfd_read(event)
    found = ask()
    assert found
    return found


def test_l2_stores_finds_and_loads(adapter: Any) -> None:
    keys = [ObjectKey(bytes([number]) * 32, "org/tiny", 1, cache_salt="s") for number in range(4)]
    task = adapter.submit_store_task(keys[:3], [memory(1.0 + number) for number in range(3)])
    done = wait_for(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)
    assert done[task].is_successful()
    assert done[task].bytes_transferred() == 3 * SHAPE.numel() * 4
    assert adapter.pop_completed_store_tasks() == {}
    task = adapter.submit_lookup_and_lock_task([keys[3], *keys[:3]], {})
    bits = wait_for(adapter.get_lookup_and_lock_event_fd(),
                    lambda: adapter.query_lookup_and_lock_result(task))
    assert [bits.test(index) for index in range(4)] == [False, True, True, True]
    assert adapter.query_lookup_and_lock_result(task) is None
    targets = [memory() for _ in range(4)]
    task = adapter.submit_load_task(keys, targets)
    bits = wait_for(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))
    assert [bits.test(index) for index in range(4)] == [True, True, True, False]
    for number in range(3):
        assert torch.all(targets[number].tensor == 1.0 + number)
    adapter.submit_unlock(keys)
    adapter.delete(keys[:1])
    task = adapter.submit_lookup_and_lock_task(keys[:2], {})
    bits = wait_for(adapter.get_lookup_and_lock_event_fd(),
                    lambda: adapter.query_lookup_and_lock_result(task))
    assert [bits.test(0), bits.test(1)] == [False, True]
    other = ObjectKey(bytes([1]) * 32, "org/tiny", 1, cache_salt="another")
    task = adapter.submit_lookup_and_lock_task([other], {})
    bits = wait_for(adapter.get_lookup_and_lock_event_fd(),
                    lambda: adapter.query_lookup_and_lock_result(task))
    assert not bits.test(0)


@pytest.fixture
def remote(cluster: Cluster) -> Iterator[tuple[Any, LocalCPUBackend, Callable[..., Any]]]:
    name = "remote_storage_plugin.luciole"
    config = LMCacheEngineConfig.from_defaults(
        chunk_size=TOKENS, local_cpu=True, max_local_cpu_size=0.1,
        remote_storage_plugins=["luciole"], extra_config={
            f"{name}.module_path": "luciole.kvcache.connectors.lmcache_remote",
            f"{name}.class_name": "LucioleConnector", "luciole.config": str(cluster.config)})
    metadata = LMCacheMetadata(
        model_name="org/tiny", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
        kv_dtype=torch.float32, kv_shape=(LAYERS, 2, TOKENS, HEADS, WIDTH), chunk_size=TOKENS)
    backend = LocalCPUBackend(
        config, metadata, dst_device="cpu", memory_allocator=AdHocMemoryAllocator("cpu"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT_S)

    connector = CreateConnector("plugin://luciole", loop, backend, config, metadata, "luciole")
    yield connector, backend, call
    call(connector.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


def test_remote_connector_keeps_whole_chunks(remote: Any) -> None:
    connector, _, call = remote
    keys = [CacheEngineKey("org/tiny", 1, 0, number, torch.float32) for number in range(10, 14)]
    assert not connector.exists_sync(keys[0])
    assert call(connector.get(keys[0])) is None
    call(connector.batched_put(keys[:3], [memory(5.0 + number) for number in range(3)]))
    assert call(connector.exists(keys[2]))
    assert connector.batched_contains(keys) == 3
    assert call(connector.batched_async_contains("lookup", keys)) == 3
    found = call(connector.batched_get(keys))
    assert found[3] is None
    for number in range(3):
        assert torch.all(found[number].tensor == 5.0 + number)
    assert len(call(connector.batched_get_non_blocking("lookup", [keys[0], keys[3], keys[1]]))) == 1
    assert connector.remove_sync(keys[0])
    assert connector.batched_contains(keys) == 0
