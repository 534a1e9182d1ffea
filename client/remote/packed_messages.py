"""One message of packed reads: what goes into it, and what its answer is good for.

Layer: pure, below `PackedReader`, which deals reads to messages and sends them.
"""

from __future__ import annotations

from collections.abc import Iterator

from luciole.checksum import crc32c
from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2, storage_pb2
from luciole.proto.packed import NOT_READ, unpack_numbers

READS_MAX = 1024  # of one message
BYTES_MAX = 4 << 20  # of one message: more goes side by side


class Reads:
    """Reads of one chain, in order: as records, whose they are, and where the bytes go."""

    __slots__ = ("owners", "records", "views")

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.owners: list[int] = []
        self.views: list[memoryview] = []

    def parts(self) -> Iterator[tuple[Reads, int]]:
        """Itself, or pieces of it that fit one message each; each with its size in bytes."""
        size = sum(map(len, self.views))
        if len(self.owners) <= READS_MAX and size <= BYTES_MAX:
            yield self, size
            return
        part, size = Reads(), 0
        for record, owner, view in zip(self.records, self.owners, self.views, strict=True):
            if part.owners and (len(part.owners) == READS_MAX or size + len(view) > BYTES_MAX):
                yield part, size
                part, size = Reads(), 0
            part.records.append(record)
            part.owners.append(owner)
            part.views.append(view)
            size += len(view)
        yield part, size


class Batch:
    """The reads of one message."""

    def __init__(self, node: mgmtd_pb2.Node) -> None:
        self.node = node
        self.count = 0
        self.size = 0
        self.parts: list[tuple[mgmtd_pb2.Chain, Reads]] = []

    def has_room(self, count: int, size: int) -> bool:
        """Whether so many more reads and bytes go into this message."""
        return self.count + count <= READS_MAX and self.size + size <= BYTES_MAX

    def add(self, chain: mgmtd_pb2.Chain, reads: Reads, size: int) -> None:
        """Takes reads of a chain that the node serves."""
        self.parts.append((chain, reads))
        self.count += len(reads.owners)
        self.size += size


class Message:
    """A batch as a request. `sent`: the bytes of the answer travelled."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.owners: list[int] = []
        self.views: list[memoryview] = []
        self.request = storage_pb2.ReadPackedRequest()
        self.sent = False
        for chain, reads in batch.parts:
            self.owners += reads.owners
            self.views += reads.views
            self.request.batches.add(
                chain=storage_pb2.VersionedChain(chain_id=chain.chain_id, version=chain.version),
                records=b"".join(reads.records))
        self._sizes = tuple(map(len, self.views))

    def sink(self, reply: storage_pb2.ReadPackedReply) -> list[memoryview]:
        """Where the bytes go that travel."""
        self.sent = True
        return [view[:length] for view, length
                in zip(self.views, self._lengths(reply), strict=True) if length != NOT_READ]

    def left(self, reply: storage_pb2.ReadPackedReply) -> list[int]:
        """Whose reads are left over; the others' buffers are full. Raises FsError CORRUPT_FRAME."""
        lengths = self._lengths(reply)
        if not self.sent and lengths == self._sizes:
            return []
        checksums = unpack_numbers(reply.checksums) if self.sent else ()
        if self.sent and len(checksums) != len(self.views):
            return self.owners
        left: list[int] = []
        for number, length in enumerate(lengths):
            view = self.views[number]
            if length == NOT_READ or (
                    self.sent and crc32c(view[:length]) != checksums[number]):
                left.append(self.owners[number])
            elif length < len(view):
                view[length:] = bytes(len(view) - length)  # a hole
        return left

    def _lengths(self, reply: storage_pb2.ReadPackedReply) -> tuple[int, ...]:
        lengths, sizes = unpack_numbers(reply.lengths), self._sizes
        if lengths != sizes and (len(lengths) != len(sizes) or any(
                length > size and length != NOT_READ
                for length, size in zip(lengths, sizes, strict=True))):
            raise FsError(Kind.CORRUPT_FRAME, "not the answer to these reads")
        return lengths
