"""SGLang: a HiCache storage backend, loaded as `dynamic` with `interface_v1`.

Layer: shell. A page is one block; its pieces (K and V, or one for each layer) lie in SGLang's host
pool, and bytes go from and to them without a copy here. SGLang calls from two threads of its own,
which may wait. Every failure is a page that is not there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
)

from luciole.errors import FsError, Kind
from luciole.kvcache.connectors.opening import Opened, settings_of
from luciole.kvcache.hashes import name_key

if TYPE_CHECKING:
    from sglang.srt.mem_cache.pool_host import HostKVCache

HASH_DIGITS = 64
# Keys of SGLang's configuration that are not ours.
_SGLANGS = frozenset({
    "backend_name", "module_path", "class_name", "interface_v1", "prefetch_threshold",
    "prefetch_timeout_base", "prefetch_timeout_per_ki_token", "hicache_storage_pass_prefix_keys"})


class LucioleHiCache(HiCacheStorage):
    """See the module. Options beside SGLang's own: `Settings` (opening.py).

    Raises FsError when the engine starts and the cluster cannot be reached.
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Mapping[str, object]) -> None:
        extra = storage_config.extra_config or {}
        self._config = storage_config
        self._settings = settings_of(
            {name: value for name, value in extra.items() if name not in _SGLANGS})
        self._opened: Opened | None = None
        self._page_bytes = 0

    def register_mem_pool_host(self, mem_pool_host: HostKVCache) -> None:
        """Opens the namespace of this pool's layout."""
        super().register_mem_pool_host(mem_pool_host)
        config, pool = self._config, mem_pool_host
        meaning = {
            "engine": "sglang", "model": config.model_name, "layout": pool.layout,
            "dtype": str(pool.dtype), "page_tokens": pool.page_size,
            "token_bytes": pool.get_size_per_token(), "mla": config.is_mla_model,
            "pipeline": [config.pp_rank, config.pp_size],
            "context": [config.attn_cp_rank, config.attn_cp_size],
            "decode_context": [config.dcp_rank, config.dcp_size],
            # All ranks of an MLA model hold the same bytes.
            "tensor": None if config.is_mla_model else [config.tp_rank, config.tp_size]}
        if self._opened is not None:
            self._opened.close()
        self._opened = Opened(self._settings, config.model_name or "sglang", meaning)

    def _store(self) -> Opened:
        if self._opened is None:
            raise FsError(Kind.INVALID_ARGUMENT, "SGLang registered no host pool: interface_v1 "
                          "must be 1 in --hicache-storage-backend-extra-config")
        return self._opened

    def _pages(self, host_indices: torch.Tensor, count: int) -> list[list[memoryview]]:
        """The pieces of each page in the host pool."""
        pointers, sizes = self.mem_pool_host.get_page_buffer_meta(host_indices)
        each = len(pointers) // count
        views = [_view(pointer, size) for pointer, size in zip(pointers, sizes, strict=True)]
        return [views[at : at + each] for at in range(0, len(views), each)]

    def batch_exists(
        self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None
    ) -> int:
        """How many pages are there, from the first on."""
        return self._store().leading([key_of(key) for key in keys])

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> list[bool]:
        """Fills pages of the host pool."""
        if not keys:
            return []
        pages = self._pages(host_indices, len(keys))
        return self._store().get([key_of(key) for key in keys], pages)

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> list[bool]:
        """Stores pages of the host pool. Of an MLA model one rank does it."""
        if not keys:
            return []
        if not self._config.is_storage_writer:
            return [True] * len(keys)
        pages = self._pages(host_indices, len(keys))
        return self._store().put([key_of(key) for key in keys], pages)

    # The interface without pools: SGLang's contract asks for it, interface_v1 does not use it.

    def get(
        self, key: str, target_location: torch.Tensor | None = None, target_sizes: object = None
    ) -> torch.Tensor | None:
        """Fills one tensor."""
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: Sequence[torch.Tensor | None] | None = None,
        target_sizes: object = None,
    ) -> list[torch.Tensor | None]:
        """Fills tensors; None for each that is not there."""
        targets = list(target_locations or [])
        if not keys or len(targets) != len(keys) or any(target is None for target in targets):
            return [None] * len(keys)
        came = self._store().get([key_of(key) for key in keys], targets)
        return [target if ok else None for target, ok in zip(targets, came, strict=True)]

    def set(
        self, key: str, value: torch.Tensor | None = None, target_location: object = None,
        target_sizes: object = None,
    ) -> bool:
        """Stores one tensor."""
        return value is not None and self.batch_set([key], [value])

    def batch_set(
        self, keys: list[str], values: Sequence[torch.Tensor] | None = None,
        target_locations: object = None, target_sizes: object = None,
    ) -> bool:
        """Stores tensors; whether all are there."""
        if values is None:
            return False
        return all(self._store().put([key_of(key) for key in keys],
                                     [value.contiguous() for value in values]))

    def exists(self, key: str) -> bool:
        """Whether a page is there."""
        return self.batch_exists([key]) == 1

    def close(self) -> None:
        """Ends its connections."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def key_of(key: str) -> bytes:
    """SGLang's page hash as bytes; keys of its other schemes are hashed to the same length."""
    if len(key) == HASH_DIGITS:
        try:
            return bytes.fromhex(key)
        except ValueError:
            pass
    return name_key("sglang", key)


def _view(pointer: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(pointer)).cast("B")
