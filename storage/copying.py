"""Bytes that a replica fetches from another one: what a copy writes, what a repair stores anew.

Layer: shell. They come to where the transport reaches best: on one machine the other replica reads
its disk into our memory. The head of a copy's destination fetches, so that no byte passes the
client. A COPY becomes a WRITE of the bytes found at its source, or a PUNCH if there are none,
before it is ordered; replicas behind the head see only that. It keeps its tag: one that is sent
again is done once, with the bytes of the attempt that was ordered.
"""

from __future__ import annotations

from typing import NamedTuple

from luciole.checksum import block_checksums
from luciole.errors import FsError, Kind
from luciole.proto import storage_pb2
from luciole.proto.services import Call, StorageStub
from luciole.routing import serving_targets, versioned
from luciole.rpc.interface import Memory
from luciole.rpc.memory import PAGE
from luciole.runtime import Runtime
from luciole.storage.ports import Peers, Routing


class Fetched(NamedTuple):
    """What another replica answered to a read of one piece."""

    result: storage_pb2.ReadResult
    room: memoryview  # as long as asked for; `result.length` bytes of it are the answer
    sent: bool  # the bytes travelled; else the replica has verified them in their place


async def fetch(
    stub: StorageStub, io: storage_pb2.ReadIO, memory: Memory, timeout: float
) -> Fetched:
    """Reads `io` from another replica. Raises FsError, also the one that it answers."""
    if not io.length:
        raise FsError(Kind.INVALID_ARGUMENT, "a read of nothing", f"chunk {io.chunk_id.hex()}")
    # Rooms are lent as whole pages: they are taken back if the other end stands still.
    whole = memory(-(-io.length // PAGE) * PAGE)
    room = whole[: io.length]
    sent = False

    def result_of(reply: storage_pb2.ReadReply) -> storage_pb2.ReadResult:
        if len(reply.results) != 1 or reply.results[0].length > io.length:
            raise FsError(Kind.CORRUPT_FRAME, "not the answer to a read of one piece")
        return reply.results[0]

    def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
        nonlocal sent
        sent = True
        length = result_of(reply).length
        return [room[:length]] if length else []

    reply = await stub.read(
        storage_pb2.ReadRequest(ios=[io]), timeout=timeout, sink=sink, into=[whole])
    result = result_of(reply)
    if result.HasField("error"):
        raise FsError.from_proto(result.error)
    return Fetched(result, room, sent)


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
        data = await self._read(io, call) if io.length else memoryview(b"")
        io.ClearField("source")
        if not data:
            io.kind = storage_pb2.PUNCH
            return data
        io.kind = storage_pb2.WRITE
        io.checksums[:] = block_checksums(io.offset, data)
        return data.toreadonly()

    async def _read(self, io: storage_pb2.WriteIO, call: Call) -> memoryview:
        """What any serving replica of the source has, and zeros; empty: it has nothing."""
        table = self._routing.current()
        chain = table.chain(io.source.chain_id)
        failure = FsError(Kind.NOT_SERVING, "no replica of a copy's source serves",
                          f"chain {chain.chain_id}")
        wanted = storage_pb2.ReadIO(
            chain=versioned(chain),
            chunk_id=io.source.chunk_id, offset=io.source.offset, length=io.length)
        for target in serving_targets(chain):
            remaining = max(0.001, call.deadline - self._runtime.clock.now())
            try:
                return _accept(io, await fetch(
                    self._peers.storage(table.node_of(target)), wanted, self._peers.memory,
                    remaining))
            except FsError as error:
                if error.kind == Kind.CHUNK_NOT_FOUND:
                    return memoryview(b"")
                failure = error
        raise failure


def _accept(io: storage_pb2.WriteIO, fetched: Fetched) -> memoryview:
    """The bytes of a copy, with zeros behind what was found; empty: nothing was."""
    result, room, sent = fetched
    found = room[: result.length]
    if sent and block_checksums(io.source.offset, found) != list(result.checksums):
        raise FsError(Kind.CHECKSUM_MISMATCH, "the bytes of a copy arrived damaged",
                      f"chunk {io.source.chunk_id.hex()}")
    room[result.length :] = bytes(len(room) - result.length)
    return room if result.length else room[:0]
