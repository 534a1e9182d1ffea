"""The KV cache as files: `.luciole/kv/NAMESPACE/XX/KEY` of a mount, XX the first byte of the key.

Layer: shell, under the mount's operations (client/side_tree.py). Everything is asked of routing and
of the volumes at that moment, and none of it counts as a use of a block, but reading it.

A directory's number says what it is. Blocks have keys that are longer than a number, so each that
was met has a number from a counter: never used again, so what the kernel keeps under it is that
block's. Of blocks and numbers the last `KNOWN_MAX` are remembered (some 25 MB); what is forgotten
is STALE_HANDLE, upon which the kernel walks the path once more. The lock guards that table.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import NamedTuple

from luciole.client.remote.connections import Connections
from luciole.client.remote.manager import RoutingCache
from luciole.client.side_tree import FIRST, ROOT_ID, Read
from luciole.errors import FsError, Kind
from luciole.kvcache.asking import Volumes
from luciole.kvcache.core.outcomes import Outcome
from luciole.kvcache.core.packing import KEY_BYTES_MAX, KEY_BYTES_MIN
from luciole.kvcache.listing import describe, list_blocks
from luciole.kvcache.memory import MemoryTier
from luciole.kvcache.namespace import Blocks
from luciole.kvcache.statistics import Statistics
from luciole.proto import kvcache_pb2, meta_pb2, mgmtd_pb2
from luciole.runtime import Runtime

ASK_S = 5.0
KNOWN_MAX = 65_536
DIRECTORY_MODE, FILE_MODE = 0o500, 0o400  # what is cached tells of prompts: for who mounts alone
KV = FIRST + 1
NAME_KV = b"kv"
# FIRST + _SPACES + namespace id << 16, + 256 + XX: a namespace, and its directories.
_SPACES, _BLOCKS = 1 << 60, 1 << 61
_SHIFT, _BYTES = 16, 256
BYTE_NAMES = tuple(b"%02x" % byte for byte in range(256))


class _Block(NamedTuple):
    """A block that has a number."""

    namespace_id: int
    key: bytes


class BlockTree:
    """All namespaces of a cluster as directories.

    Args:
        runtime: whose clock and whose way to do several things at once.
        connections: to the nodes.
        routing: kept up to date by somebody else.
    """

    def __init__(
        self, runtime: Runtime, connections: Connections, routing: RoutingCache
    ) -> None:
        self._routing = routing
        self._volumes = Volumes(runtime, connections, routing)
        self._began_ns = runtime.clock.wall_ns()
        self._tier = MemoryTier(0, runtime.clock)
        self._statistics = Statistics()
        self._guard = threading.Lock()
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._numbers: dict[_Block, int] = {}
        self._next = FIRST + _BLOCKS

    # Numbers.

    def _number(self, block: _Block) -> int:
        """The number of a block, which is new if the block is not remembered."""
        with self._guard:
            number = self._numbers.get(block)
            if number is None:
                number = self._numbers[block] = self._next
                self._next += 1
                self._blocks[number] = block
                if len(self._blocks) > KNOWN_MAX:
                    _, oldest = self._blocks.popitem(last=False)
                    del self._numbers[oldest]
            else:
                self._blocks.move_to_end(number)
        return number

    def _block(self, number: int) -> _Block:
        with self._guard:
            block = self._blocks.get(number)
        if block is None:
            raise _gone(f"number {number}")
        return block

    def _place(self, number: int) -> tuple[mgmtd_pb2.KvNamespace, bytes]:
        """Of a namespace's directories: the namespace, and the first byte of the keys if any."""
        namespace_id, slot = divmod(number - FIRST - _SPACES, 1 << _SHIFT)
        first = bytes([slot - _BYTES]) if _BYTES <= slot < 2 * _BYTES else b""
        return self._record(namespace_id), first

    def _record(self, namespace_id: int) -> mgmtd_pb2.KvNamespace:
        for record in self._routing.current().kv_namespaces():
            if record.namespace_id == namespace_id:
                return record
        raise _gone(f"kv namespace {namespace_id}")

    # What things look like.

    def _directory(self, number: int, parent: int) -> meta_pb2.Inode:
        # One link says that subdirectories are not counted.
        return meta_pb2.Inode(
            inode_id=number, type=meta_pb2.DIRECTORY, mode=DIRECTORY_MODE, nlink=1, parent=parent,
            uid=os.geteuid(), gid=os.getegid(), atime_ns=self._began_ns, mtime_ns=self._began_ns,
            ctime_ns=self._began_ns, btime_ns=self._began_ns)

    def _file(self, namespace_id: int, block: kvcache_pb2.KvBlock) -> meta_pb2.Inode:
        stored = block.created_ns
        return meta_pb2.Inode(
            inode_id=self._number(_Block(namespace_id, block.key)), type=meta_pb2.REGULAR,
            mode=FILE_MODE, nlink=1, uid=os.geteuid(), gid=os.getegid(), length=block.length,
            parent=_directory_number(namespace_id, block.key[:1]),
            atime_ns=stored, mtime_ns=stored, ctime_ns=stored, btime_ns=stored)

    async def inode(self, number: int) -> meta_pb2.Inode:
        """As `Tree.inode`."""
        if number == FIRST:
            return self._directory(number, ROOT_ID)
        if number == KV:
            return self._directory(number, FIRST)
        if number < FIRST + _BLOCKS:
            record, first = self._place(number)
            return self._directory(
                number, _directory_number(record.namespace_id) if first else KV)
        block = self._block(number)
        return await self._look(self._record(block.namespace_id), block.key)

    async def _look(self, record: mgmtd_pb2.KvNamespace, key: bytes) -> meta_pb2.Inode:
        """A block's inode. Raises FsError STALE_HANDLE if it is not there, UNAVAILABLE."""
        found, outcome = await describe(self._volumes, record, key, ASK_S)
        if found is None:
            raise _missing(outcome, key)
        return self._file(record.namespace_id, found)

    async def lookup(self, parent: int, name: bytes) -> meta_pb2.Inode:
        """As `Tree.lookup`."""
        if parent == FIRST and name == NAME_KV:
            return await self.inode(KV)
        if parent == KV:
            for record in self._routing.current().kv_namespaces():
                if record.name.encode() == name:
                    return await self.inode(_directory_number(record.namespace_id))
        if FIRST + _SPACES <= parent < FIRST + _BLOCKS:
            record, first = self._place(parent)
            if not first and name in BYTE_NAMES:
                return await self.inode(
                    _directory_number(record.namespace_id, bytes.fromhex(name.decode())))
            key = _key_of(name) if first else None
            if key is not None and key.startswith(first):
                try:
                    return await self._look(record, key)
                except FsError as failure:
                    if failure.kind != Kind.STALE_HANDLE:
                        raise
        raise FsError(Kind.NOT_FOUND, "the KV cache has nothing of this name", repr(name))

    async def page(
        self, number: int, after: bytes, limit: int
    ) -> tuple[list[meta_pb2.DirEntry], bool]:
        """As `Tree.page`."""
        entries: dict[bytes, meta_pb2.Inode] = {}
        more = False
        if number == FIRST:
            entries[NAME_KV] = await self.inode(KV)
        elif number == KV:
            for record in self._routing.current().kv_namespaces():
                entries[record.name.encode()] = await self.inode(
                    _directory_number(record.namespace_id))
        else:
            record, first = self._place(number)
            if first:
                blocks, more = await list_blocks(
                    self._volumes, record.namespace_id, first, _key_of(after) or b"",
                    limit=limit, seconds=ASK_S)
                entries = {block.key.hex().encode(): self._file(record.namespace_id, block)
                           for block in blocks}
            else:
                for byte, name in enumerate(BYTE_NAMES):
                    entries[name] = await self.inode(
                        _directory_number(record.namespace_id, bytes([byte])))
        return [meta_pb2.DirEntry(
            dentry=meta_pb2.Dentry(name=name, inode_id=inode.inode_id, type=inode.type),
            inode=inode) for name, inode in sorted(entries.items()) if name > after], more

    async def open(self, number: int) -> tuple[meta_pb2.Inode, Read]:
        """As `Tree.open`. Reading raises FsError STALE_HANDLE when the block has gone."""
        block = self._block(number)
        record = self._record(block.namespace_id)
        blocks = Blocks(record, self._volumes, self._tier, self._statistics)

        async def read(offset: int, data: memoryview) -> None:
            [outcome] = await blocks.get([block.key], [data], offset, ASK_S)
            if not outcome.ok:
                raise _missing(outcome, block.key)

        return await self._look(record, block.key), read


def _directory_number(namespace_id: int, first: bytes = b"") -> int:
    """Of a namespace's directory, or the one in it of keys that begin with `first`."""
    return FIRST + _SPACES + (namespace_id << _SHIFT) + (_BYTES + first[0] if first else 0)


def _key_of(name: bytes) -> bytes | None:
    """The key that a file's name says, or None: each key has one name only."""
    try:
        key = bytes.fromhex(name.decode("ascii"))
    except ValueError:
        return None
    whole = KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX and key.hex().encode() == name
    return key if whole else None


def _gone(what: str) -> FsError:
    return FsError(Kind.STALE_HANDLE, "this is no longer in the KV cache", what)


def _missing(outcome: Outcome, key: bytes) -> FsError:
    """Why a block cannot be had."""
    if outcome is Outcome.MISS or outcome is Outcome.WRONG_SIZE:
        return _gone(f"block {key.hex()}")
    kind = Kind.DATA_LOST if outcome is Outcome.DAMAGED else Kind.UNAVAILABLE
    return FsError(kind, f"the block {outcome.value}", key.hex())
