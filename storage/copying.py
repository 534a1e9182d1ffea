"""What a copy writes: the head of the destination fetches it, so that no byte passes the client.

Layer: shell. A COPY becomes a WRITE of the bytes found at its source, or a PUNCH if there are none,
before it is ordered; replicas behind the head see only that. It keeps its tag: one that is sent
again is done once, with the bytes of the attempt that was ordered.
"""

from __future__ import annotations

from luciole.checksum import block_checksums
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import Call
from luciole.routing import serving_targets, versioned
from luciole.runtime import Runtime
from luciole.storage.ports import Peers, Routing


class Fetcher:
    """Reads the sources of copies from whoever serves them."""

    def __init__(self, runtime: Runtime, routing: Routing, peers: Peers) -> None:
        self._runtime = runtime
        self._routing = routing
        self._peers = peers

    async def resolve(self, io: storage_pb2.WriteIO, call: Call) -> memoryview:
        """Turns a COPY, in place, into the update that it means; returns the bytes of that.

        Raises FsError when no replica of the source answers with sound bytes.
        """
        data = memoryview(bytearray(io.length))
        found = await self._read(io, data, call)
        io.ClearField("source")
        if not found:
            io.kind = storage_pb2.PUNCH
            return data[:0]
        io.kind = storage_pb2.WRITE
        io.checksums[:] = block_checksums(io.offset, data)
        return data.toreadonly()

    async def _read(self, io: storage_pb2.WriteIO, data: memoryview, call: Call) -> int:
        """Fills `data` from any serving replica of the source; returns how much was found."""
        table = self._routing.current()
        chain = table.chain(io.source.chain_id)
        failure = FsError(Kind.NOT_SERVING, "no replica of a copy's source serves",
                          f"chain {chain.chain_id}")
        request = storage_pb2.ReadRequest(ios=[storage_pb2.ReadIO(
            chain=versioned(chain),
            chunk_id=io.source.chunk_id, offset=io.source.offset, length=io.length)])

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            if len(reply.results) != 1 or reply.results[0].length > len(data):
                raise FsError(Kind.CORRUPT_FRAME, "not the answer to a read of one piece")
            length = reply.results[0].length
            return [data[:length]] if length else []

        for target in serving_targets(chain):
            remaining = max(0.001, call.deadline - self._runtime.clock.now())
            try:
                reply = await self._peers.storage(table.node_of(target)).read(
                    request, timeout=remaining, sink=sink)
                return _accept(io, reply.results[0], data)
            except FsError as error:
                failure = error
        raise failure


def _accept(
    io: storage_pb2.WriteIO, result: storage_pb2.ReadResult, data: memoryview
) -> int:
    if result.error.kind == Kind.CHUNK_NOT_FOUND:
        return 0
    if result.HasField("error"):
        raise FsError.from_proto(result.error)
    if block_checksums(io.source.offset, data[: result.length]) != list(result.checksums):
        raise FsError(Kind.CHECKSUM_MISMATCH, "the bytes of a copy arrived damaged",
                      f"chunk {io.source.chunk_id.hex()}")
    return result.length
