"""Calls to the volumes of other nodes: every byte of a block passes through here.

Layer: shell. One method for each request, with the results of a batch as one status for each key.
Blocks go from and to the caller's own memory: a volume on this machine puts them there itself if it
lies in regions (rpc/memory.py), and what travels is verified here once more. A batch that is too
large for one message goes in several, one after another, so that what came before a deadline has
arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from luciole.errors import FsError, Kind
from luciole.kvcache.buffers import checksums_over, size_of
from luciole.kvcache.core.outcomes import Outcome, of_get, of_put
from luciole.kvcache.core.packing import pack_keys, pack_numbers, unpack_numbers
from luciole.proto import kvcache_pb2
from luciole.proto.services import KvCacheStub

CALL_BYTES = 8 * 1024 * 1024
CALL_KEYS = 1024
Views = list[memoryview]
Remaining = Callable[[], float]  # seconds until the deadline


class VolumeCalls:
    """Calls to one volume, about one namespace, within one deadline.

    Args:
        stub: of the node's service.
        namespace_id: whose blocks.
        remaining: tells the time that is left.
    """

    def __init__(self, stub: KvCacheStub, namespace_id: int, remaining: Remaining) -> None:
        self._stub = stub
        self._namespace_id = namespace_id
        self._remaining = remaining

    async def exists(self, keys: Sequence[bytes], *, touch: bool = False) -> bytes:
        """A byte for each key, 1 if the block is there. Raises FsError."""
        size, packed = pack_keys(keys)
        reply = await self._stub.exists(
            kvcache_pb2.KvExistsRequest(
                namespace_id=self._namespace_id, key_size=size, keys=packed, touch=touch),
            timeout=self._remaining())
        return _of_length(reply.statuses, len(keys))

    async def describe(self, key: bytes) -> kvcache_pb2.KvBlock | None:
        """A block's size and time, if it is there. It is no use of it. Raises FsError."""
        reply = await self._stub.exists(
            kvcache_pb2.KvExistsRequest(
                namespace_id=self._namespace_id, key_size=len(key), keys=key, details=True),
            timeout=self._remaining())
        return next((block for block in reply.blocks if block.key == key), None)

    async def list_blocks(self, prefix: bytes, after: bytes, limit: int) -> kvcache_pb2.KvListReply:
        """Blocks in order of their keys, at most `limit`. Raises FsError."""
        return await self._stub.list_blocks(
            kvcache_pb2.KvListRequest(
                namespace_id=self._namespace_id, prefix=prefix, after=after, limit=limit),
            timeout=self._remaining())

    async def match(
        self, keys: Sequence[bytes], lease_id: int, lease_seconds: float
    ) -> tuple[int, int]:
        """(length of the leading run, its bytes). Raises FsError."""
        size, packed = pack_keys(keys)
        reply = await self._stub.match(
            kvcache_pb2.KvMatchRequest(
                namespace_id=self._namespace_id, key_size=size, keys=packed, lease_id=lease_id,
                lease_ms=int(lease_seconds * 1000)),
            timeout=self._remaining())
        return min(reply.count, len(keys)), reply.bytes

    async def lease(self, lease_id: int, seconds: float) -> bool:
        """Extends a lease, or ends it (0). Raises FsError."""
        reply = await self._stub.lease(
            kvcache_pb2.KvLeaseRequest(lease_id=lease_id, lease_ms=int(seconds * 1000)),
            timeout=self._remaining())
        return reply.found

    async def delete(self, keys: Sequence[bytes]) -> bytes:
        """A byte for each key, 1 if the block was there. Raises FsError."""
        size, packed = pack_keys(keys)
        reply = await self._stub.delete(
            kvcache_pb2.KvDeleteRequest(
                namespace_id=self._namespace_id, key_size=size, keys=packed),
            timeout=self._remaining())
        return _of_length(reply.statuses, len(keys))

    async def get(
        self, keys: Sequence[bytes], buffers: Sequence[Views], offset: int | None,
        outcomes: list[Outcome],
    ) -> None:
        """Fills `outcomes` in place, so that they tell what arrived if this raises FsError.

        Whole blocks, or (with `offset`) as many bytes from there as each buffer has.
        """
        for first, end in _cut(buffers):
            outcomes[first:end] = await self._get_some(
                keys[first:end], buffers[first:end], offset)

    async def _get_some(
        self, keys: Sequence[bytes], buffers: Sequence[Views], offset: int | None
    ) -> list[Outcome]:
        size, packed = pack_keys(keys)
        lengths = [size_of(views) for views in buffers]
        filled: list[tuple[int, Views]] = []
        outcomes: list[Outcome] = []
        # Whole blocks in one piece each may be put in place, if this memory can be reached.
        rooms = [views[0] for views in buffers] \
            if offset is None and all(len(views) == 1 for views in buffers) else ()

        def sink(reply: kvcache_pb2.KvGetReply) -> list[memoryview]:
            came = _settle(reply, lengths, outcomes)
            for index, length in came:
                wrong = outcomes[index] is Outcome.WRONG_SIZE
                filled.append((index, [memoryview(bytearray(length))] if wrong else buffers[index]))
            return [view for _, views in filled for view in views]

        reply = await self._stub.get(
            kvcache_pb2.KvGetRequest(
                namespace_id=self._namespace_id, key_size=size, keys=packed, offset=offset or 0,
                length=0 if offset is None else lengths[0]),
            timeout=self._remaining(), sink=sink, into=rooms)
        if not outcomes:
            _settle(reply, lengths, outcomes)
            return outcomes
        checksums = list(unpack_numbers(reply.checksums))
        at = 0
        for index, views in filled:
            own = checksums_over(offset or 0, views)
            if checksums[at : at + len(own)] != own:
                outcomes[index] = Outcome.DAMAGED
            at += len(own)
        return outcomes

    async def put(
        self, keys: Sequence[bytes], buffers: Sequence[Views], outcomes: list[Outcome]
    ) -> None:
        """Stores blocks; as `get`, fills `outcomes` in place. Raises FsError."""
        for first, end in _cut(buffers):
            size, packed = pack_keys(keys[first:end])
            some = buffers[first:end]
            checksums = [one for views in some for one in checksums_over(0, views)]
            reply = await self._stub.put(
                kvcache_pb2.KvPutRequest(
                    namespace_id=self._namespace_id, key_size=size, keys=packed,
                    lengths=pack_numbers([size_of(views) for views in some]),
                    checksums=pack_numbers(checksums)),
                timeout=self._remaining(), payload=[view for views in some for view in views])
            outcomes[first:end] = [
                of_put(status) for status in _of_length(reply.statuses, len(some))]


