"""Repair: makes chunks whole whose stored bytes rotted, from another serving replica.

Layer: shell. Works through what was reported (damage.py), so many chunks a step. Each chunk is
verified to its last block under its lock; a version that does not hold is fetched by its exact
number, and the engine takes the bytes only if they have the checksums that it stored itself. So
nothing that is written meanwhile is lost, whatever the other replica sends.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.log import get_logger
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.routing import serving_targets
from luciole.runtime import Runtime
from luciole.storage.chain import ChainReplica
from luciole.storage.copying import fetch
from luciole.storage.engine.interface import Version
from luciole.storage.ports import Peers, Routing
from luciole.storage.targets import Target, Targets

log = get_logger("storage.repair")
CHUNKS_PER_STEP = 16
FETCH_TIMEOUT_S = 10.0
VERIFY_BYTES = 1024 * 1024
# A replica that answers so has been asked in vain; after any other error it may still help.
_IN_VAIN = (Kind.CHUNK_NOT_FOUND, Kind.CHECKSUM_MISMATCH)


class Repair:
    """Repairs the chunks of this process's targets."""

    def __init__(
        self,
        runtime: Runtime,
        targets: Targets,
        routing: Routing,
        peers: Peers,
        replica: ChainReplica,
    ) -> None:
        self._runtime = runtime
        self._targets = targets
        self._routing = routing
        self._peers = peers
        self._replica = replica
        self._scratch = memoryview(bytearray(VERIFY_BYTES))

    async def run_once(self) -> int:
        """Looks at some of the chunks that were reported; returns how many versions it repaired."""
        repaired = 0
        for target in self._targets.all():
            for chunk_id in target.damage.take(CHUNKS_PER_STEP):
                try:
                    repaired += await self.look_at(target, chunk_id)
                except FsError as failure:
                    log.info("repair_postponed", target=target.target_id, chunk=chunk_id.hex(),
                             error=str(failure))
                    target.damage.report(chunk_id)
        return repaired

    async def look_at(self, target: Target, chunk_id: bytes) -> int:
        """Verifies a chunk and repairs what rotted; returns how many versions were repaired.

        Raises FsError when that could not be decided now.
        """
        repaired, lost = 0, False
        async with self._runtime.lock(self._replica.lock_key(target, chunk_id)):
            state = await target.engine.state(chunk_id)
            versions = (state.committed, state.pending) if state else ()
            for version in versions:
                if version is None or version.removed:
                    continue
                pending = state is not None and version is state.pending
                if await self._intact(target, chunk_id, version, pending):
                    continue
                if await self._mend(target, chunk_id, version):
                    target.damage.found += 1
                    target.damage.repaired += 1
                    repaired += 1
                    log.warning("chunk_repaired", target=target.target_id, chunk=chunk_id.hex(),
                                version=version.number)
                else:
                    lost = True
        if not lost:
            target.damage.whole(chunk_id)
        elif target.damage.hopeless(chunk_id):
            target.damage.found += 1
            log.error("chunk_unrepairable", target=target.target_id, chunk=chunk_id.hex(),
                      remedy="no serving replica has it intact: write the file anew")
        return repaired

    async def _intact(
        self, target: Target, chunk_id: bytes, version: Version, pending: bool
    ) -> bool:
        """Reads every byte of a version."""
        for offset in range(0, version.length, VERIFY_BYTES):
            try:
                await target.engine.read(chunk_id, offset, self._scratch, pending=pending)
            except FsError as failure:
                if failure.kind != Kind.CHECKSUM_MISMATCH:
                    raise
                return False
        return True

    async def _mend(self, target: Target, chunk_id: bytes, version: Version) -> bool:
        """Fetches a version and stores it anew; False when no other serving replica has it."""
        chain = self._routing.current().chain(target.chain_id)
        undecided: FsError | None = None
        for other in serving_targets(chain):
            if other == target.target_id:
                continue
            try:
                data = await self._fetch(chain, other, chunk_id, version)
                await target.engine.repair(chunk_id, version.number, data)
            except FsError as failure:
                if failure.kind not in _IN_VAIN:
                    undecided = failure
            else:
                return True
        if undecided is not None:
            raise undecided
        return False

    async def _fetch(
        self, chain: mgmtd_pb2.Chain, other: int, chunk_id: bytes, version: Version
    ) -> memoryview:
        """The content of exactly this version on another replica. Raises FsError."""
        wanted = storage_pb2.ReadIO(
            chunk_id=chunk_id, length=version.length, version=version.number)
        wanted.chain.chain_id, wanted.chain.version = chain.chain_id, chain.version
        stub = self._peers.storage(self._routing.current().node_of(other))
        fetched = await fetch(stub, wanted, self._peers.memory, FETCH_TIMEOUT_S)
        return fetched.room[: fetched.result.length]
