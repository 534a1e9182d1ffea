"""A volume on the network: the handler of the service KvCache.

Layer: shell. Blocks come as payload beside the message, or in its field `data` (gRPC): either way
end to end, in order of the keys, so that a batch is cut by lengths alone. Every length is compared
with what came before anything is stored.
"""

from __future__ import annotations

from luciole.checksum import BLOCK_SIZE
from luciole.errors import Kind, require
from luciole.kvcache.core.eviction import Entry
from luciole.kvcache.core.packing import (
    pack_numbers,
    split_keys,
    unpack_numbers,
)
from luciole.kvcache.core.slots import Slot
from luciole.kvcache.volume.checking import check
from luciole.kvcache.volume.reading import read_blocks
from luciole.kvcache.volume.volume import Volume
from luciole.proto import common_pb2, kvcache_pb2
from luciole.proto.services import Call

PAGE_MAX = 4096  # blocks of one reply


class KvCacheService:
    """Handler of the service KvCache. Its methods never wait but for the disk."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    async def exists(
        self, request: kvcache_pb2.KvExistsRequest, call: Call
    ) -> kvcache_pb2.KvExistsReply:
        """A status for each key; with `details` size and time of those that are there."""
        keys = split_keys(request.key_size, request.keys)
        if request.details:
            found = self._volume.describe(request.namespace_id, keys)
            return kvcache_pb2.KvExistsReply(
                statuses=bytes(entry is not None for entry in found),
                blocks=[_described(entry) for entry in found if entry is not None])
        return kvcache_pb2.KvExistsReply(statuses=self._volume.exists(
            request.namespace_id, keys, touch=request.touch))

    async def match(
        self, request: kvcache_pb2.KvMatchRequest, call: Call
    ) -> kvcache_pb2.KvMatchReply:
        """The leading run, leased."""
        count, size = self._volume.match(
            request.namespace_id, split_keys(request.key_size, request.keys), request.lease_id,
            request.lease_ms / 1000)
        return kvcache_pb2.KvMatchReply(count=count, bytes=size)

    async def lease(
        self, request: kvcache_pb2.KvLeaseRequest, call: Call
    ) -> kvcache_pb2.KvLeaseReply:
        """Extends or ends a lease."""
        return kvcache_pb2.KvLeaseReply(
            found=self._volume.lease(request.lease_id, request.lease_ms / 1000))

    async def get(self, request: kvcache_pb2.KvGetRequest, call: Call) -> kvcache_pb2.KvGetReply:
        """Blocks, or the same part of each."""
        blocks = read_blocks(
            self._volume, request.namespace_id, split_keys(request.key_size, request.keys),
            request.offset, request.length, room=call.room)
        reply = kvcache_pb2.KvGetReply(
            statuses=blocks.statuses, lengths=pack_numbers(blocks.lengths))
        if not call.in_place:
            reply.checksums = pack_numbers(blocks.checksums)
            call.reply_payload(blocks.views)
        return reply

    async def put(self, request: kvcache_pb2.KvPutRequest, call: Call) -> kvcache_pb2.KvPutReply:
        """Stores blocks that are not there."""
        keys = split_keys(request.key_size, request.keys)
        lengths = unpack_numbers(request.lengths)
        checksums = unpack_numbers(request.checksums)
        pieces = [-(-length // BLOCK_SIZE) for length in lengths]
        require(len(lengths) == len(keys) and sum(lengths) == len(call.payload)
                and sum(pieces) == len(checksums), Kind.INVALID_ARGUMENT,
                f"{len(keys)} keys, {len(lengths)} lengths, {len(checksums)} checksums and "
                f"{len(call.payload)} bytes do not belong together")
        statuses = bytearray(len(keys))
        data_at = checksums_at = 0
        for index, (key, length, count) in enumerate(zip(keys, lengths, pieces, strict=True)):
            statuses[index] = self._volume.put(
                request.namespace_id, key, call.payload[data_at : data_at + length],
                checksums[checksums_at : checksums_at + count])
            data_at += length
            checksums_at += count
        return kvcache_pb2.KvPutReply(statuses=bytes(statuses))

    async def delete(
        self, request: kvcache_pb2.KvDeleteRequest, call: Call
    ) -> kvcache_pb2.KvDeleteReply:
        """Removes blocks."""
        return kvcache_pb2.KvDeleteReply(statuses=self._volume.delete(
            request.namespace_id, split_keys(request.key_size, request.keys)))

    async def evict(
        self, request: kvcache_pb2.KvEvictRequest, call: Call
    ) -> kvcache_pb2.KvEvictReply:
        """Makes room now."""
        blocks, size = self._volume.evict(request.namespace_id, request.keep_bytes)
        return kvcache_pb2.KvEvictReply(blocks=blocks, bytes=size)

    async def list_blocks(
        self, request: kvcache_pb2.KvListRequest, call: Call
    ) -> kvcache_pb2.KvListReply:
        """A page of blocks, in order of their keys."""
        limit = min(request.limit or PAGE_MAX, PAGE_MAX)
        entries, more = self._volume.page(
            request.namespace_id, request.prefix, request.after, limit)
        return kvcache_pb2.KvListReply(blocks=map(_described, entries), more=more)

    async def stats(self, request: common_pb2.Empty, call: Call) -> kvcache_pb2.KvStatsReply:
        """What the volume holds and has done."""
        volume = self._volume
        reply = kvcache_pb2.KvStatsReply(
            capacity_bytes=volume.capacity, leases=len(volume.leases),
            recovered_blocks=volume.recovered)
        with volume.guard:
            reply.used_bytes = volume.slots.held_bytes()
            for number, space in volume.spaces.items():
                leased = sum(entry.leases > 0 for entry in space.index.values()) \
                    if len(volume.leases) else 0
                reply.namespaces.add(
                    namespace_id=number, blocks=len(space.index), used_bytes=space.used,
                    limit_bytes=space.limit or 0, leased_blocks=leased, **vars(space.counts))
        return reply

    async def check(self, request: common_pb2.Empty, call: Call) -> kvcache_pb2.KvCheckReply:
        """Compares index and disk."""
        blocks, problems = check(self._volume)
        return kvcache_pb2.KvCheckReply(blocks=blocks, problems=problems)


def _described(entry: Entry[Slot]) -> kvcache_pb2.KvBlock:
    return kvcache_pb2.KvBlock(key=entry.key, length=entry.length, created_ns=entry.created_ns)
