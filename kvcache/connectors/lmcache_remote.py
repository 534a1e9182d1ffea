"""LMCache, in-process mode: a remote connector, loaded by `remote_storage_plugins`.

Layer: shell. Whole chunks alone: their size is known before they are read, so they go straight into
LMCache's memory objects. Calls of the store run on threads of LMCache's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

from luciole.errors import Kind, require
from luciole.kvcache.connectors.opening import Opened, settings_of
from luciole.kvcache.hashes import name_key

log = logging.getLogger(__name__)
PREFIX = "luciole."  # of our options among LMCache's `extra_config`
T = TypeVar("T")


class LucioleConnector(RemoteConnector):
    """See the module. Options: `luciole.` + a name of `Settings` (opening.py) in `extra_config`.

    Raises FsError when the engine starts and the cluster cannot be reached.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, local_cpu_backend: LocalCPUBackend,
        config: LMCacheEngineConfig | None,
    ) -> None:
        metadata = local_cpu_backend.metadata
        super().__init__(local_cpu_backend.config, metadata)
        require(not local_cpu_backend.config.use_layerwise, Kind.CONFIG_INVALID,
                "use_layerwise is not supported: chunks are stored whole; set it to false")
        extra = (config.extra_config if config else None) or {}
        settings = settings_of({
            name.removeprefix(PREFIX): value for name, value in extra.items()
            if name.startswith(PREFIX)})
        meaning = {
            "engine": "lmcache", "mode": "in-process", "model": metadata.model_name,
            "shapes": [list(shape) for shape in self.meta_shapes],
            "dtypes": list(map(str, self.meta_dtypes)), "format": str(self.meta_fmt),
            "world": [metadata.worker_id, metadata.world_size],
            "chunk_tokens": metadata.chunk_size}
        self._loop = loop
        self._memory = local_cpu_backend
        self._opened = Opened(settings, metadata.model_name, meaning)
        self._threads = ThreadPoolExecutor(settings.threads, "luciole")

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # Looking up.

    def exists_sync(self, key: CacheEngineKey) -> bool:
        """Whether a chunk is there."""
        return self.batched_contains([key]) == 1

    async def exists(self, key: CacheEngineKey) -> bool:
        """Whether a chunk is there."""
        return await self._run(lambda: self.exists_sync(key))

    def support_batched_contains(self) -> bool:
        """Yes."""
        return True

    def batched_contains(self, keys: list[CacheEngineKey]) -> int:
        """How many chunks are there, from the first on."""
        return self._opened.leading(names_of(keys))

    async def batched_async_contains(
        self, lookup_id: str, keys: list[CacheEngineKey], pin: bool = False
    ) -> int:
        """How many chunks are there, from the first on."""
        return await self._run(lambda: self.batched_contains(keys))

    # Reading.

    async def get(self, key: CacheEngineKey) -> MemoryObj | None:
        """A chunk in memory of LMCache."""
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        """Yes."""
        return True

    async def batched_get(self, keys: list[CacheEngineKey]) -> list[MemoryObj | None]:
        """Chunks in memory of LMCache; None for each that is not there, or has no room."""
        return await self._run(lambda: self._get(keys))

    def _get(self, keys: Sequence[CacheEngineKey]) -> list[MemoryObj | None]:
        found: list[MemoryObj | None] = [
            self._memory.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt) for _ in keys]
        asked = [index for index, each in enumerate(found) if each is not None]
        try:
            came = self._opened.get(
                names_of([keys[index] for index in asked]),
                [_bytes(found[index]) for index in asked])
        except Exception:  # LMCache counts references: none may be lost
            log.exception("reading %d chunks failed", len(asked))
            came = [False] * len(asked)
        for index, ok in zip(asked, came, strict=True):
            each = found[index]
            if not ok and each is not None:
                each.ref_count_down()
                found[index] = None
        return found

    async def batched_get_non_blocking(
        self, lookup_id: str, keys: list[CacheEngineKey]
    ) -> list[MemoryObj]:
        """Chunks from the first on, until one is missing."""
        found = await self.batched_get(keys)
        count = found.index(None) if None in found else len(found)
        for each in found[count:]:
            if each is not None:
                each.ref_count_down()
        return [each for each in found[:count] if each is not None]

    # Storing.

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        """Stores a chunk, if it is a whole one."""
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        """Yes."""
        return True

    async def batched_put(
        self, keys: list[CacheEngineKey], memory_objs: list[MemoryObj]
    ) -> None:
        """Stores those chunks that are whole."""
        whole = [(key, _bytes(each)) for key, each in zip(keys, memory_objs, strict=True)
                 if len(_bytes(each)) == self.full_chunk_size_bytes]
        if whole:
            await self._run(lambda: self._opened.put(
                names_of([key for key, _ in whole]), [data for _, data in whole]))

    # The rest.

    def remove_sync(self, key: CacheEngineKey) -> bool:
        """Removes a chunk."""
        return self._opened.namespace.delete(names_of([key]))[0]

    async def list(self) -> list[str]:
        """Nothing: the store keeps hashes of keys."""
        return []

    async def close(self) -> None:
        """Ends threads and connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._opened.close()


def names_of(keys: Sequence[CacheEngineKey]) -> list[bytes]:
    """The store's keys of LMCache's chunks."""
    return [name_key(key.to_string()) for key in keys]


def _bytes(found: MemoryObj) -> memoryview:
    return memoryview(found.byte_array).cast("B")