def _settle(
    reply: kvcache_pb2.KvGetReply, lengths: Sequence[int], outcomes: list[Outcome]
) -> list[tuple[int, int]]:
    """What a reply says of each key, into `outcomes`; index and length of the blocks that came."""
    came: list[tuple[int, int]] = []
    numbers = iter(unpack_numbers(reply.lengths))
    for index, status in enumerate(_of_length(reply.statuses, len(lengths))):
        outcome = of_get(status)
        if status == kvcache_pb2.PRESENT:
            length = next(numbers, 0)
            came.append((index, length))
            if length != lengths[index]:
                outcome = Outcome.WRONG_SIZE
        outcomes.append(outcome)
    return came


def _cut(buffers: Sequence[Views]) -> Iterator[tuple[int, int]]:
    """Cuts a batch into messages: (first, end) of each."""
    first = total = 0
    for index, views in enumerate(buffers):
        size = size_of(views)
        if index > first and (total + size > CALL_BYTES or index - first == CALL_KEYS):
            yield first, index
            first, total = index, 0
        total += size
    if first < len(buffers):
        yield first, len(buffers)


def _of_length(statuses: bytes, count: int) -> bytes:
    if len(statuses) != count:
        raise FsError(Kind.CORRUPT_FRAME, f"{len(statuses)} statuses came for {count} keys")
    return statuses
