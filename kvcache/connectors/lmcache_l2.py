"""LMCache, multi-process mode: an L2 adapter, loaded as `plugin`.

Layer: shell. LMCache's controllers submit tasks and poll event descriptors; tasks run on threads of
ours, between the store and LMCache's own memory objects. Nothing is locked: a lookup counts as a
use, which keeps blocks from eviction for long, and what goes nevertheless is a miss.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L1MemoryDesc, L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface, L2TaskId
from lmcache.v1.memory_management import MemoryObj

from luciole.kvcache.connectors.opening import Opened, settings_of
from luciole.kvcache.hashes import name_key

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Results(Generic[T]):
    """Results of one kind of task, and the descriptor that tells of them."""

    def __init__(self) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._guard = threading.Lock()
        self._done: dict[L2TaskId, T] = {}

    def add(self, task: L2TaskId, result: T) -> None:
        with self._guard:
            self._done[task] = result
        os.eventfd_write(self.event, 1)

    def take(self, task: L2TaskId) -> T | None:
        with self._guard:
            return self._done.pop(task, None)

    def take_all(self) -> dict[L2TaskId, T]:
        with self._guard:
            done, self._done = self._done, {}
        return done


class LucioleL2Adapter(L2AdapterInterface):
    """See the module. `adapter_params`: `Settings` (opening.py).

    Raises FsError when the server starts and the cluster cannot be reached.
    """

    def __init__(
        self, params: Mapping[str, object], l1_memory_desc: L1MemoryDesc | None = None
    ) -> None:
        super().__init__()
        settings = settings_of(params)
        # LMCache's keys name model, rank, group and salt. What they leave out (types, layout, size
        # of chunks) is one for a server, so a namespace is said to have one.
        self._opened = Opened(settings, "lmcache", {"engine": "lmcache", "mode": "mp"})
        self._numbers = itertools.count(1)
        self._stored: _Results[L2StoreResult] = _Results()
        self._found: _Results[Bitmap] = _Results()
        self._loaded: _Results[Bitmap] = _Results()
        self._threads = ThreadPoolExecutor(settings.threads, "luciole l2")

    def get_store_event_fd(self) -> int:
        """Tells of stored tasks."""
        return self._stored.event

    def get_lookup_and_lock_event_fd(self) -> int:
        """Tells of lookups."""
        return self._found.event

    def get_load_event_fd(self) -> int:
        """Tells of loads."""
        return self._loaded.event

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Begins to store objects."""
        sizes = [len(_bytes(each)) for each in objects]

        def store() -> L2StoreResult:
            done = self._opened.put(names_of(keys), [_bytes(each) for each in objects])
            stored = [index for index, ok in enumerate(done) if ok]
            self._notify_keys_stored(
                [keys[index] for index in stored], [sizes[index] for index in stored])
            return L2StoreResult(all(done), sum(sizes[index] for index in stored))

        return self._submit(self._stored, store, lambda: L2StoreResult(False, 0))

    def pop_completed_store_tasks(self) -> dict[L2TaskId, L2StoreResult]:
        """Results that came since the last call."""
        return self._stored.take_all()

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> L2TaskId:
        """Begins to look objects up."""
        return self._submit(
            self._found, lambda: _bitmap(self._opened.touch(names_of(keys))),
            lambda: Bitmap(len(keys)))

    def query_lookup_and_lock_result(self, task_id: L2TaskId) -> Bitmap | None:
        """The result of a lookup, once."""
        return self._found.take(task_id)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Nothing is held: what goes between lookup and load is a miss."""

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Begins to fill objects."""
        return self._submit(
            self._loaded,
            lambda: _bitmap(self._opened.get(names_of(keys), [_bytes(each) for each in objects])),
            lambda: Bitmap(len(keys)))

    def query_load_result(self, task_id: L2TaskId) -> Bitmap | None:
        """The result of a load, once."""
        return self._loaded.take(task_id)

    def delete(self, keys: list[ObjectKey]) -> None:
        """Removes objects."""
        self._opened.namespace.delete(names_of(keys))

    def close(self) -> None:
        """Ends threads, connections and descriptors."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._opened.close()
        for results in (self._stored, self._found, self._loaded):
            os.close(results.event)

    def _submit(
        self, results: _Results[T], work: Callable[[], T], failed: Callable[[], T]
    ) -> L2TaskId:
        task = next(self._numbers)

        def run() -> None:
            try:
                result = work()
            except Exception:  # LMCache waits for a result of every task
                log.exception("a task of the L2 adapter failed")
                result = failed()
            results.add(task, result)

        self._threads.submit(run)
        return task


def names_of(keys: Sequence[ObjectKey]) -> list[bytes]:
    """The store's keys of LMCache's objects."""
    return [name_key(key.model_name, key.kv_rank, key.object_group_id, key.cache_salt,
                     key.chunk_hash) for key in keys]


def _bytes(found: MemoryObj) -> memoryview:
    return memoryview(found.byte_array).cast("B")


def _bitmap(bits: Sequence[bool]) -> Bitmap:
    bitmap = Bitmap(len(bits))
    for index, bit in enumerate(bits):
        if bit:
            bitmap.set(index)
    return bitmap
