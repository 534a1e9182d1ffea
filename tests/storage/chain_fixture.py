"""A chain of real storage services in one process, and a client of it.

Only the wire and the manager are missing: services call each other through the in-process
binding, and the test says what routing is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from luciole.checksum import block_checksums
from luciole.client.core.layout import chunk_id
from luciole.client.remote.chunks import ChunkClient
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind
from luciole.proto import meta_pb2, mgmtd_pb2, services, storage_pb2
from luciole.proto.method import Method
from luciole.proto.services import Buffer, Caller, ReplyT, RequestT
from luciole.routing import head
from luciole.rpc.inprocess import InProcessCaller
from luciole.rpc.interface import ServerCall
from luciole.runtime import ThreadRuntime, drive
from luciole.storage.engine.interface import ChunkEngine, Update, Version
from luciole.storage.fencing import LateFence
from luciole.storage.repair import Repair
from luciole.storage.resync import Resync
from luciole.storage.service import StorageService
from luciole.storage.settling import Settling
from luciole.storage.targets import Target, Targets

SERVING, SYNCING = mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING
CHUNK = 1 << 20
CHAIN = 1
LAYOUT = meta_pb2.Layout(table_id=1, table_version=1, chunk_size=CHUNK, stripe=1, seed=0)


class OpenFence:
    """Never closed."""

    def check(self) -> None:
        """The manager has just been heard."""


class Replica:
    """One node with one target."""

    def __init__(
        self, number: int, engine: ChunkEngine, runtime: ThreadRuntime, routing: RoutingCache,
        connections: Connections,
    ) -> None:
        self.number = number
        self.engine = engine
        self.target = Target(number, 0, engine)
        self.targets = Targets([self.target])
        fence = self.fence = LateFence()
        fence.member = OpenFence()
        self.service = StorageService(runtime, self.targets, routing, connections, fence)
        ports = (runtime, self.targets, routing, connections, self.service.replica)
        self.resync, self.repair = Resync(*ports), Repair(*ports)
        self.settling = Settling(runtime, self.targets, routing, self.service.replica)


class Link:
    """The way to a node: counts calls, and breaks on command."""

    def __init__(self, fixture: ChainFixture, number: int) -> None:
        self._fixture = fixture
        self._number = number

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout: float | None = None,
        payload: Sequence[Buffer] = (),
        sink: Callable[[ReplyT], Sequence[memoryview]] | None = None,
        into: Sequence[memoryview] = (),
    ) -> ReplyT:
        """As `Caller.call`."""
        fixture, name = self._fixture, method.path.rpartition("/")[2]
        if (self._number, name) == fixture.broken_after[:2]:
            if fixture.broken_after[2] <= 0:
                raise FsError(Kind.CONNECTION_LOST, "broken by the test", str(self._number))
            fixture.broken_after = (self._number, name, fixture.broken_after[2] - 1)
        fixture.calls[self._number, name] += 1
        caller = InProcessCaller(
            [(services.STORAGE, fixture.replicas[self._number - 1].service)],
            clock=fixture.runtime.clock)
        return await caller.call(
            method, request, timeout=timeout, payload=payload, sink=sink, into=into)


class ChainFixture:
    """Nodes 1, 2, … with target 1, 2, …, all in chain 1; and a client."""

    def __init__(
        self, engines: Sequence[ChunkEngine], runtime: ThreadRuntime | None = None
    ) -> None:
        self.runtime = runtime or ThreadRuntime()
        self.routing = RoutingCache(self.runtime)
        self.calls: Counter[tuple[int, str]] = Counter()
        # (node, method, count): from then on such a call finds the connection broken
        self.broken_after = (0, "", 0)
        self.connections = Connections(self._connect)
        self.replicas = [
            Replica(number, engine, self.runtime, self.routing, self.connections)
            for number, engine in enumerate(engines, start=1)]
        self.version = 0
        self.route([SERVING] * len(engines))
        self.client = ChunkClient(
            self.runtime, self.connections, self.routing, b"c" * 16, attempt_seconds=5,
            total_seconds=5)

    def _connect(self, address: tuple[str, int]) -> Caller:
        return Link(self, address[1])

    def restart(self, number: int) -> None:
        """The node's process starts anew on what its engine holds."""
        engine = self.replicas[number - 1].engine
        self.replicas[number - 1] = Replica(
            number, engine, self.runtime, self.routing, self.connections)
        self.replicas[number - 1].targets.observe(self.routing.current())

    def route(self, states: Sequence[mgmtd_pb2.PublicState]) -> None:
        """The manager decides: the targets' states, in order."""
        self.version += 1
        routing = mgmtd_pb2.Routing(version=self.version)
        chain = routing.chains.add(chain_id=CHAIN, version=self.version)
        routing.tables.add(table_id=1, version=1, chain_ids=[CHAIN])
        for replica, state in zip(self.replicas, states, strict=True):
            routing.nodes.add(node_id=replica.number, rpc_port=replica.number,
                              kind=mgmtd_pb2.STORAGE)
            routing.targets.add(target_id=replica.number, node_id=replica.number)
            chain.targets.add(target_id=replica.number, state=state)
        self.routing.replace(routing)
        for replica in self.replicas:
            replica.targets.observe(self.routing.current())

    def inode(self, number: int = 1) -> meta_pb2.Inode:
        """A file of this chain."""
        return meta_pb2.Inode(inode_id=number, layout=LAYOUT)

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Writes through the chain as a client does."""
        drive(self.client.write(self.inode(number), offset, memoryview(data)))

    def tagged_write(
        self, number: int, data: bytes, *, channel: int, sequence: int
    ) -> storage_pb2.WriteResult:
        """Sends one update to the head, as a client that may repeat it."""
        io = storage_pb2.WriteIO(
            chunk_id=chunk_id(number, 0), chunk_size=CHUNK, kind=storage_pb2.WRITE,
            length=len(data), checksums=block_checksums(0, memoryview(data)))
        io.chain.chain_id, io.chain.version = CHAIN, self.version
        io.tag.client_id, io.tag.channel, io.tag.sequence = b"t" * 16, channel, sequence
        table = self.routing.current()
        stub = self.connections.storage(table.node_of(head(table.chain(CHAIN))))
        reply = drive(stub.write(storage_pb2.WriteRequest(ios=[io]), payload=[data]))
        [result] = reply.results
        if result.HasField("error"):
            raise FsError.from_proto(result.error)
        return result

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Reads as a client does, from whichever replica is next in turn."""
        buffer = bytearray(length)
        drive(self.client.read(self.inode(number), offset, memoryview(buffer)))
        return bytes(buffer)

    def read_from(self, replica: int, chunk: bytes, length: int) -> bytes:
        """Reads one chunk from one replica, without any retry. Raises FsError."""
        wanted = storage_pb2.ReadIO(chunk_id=chunk, length=length)
        wanted.chain.chain_id, wanted.chain.version = CHAIN, self.version
        buffer = memoryview(bytearray(length))
        stub = self.connections.storage(self.routing.current().node(replica))

        def sink(reply: storage_pb2.ReadReply) -> list[memoryview]:
            return [buffer[: result.length] for result in reply.results if result.length]

        reply = drive(stub.read(storage_pb2.ReadRequest(ios=[wanted]), sink=sink))
        [result] = reply.results
        if result.HasField("error"):
            raise FsError.from_proto(result.error)
        return bytes(buffer[: result.length])

    def call(self, seconds: float = 5.0) -> ServerCall:
        """A request's frame, for what tests ask of a service directly."""
        return ServerCall(self.runtime.clock.now() + seconds)


def stage(engine: ChunkEngine, chunk: bytes, version: int, update: Update, data: bytes) -> Version:
    """Stages behind the service's back."""
    return drive(engine.stage(chunk, version, update, memoryview(data)))
