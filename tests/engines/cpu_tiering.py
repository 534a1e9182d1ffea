"""vLLM's tiering for its CPU platform, which its own specs refuse: copies instead of streams.

Layer: tests. Everything but the copy between the engine's blocks and the arena is vLLM's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class _CopyingWorker(OffloadingWorker):
    """Copies at once. A chunk is one block of the engine."""

    def __init__(self, caches: CanonicalKVCaches, region: SharedOffloadRegion) -> None:
        self._region = region
        self._groups = caches.group_data_refs
        self._blocks = [
            each.tensor.view(torch.int8).view(-1, each.page_size_bytes) for each in caches.tensors]
        self._chunks = [
            region.create_next_worker_view(each.page_size_bytes) for each in caches.tensors]
        self._finished: list[TransferResult] = []

    def _pairs(self, blocks: GPULoadStoreSpec, chunks: LoadStoreSpec) -> Iterator[
            tuple[torch.Tensor, torch.Tensor]]:
        """A block's page and its chunk's, for each tensor."""
        assert isinstance(chunks, BlockIDsLoadStoreSpec)
        pairs = iter(zip(blocks.block_ids.tolist(), chunks.block_ids.tolist(), strict=True))
        for group, count in zip(self._groups, blocks.group_sizes, strict=True):
            for _ in range(count):
                block, chunk = next(pairs)
                for ref in group:
                    size = ref.page_size_bytes
                    yield (self._blocks[ref.tensor_idx][block][:size],
                           self._chunks[ref.tensor_idx][chunk][:size])

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        for page, chunk in self._pairs(src_spec, dst_spec):
            chunk.copy_(page)
        self._finished.append(TransferResult(job_id, success=True))
        return True

    def submit_load(
        self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec
    ) -> bool:
        for page, chunk in self._pairs(dst_spec, src_spec):
            page.copy_(chunk)
        self._finished.append(TransferResult(job_id, success=True))
        return True

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Everything is done already."""

    def shutdown(self) -> None:
        self._blocks, self._chunks = [], []
        self._region.cleanup()


class CpuTieringSpec(TieringOffloadingSpec):
    """`spec_name` of vLLM's OffloadingConnector."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        assert self.blocks_per_chunk == 1
        return _CopyingWorker(kv_caches, SharedOffloadRegion(
            engine_id=self.config.engine_id, num_chunks=self.num_chunks,
            rank=self.config.parallel.rank, kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker))
