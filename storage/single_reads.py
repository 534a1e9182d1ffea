"""`ReadPacked` of one read, in few steps: what most random reads of small pieces are.

Layer: shell, beside `StorageService`, whose `read_packed` it stands for: the same checks, the same
answer. What does not differ between reads of a chain is looked up once for each routing table: who
asks names the chain by the same bytes each time. A request that is not written as our own clients
write it, or for which something has to be waited for, is for the service.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from luciole.checksum import crc32c
from luciole.errors import FsError
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.packed import NOT_READ, READ, pack_numbers, single_read
from luciole.proto.services import Call
from luciole.routing import RoutingTable
from luciole.storage.ports import Fence, Routing
from luciole.storage.targets import Target, Targets

CHAINS_MAX = 65536  # remembered


class _Known:
    """Targets that serve under one routing table, by how requests name their chains."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.targets: dict[bytes, Target] = {}


class SingleReads:
    """Args: as for `StorageService`, and `bytes_max` of one read."""

    def __init__(
        self, targets: Targets, routing: Routing, fence: Fence, bytes_max: int
    ) -> None:
        self._targets = targets
        self._routing = routing
        self._fence = fence
        self._bytes_max = bytes_max
        self._known: _Known | None = None

    def answer(self, message: bytes, call: Call) -> bytes | None:
        """The reply to a serialised ReadPackedRequest; None: it is for the service.

        Raises FsError NOT_SERVING behind the fence.
        """
        at = len(message) - READ.size
        known, table = self._known, self._routing.current()
        if known is None or known.table is not table:
            known = self._known = _Known(table)
        self._fence.check()
        target = known.targets.get(message[:at]) or self._learn(known, message, at)
        if target is None or not target.trusted:
            return None
        read = READ.unpack_from(message, at)
        size = read[2]
        if size > self._bytes_max:
            return None
        room = call.room(0, size)
        count = target.engine.read_clean([read], [room])[0]
        self._fence.check()
        lengths = pack_numbers([NOT_READ if count is None else count])
        if call.in_place:
            return storage_pb2.ReadPackedReply(lengths=lengths).SerializeToString()
        part = room[: count or 0]
        call.reply_payload([part])
        return storage_pb2.ReadPackedReply(
            lengths=lengths, checksums=pack_numbers([crc32c(part)])).SerializeToString()

    def _learn(self, known: _Known, message: bytes, at: int) -> Target | None:
        """The target that serves a request like this; None: look at it in the ordinary way."""
        try:
            request = storage_pb2.ReadPackedRequest.FromString(message)
        except DecodeError:
            return None
        if len(request.batches) != 1 or at < 0:
            return None
        wanted = request.batches[0].chain
        if single_read(wanted.chain_id, wanted.version) != message[:at]:
            return None
        try:
            chain = known.table.chain(wanted.chain_id)
            target, state = self._targets.of_chain(chain)
        except FsError:
            return None
        if chain.version != wanted.version or state != mgmtd_pb2.SERVING:
            return None
        if len(known.targets) < CHAINS_MAX:
            known.targets[message[:at]] = target
        return target
