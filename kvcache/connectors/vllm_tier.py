"""vLLM: a secondary tier behind its CPU cache (`secondary_tiers` of its OffloadingConnector).

Layer: shell. vLLM calls from its scheduler's thread, which nothing here makes wait: lookups go
through vLLM's own AsyncLookupManager, one batch for each step; transfers run on threads of ours.
Chunks are rows of one arena, and go from and to it without a copy here. A chunk that does not come
is looked up no more for its requests, and is computed.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import ClassVar

from vllm.v1.kv_offload.base import (
    LookupResult,
    Medium,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from luciole.kvcache.connectors.opening import Opened, settings_of

log = logging.getLogger("vllm.luciole")
Transfer = Callable[[Sequence[bytes], Sequence[memoryview]], list[bool]]


class _Lookups(AsyncLookupManager):
    """Asks the store on vLLM's lookup thread."""

    def __init__(self, opened: Opened, tier_type: str) -> None:
        self._opened = opened
        super().__init__(tier_type=tier_type)

    def batch_lookup(self, keys: list[OffloadKey], req_context: ReqContext) -> Iterable[bool]:
        """Which chunks are there."""
        return self._opened.exists(keys)


class LucioleTier(SecondaryTierManager):
    """See the module. Options: `Settings` (opening.py).

    Raises FsError when the engine starts and the cluster cannot be reached.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self, offloading_spec: OffloadingSpec, primary_kv_view: memoryview, tier_type: str,
        backpressure_detector: BackpressureDetector | None = None, **options: object,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        # vLLM's own account of what makes chunks interchangeable.
        mapper = FileMapper.from_offloading_spec(
            root_dir="", offloading_spec=offloading_spec,
            blocks_per_file=offloading_spec.blocks_per_chunk, parallel_agnostic=True)
        meaning = mapper.get_run_config() | {
            "rank": mapper.rank, "chunk_bytes": self.block_size_bytes}
        settings = settings_of(options)
        self._opened = Opened(settings, str(mapper.fields["model_name"]), meaning)
        self._arena = primary_kv_view.cast("B")
        self._lookups = _Lookups(self._opened, tier_type)
        self._threads = ThreadPoolExecutor(settings.threads, "luciole tier")
        self._running: set[Future[None]] = set()
        self._done: queue.SimpleQueue[tuple[JobResult, list[OffloadKey]]] = queue.SimpleQueue()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """RETRY until the step's batch is back."""
        found = self._lookups.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Chunks are stored as they come."""
        return RequestOffloadingContext()

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Sends the step's lookups."""
        self._lookups.flush()

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forgets what was looked up for a request."""
        self._lookups.cleanup(req_context.req_id)

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Begins to store chunks of the arena."""
        self._submit(job_metadata, self._opened.put)

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Begins to fill chunks of the arena."""
        self._submit(job_metadata, self._opened.get)

    def _submit(self, job: TransferJob, transfer: Transfer) -> None:
        self._running = {future for future in self._running if not future.done()}
        self._running.add(self._threads.submit(self._run, job, transfer))

    def _run(self, job: TransferJob, transfer: Transfer) -> None:
        keys, size, began = list(job.keys), self.block_size_bytes, time.monotonic()
        rows = [self._arena[at : at + size] for at in (int(row) * size for row in job.chunk_ids)]
        try:
            came = transfer(keys, rows)
        except Exception:  # the scheduler waits for a result of every job
            log.exception("a transfer of %d chunks failed", len(keys))
            came = [False] * len(keys)
        good = [key for key, ok in zip(keys, came, strict=True) if ok]
        result = JobResult(
            job_id=job.job_id, success=all(came),
            successful_keys=tuple(good) if job.is_promotion and not all(came) and good else None,
            transfer_time=time.monotonic() - began, transfer_bytes=len(good) * size)
        lost = [key for key, ok in zip(keys, came, strict=True) if not ok]
        self._done.put((result, lost if job.is_promotion else []))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Results that came since the last call."""
        results = []
        while not self._done.empty():
            result, lost = self._done.get()
            self._lookups.mark_miss(lost)
            results.append(result)
        return results

    def drain_jobs(self) -> None:
        """Waits for all transfers, each of which ends by its deadline."""
        wait(self._running)

    def shutdown(self) -> None:
        """Ends threads and connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._lookups.shutdown()
        self._opened.close()
        self._arena.release()
