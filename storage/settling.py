"""Settling: updates whose fate nobody waits for any more come to an end.

Layer: shell. An update that was staged and not seen committed stays pending; whoever writes the
chunk next settles it, but nobody may. Each serving replica therefore looks after what it left
pending itself (`Target.unsettled`), and after a start or a change of the chain after whatever it
holds pending at all:

- the head sends the update down the chain again and commits it;
- another replica waits for the head, which has it too, unless it came under an earlier chain
  version: then the head of now tells whether it ever took place (`judge_pending`).
"""

from __future__ import annotations

from luciole.errors import FsError
from luciole.log import get_logger
from luciole.proto import mgmtd_pb2
from luciole.routing import serving_targets, versioned
from luciole.rpc.interface import ServerCall
from luciole.runtime import Runtime
from luciole.storage.chain import ChainReplica
from luciole.storage.ports import Routing
from luciole.storage.targets import Target, Targets

log = get_logger("storage.settling")
PAGE = 512
CALL_TIMEOUT_S = 10.0  # a chunk of the largest size takes a second or two


class Settling:
    """Settles the updates that this process left pending."""

    def __init__(
        self, runtime: Runtime, targets: Targets, routing: Routing, replica: ChainReplica
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._routing = routing
        self._replica = replica
        self._swept: dict[int, int] = {}  # target id -> chain version under which it was read

    async def run_once(self) -> int:
        """Looks once at every chunk that may need it. Returns how many were settled."""
        settled = 0
        for target in self._targets.all():
            if not target.chain_id or not target.trusted:
                continue
            chain = self._routing.current().chain(target.chain_id)
            if target.target_id not in serving_targets(chain):
                continue  # resync overwrites what it has
            if self._swept.get(target.target_id) != chain.version:
                await self._sweep(target)
                self._swept[target.target_id] = chain.version
            for chunk_id in sorted(target.unsettled):
                try:
                    settled += await self._settle(target, chain, chunk_id)
                except FsError as failure:
                    log.info("settle_later", chunk=chunk_id.hex(), error=str(failure))
        return settled

    async def _sweep(self, target: Target) -> None:
        """Notes every chunk with a pending version."""
        begin, more = b"", True
        while more:
            states, more = await target.engine.list(begin, None, PAGE)
            target.unsettled.update(state.chunk_id for state in states if state.pending)
            if states:
                begin = states[-1].chunk_id + b"\0"

    async def _settle(self, target: Target, chain: mgmtd_pb2.Chain, chunk_id: bytes) -> bool:
        call = ServerCall(self._runtime.clock.now() + CALL_TIMEOUT_S)
        wanted = versioned(chain)
        async with self._runtime.lock(self._replica.lock_key(target, chunk_id)):
            self._replica.check_chain(target, wanted)
            state = await target.engine.state(chunk_id)
            if state is None or state.pending is None:
                target.unsettled.discard(chunk_id)  # its writer was still at it
                return False
            if serving_targets(chain)[0] == target.target_id:
                await self._replica.settle(target, state, wanted, call)
            else:
                state = await self._replica.judge_pending(target, chain, state)
                if state is not None and state.pending is not None:
                    return False
            target.unsettled.discard(chunk_id)
            return True
