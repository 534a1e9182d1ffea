"""vLLM: a KV connector between its blocks and the store, for engines without a CPU cache.

Layer: shell. vLLM makes one object on its scheduler's side and one in each worker. The scheduler's
asks how much of a prompt is there (on a thread of ours, so that it never waits) and says in each
step's metadata which blocks are to be loaded and which have become full. The workers' fill blocks
before the forward pass, and store full ones behind it. A block that does not come is reported, and
vLLM computes it if `kv_load_failure_policy` is "recompute".

Invariants: a request's `stored` leading blocks are in the store or on their way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

from luciole.errors import Kind, require
from luciole.kvcache.connectors.opening import Opened, settings_of
from luciole.rpc.memory import Region

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

log = logging.getLogger("vllm.luciole")
STAGED_BYTES = 32 << 20  # blocks that are moved at a time
SAVES_MAX = 16  # under way; what is more is not saved: its next reader computes it
GROUP = (0).to_bytes(4, "big")  # of keys, as vLLM's tiers and `vllm_chain` make them


@dataclass
class _Move:
    """Blocks of the engine and their keys."""

    keys: list[bytes]
    blocks: list[int]


@dataclass
class Step(KVConnectorMetadata):
    """What the workers do around one forward pass."""

    loads: list[_Move] = field(default_factory=list)
    saves: list[_Move] = field(default_factory=list)


@dataclass
class _Known:
    """A request on the scheduler's side."""

    request: Request
    found: Future[int]
    blocks: list[int] = field(default_factory=list)
    stored: int = 0


