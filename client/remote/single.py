"""One read at a time, in few steps: what a random read through a mount is.

Layer: shell, beside `PackedReader`, which does what does not go so. The request is a ReadPacked as
any other, over whatever reaches the node. What does not differ between reads is looked up once for
each routing table: where a file's chunks lie, who serves a chain, how a request names it. Nothing
is tried twice here.

Threads share what is remembered without a lock: it is added to by single steps and dropped whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from google.protobuf.message import DecodeError

from luciole.checksum import crc32c
from luciole.client.core.layout import KIND_FILE
from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.errors import FsError, Kind
from luciole.limits import CHUNKS_PER_FILE_MAX
from luciole.proto import meta_pb2, storage_pb2
from luciole.proto.method import Method
from luciole.proto.packed import CHUNK_READ, NOT_READ, pack_numbers, single_read, unpack_numbers
from luciole.proto.services import STORAGE_READ_PACKED, ReplyT, RequestT
from luciole.routing import RoutingTable, serving_targets
from luciole.rpc.tcp_client import Fetched

FILES_MAX = 4096  # remembered
# A reply whose bytes travel: one length and one checksum, each with two bytes of encoding.
REPLY_BYTES = len(storage_pb2.ReadPackedReply(
    lengths=pack_numbers([0]), checksums=pack_numbers([0])).SerializeToString())


@runtime_checkable
class Fetching(Protocol):
    """A caller that knows the way of few steps: `BlockingCaller`."""

    def fetch(
        self, method: Method[RequestT, ReplyT], message: bytes, room: memoryview,
        reply_bytes: int, timeout: float,
    ) -> Fetched | None:
        """As `BlockingCaller.fetch`."""


Fetch = Callable[..., Fetched | None]


class _File(NamedTuple):
    """Where the chunks of a file lie."""

    chunk_size: int
    seed: int
    stripe: int
    chain_ids: tuple[int, ...]


class _Chain(NamedTuple):
    """Who serves a chain, and the bytes by which requests name it."""

    named: bytes
    replicas: tuple[Fetch, ...]  # empty: it is not for this way


class _Ways:
    """What is known under one routing table."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.files: dict[int, _File] = {}
        self.chains: dict[int, _Chain] = {}


class SingleReader:
    """Reads of one client. Threads may share it.

    Args:
        turn: where to begin in the order of replicas.
        attempt_seconds: for each read.
    """

    def __init__(
        self, connections: Connections, routing: RoutingCache, turn: int, attempt_seconds: float
    ) -> None:
        self._connections = connections
        self._routing = routing
        self._turn = turn
        self._attempt_seconds = attempt_seconds
        self._ways: _Ways | None = None

    def read(self, inode: meta_pb2.Inode, offset: int, view: memoryview) -> bool:
        """Fills `view`, which is not empty, if the bytes lie in one chunk at rest.

        False: nothing was asked. Raises FsError if the replica that was asked did not answer well:
        others may, or itself if it is asked otherwise.
        """
        ways, table = self._ways, self._routing.current()
        if ways is None or ways.table is not table:
            ways = self._ways = _Ways(table)
        inode_id, size = inode.inode_id, len(view)
        file = ways.files.get(inode_id) or _learn_file(ways, inode)
        index, start = divmod(offset, file.chunk_size)
        if start + size > file.chunk_size or index > CHUNKS_PER_FILE_MAX:
            return False
        chain_ids = file.chain_ids
        chain_id = chain_ids[(file.seed + index % file.stripe) % len(chain_ids)]
        chain = ways.chains.get(chain_id) or self._learn_chain(ways, chain_id)
        if not chain.replicas:
            return False
        self._turn += 1
        fetch = chain.replicas[self._turn % len(chain.replicas)]
        found = fetch(
            STORAGE_READ_PACKED,
            chain.named + CHUNK_READ.pack(KIND_FILE, inode_id, index, start, size), view,
            REPLY_BYTES, self._attempt_seconds)
        if found is None:
            return False
        _accept(found, view)
        return True

    def _learn_chain(self, ways: _Ways, chain_id: int) -> _Chain:
        table, replicas = ways.table, []
        try:
            chain = table.chain(chain_id)
            for target in serving_targets(chain):
                caller = self._connections.node(table.node_of(target))
                if isinstance(caller, Fetching):
                    replicas.append(caller.fetch)
        except FsError:
            return _Chain(b"", ())  # the ordinary way says what is missing
        known = ways.chains[chain_id] = _Chain(
            single_read(chain_id, chain.version), tuple(replicas))
        return known


def _learn_file(ways: _Ways, inode: meta_pb2.Inode) -> _File:
    layout = inode.layout
    if len(ways.files) >= FILES_MAX:
        ways.files = {}
    known = ways.files[inode.inode_id] = _File(
        layout.chunk_size, layout.seed, layout.stripe,
        tuple(ways.table.table(layout.table_id, layout.table_version).chain_ids))
    return known


def _accept(found: Fetched, view: memoryview) -> None:
    """Takes what came. Raises FsError CORRUPT_FRAME, CHECKSUM_MISMATCH, or BUSY: not read."""
    assert isinstance(found.message, bytes)
    try:
        reply = storage_pb2.ReadPackedReply.FromString(found.message)
    except DecodeError as failure:
        raise FsError(Kind.CORRUPT_FRAME, f"the reply cannot be decoded: {failure}") from failure
    lengths = unpack_numbers(reply.lengths)
    length = lengths[0] if len(lengths) == 1 else NOT_READ
    if length == NOT_READ:
        raise FsError(Kind.BUSY, "the replica leaves it to Read")
    if length > len(view):
        raise FsError(Kind.CORRUPT_FRAME, "not the answer to this read")
    if not found.in_place and unpack_numbers(reply.checksums) != (crc32c(view[:length]),):
        raise FsError(Kind.CHECKSUM_MISMATCH, "bytes arrived damaged")
    if length < len(view):
        view[length:] = bytes(len(view) - length)  # a hole