class LucioleConnector(KVConnectorBase_V1):
    """See the module. `kv_connector_extra_config`: `Settings` (opening.py).

    Raises FsError when the engine starts and the cluster cannot be reached, or the model has KV
    cache groups of several kinds.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        require(len(kv_cache_config.kv_cache_groups) == 1, Kind.CONFIG_INVALID,
                "models with KV cache groups of several kinds need the tier (vllm_tier.py)")
        settings = settings_of(vllm_config.kv_transfer_config.kv_connector_extra_config)
        cache, parallel = vllm_config.cache_config, vllm_config.parallel_config
        model = vllm_config.model_config
        spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
        self._tokens = spec.block_size
        self._opened = Opened(settings, model.model, {
            "engine": "vllm", "model": model.model, "revision": model.revision,
            "dtype": str(model.dtype), "cache_dtype": str(cache.cache_dtype),
            "quantization": str(model.quantization), "block_tokens": self._tokens,
            "page_bytes": spec.page_size_bytes, "layout": str(cache.kv_cache_layout),
            "world": [parallel.pipeline_parallel_size, parallel.tensor_parallel_size],
            # A scheduler asks for the blocks of the first worker.
            "rank": parallel.rank if role == KVConnectorRole.WORKER else 0})
        self._threads = ThreadPoolExecutor(settings.threads, "luciole kv")
        self._known: dict[str, _Known] = {}
        self._loads: list[_Move] = []
        self._layers: list[torch.Tensor] = []
        self._staged: Region | None = None
        self._failed: set[int] = set()
        self._saves = threading.Semaphore(SAVES_MAX)

    # The scheduler's side.

    def _keys(self, request: Request, first: int, end: int) -> list[bytes]:
        return [bytes(each) + GROUP for each in request.block_hashes[first:end]]

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """How many more tokens are in the store; None while nobody knows."""
        known = self._known.get(request.request_id)
        if known is None:
            # One token at least is computed: its output is what comes next.
            end = (request.num_tokens - 1) // self._tokens
            keys = self._keys(request, 0, end)
            known = self._known[request.request_id] = _Known(
                request, self._threads.submit(self._opened.leading, keys))
        if not known.found.done():
            return None, False
        known.stored = 0 if known.found.exception() else known.found.result()
        return max(0, known.stored * self._tokens - num_computed_tokens), False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Plans to fill the blocks that `get_num_new_matched_tokens` promised."""
        if num_external_tokens > 0:
            end = self._known[request.request_id].stored
            first = end - num_external_tokens // self._tokens
            self._loads.append(_Move(
                self._keys(request, first, end), list(blocks.get_block_ids()[0][first:end])))

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Step:
        """What is to be loaded before this step, and saved after it."""
        step, self._loads = Step(self._loads), []
        for new in scheduler_output.scheduled_new_reqs:
            self._plan(step, scheduler_output, new.req_id, new.num_computed_tokens,
                       new.block_ids[0], replace=True)
        cached = scheduler_output.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            more = cached.new_block_ids[index]
            self._plan(step, scheduler_output, name, cached.num_computed_tokens[index],
                       more[0] if more else [], replace=name in cached.resumed_req_ids)
        return step

    def _plan(
        self, step: Step, output: SchedulerOutput, name: str, computed: int, blocks: list[int],
        *, replace: bool,
    ) -> None:
        """Notes a request's blocks; those that this step makes full are saved."""
        known = self._known.get(name)
        if known is None:
            return
        known.blocks = list(blocks) if replace else known.blocks + list(blocks)
        # Less is computed than was found: some of it did not come, and is saved anew.
        known.stored = min(known.stored, computed // self._tokens)
        full = (computed + output.num_scheduled_tokens[name]) // self._tokens
        full = min(full, len(known.request.block_hashes), len(known.blocks))
        if full > known.stored:
            step.saves.append(_Move(
                self._keys(known.request, known.stored, full), known.blocks[known.stored : full]))
            known.stored = full

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Nothing of it is under way in the engine's memory: saves have copied their blocks."""
        self._known.pop(request.request_id, None)
        return False, None

    # The workers' side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The engine's blocks: for each layer a tensor whose first dimension is the block."""
        self._layers = list(kv_caches.values())

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        """Fills blocks; the forward pass begins when they are there."""
        step = self._get_connector_metadata()
        assert isinstance(step, Step)
        for move in step.loads:
            for some in self._parts(move):
                rows = self._staged_rows(len(some.keys))
                came = self._opened.get(some.keys, list(rows))
                good = [index for index, ok in enumerate(came) if ok]
                self._failed.update(
                    block for block, ok in zip(some.blocks, came, strict=True) if not ok)
                self._copy_in(rows, good, [some.blocks[index] for index in good])

    def _staged_rows(self, count: int) -> torch.Tensor:
        """Memory for so many blocks, which a volume on this machine fills itself."""
        size = self._block_bytes
        if self._staged is None or len(self._staged.view) < count * size:
            self._staged = self._opened.store.buffer(max(STAGED_BYTES, count * size))
        return torch.frombuffer(
            self._staged.view, dtype=torch.uint8, count=count * size).view(count, size)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that did not come since the last call."""
        failed, self._failed = self._failed, set()
        return failed

    def wait_for_save(self) -> None:
        """Copies full blocks out of the engine's memory, and stores them meanwhile."""
        step = self._get_connector_metadata()
        assert isinstance(step, Step)
        for move in step.saves:
            for some in self._parts(move):
                if not self._saves.acquire(blocking=False):
                    log.warning("%d blocks are not saved: too many are under way", len(some.keys))
                    continue
                rows = self._copy_out(some.blocks)
                self._threads.submit(self._save, some.keys, rows)

    def _save(self, keys: list[bytes], rows: torch.Tensor) -> None:
        try:
            self._opened.put(keys, list(rows))
        except Exception:  # a save that fails is a later miss
            log.exception("saving %d blocks failed", len(keys))
        finally:
            self._saves.release()

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All layers are there when the forward pass begins."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Blocks are saved whole."""

    def shutdown(self) -> None:
        """Ends when what is under way is stored."""
        self._threads.shutdown(wait=True)
        self._opened.close()

    # Blocks as bytes: the layers of a block, end to end.

    @property
    def _block_bytes(self) -> int:
        return sum(layer[0].numel() * layer.element_size() for layer in self._layers)

    def _parts(self, move: _Move) -> list[_Move]:
        """A move in parts of at most STAGED_BYTES."""
        count = max(1, STAGED_BYTES // self._block_bytes)
        return [_Move(move.keys[at : at + count], move.blocks[at : at + count])
                for at in range(0, len(move.keys), count)]

    def _copy_in(
        self, rows: torch.Tensor, chosen: Sequence[int], blocks: Sequence[int]
    ) -> None:
        """Puts some rows into blocks."""
        at = 0
        for layer in self._layers if chosen else ():
            size = layer[0].numel() * layer.element_size()
            part = rows[list(chosen), at : at + size].view(layer.dtype)
            layer[list(blocks)] = part.view(len(chosen), *layer.shape[1:]).to(layer.device)
            at += size

    def _copy_out(self, blocks: Sequence[int]) -> torch.Tensor:
        """Blocks as rows."""
        parts = [layer[list(blocks)].contiguous().view(len(blocks), -1).view(torch.uint8).cpu()
                 for layer in self._layers]
        return torch.cat(parts, dim=1)
