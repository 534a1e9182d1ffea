"""docs/data-layout.md tells the truth: its examples are made here by the code, and compared."""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from luciole.checksum import crc32c
from luciole.client.core.layout import chunk_id
from luciole.kv import lmdb_environment
from luciole.kv.embedded import EmbeddedStore
from luciole.kv.interface import Transaction
from luciole.kv.memory import MemoryStore
from luciole.kv.ranges import RangeSet
from luciole.kvcache.core.slots import SLAB_BYTES
from luciole.kvcache.volume import headers
from luciole.meta.core import schema
from luciole.mgmtd import store
from luciole.proto import meta_pb2, mgmtd_pb2
from luciole.proto.services import META_STAT
from luciole.rpc import frame
from luciole.runtime import ThreadRuntime, drive
from luciole.storage.engine import records
from luciole.storage.engine.blocks import BlockFiles
from luciole.storage.engine.calls import FileCalls
from luciole.storage.engine.interface import Tag
from luciole.storage.server import target_id

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data-layout.md").read_text()
EXAMPLE = re.compile(r"^\| ([^|]+) \| `([0-9a-f]{2}(?: [0-9a-f]{2})+)` \|$", re.M)
CLIENT = b"\x11" * 16
T = TypeVar("T")


def stored(body: Callable[[Transaction], Awaitable[object]]) -> dict[bytes, bytes]:
    """All records of a store after one transaction."""
    kv = MemoryStore(ThreadRuntime())

    async def everything(txn: Transaction) -> dict[bytes, bytes]:
        return {row.key: row.value for row in await txn.get_range(b"", b"\xff")}

    async def run() -> dict[bytes, bytes]:
        await kv.run(body)
        return await kv.run(everything)

    return drive(run())


async def _write_manager_records(txn: Transaction) -> None:
    store.put_chain(txn, mgmtd_pb2.Chain(chain_id=7))
    store.put_table(txn, mgmtd_pb2.ChainTable(table_id=1, version=2))
    store.put_config(txn, "meta", 1, "a=1")


def namespace_examples() -> dict[str, bytes]:
    """Section 1."""
    inode = meta_pb2.Inode(inode_id=1, type=meta_pb2.DIRECTORY, mode=0o755)
    managed = stored(_write_manager_records)
    chain, table = (next(key for key in managed if key.startswith(prefix))
                    for prefix in (b"CHIF", b"CHIT"))
    return {
        "key of inode 4097": schema.inode_key(4097),
        "key of the entry `a.txt` in the root": schema.dentry_key(schema.ROOT_ID, b"a.txt"),
        "value of an entry: inode 4097, a regular file":
            schema.encode_dentry(4097, meta_pb2.REGULAR),
        "key of the times of the root": schema.times_key(schema.ROOT_ID),
        "times: mtime 1 ns, ctime 2 ns": schema.encode_times(1, 2),
        "value of an inode: id 1, directory, mode 0755": schema.encode(inode),
        "key of request 258 of client 11…11": schema.idempotency_key(CLIENT, 258),
        "key of inode 4097 in the list of orphans": schema.listed_key(schema.ORPHAN, 4097),
        "key of the attribute `user.a` of inode 4097": schema.xattr_key(4097, b"user.a"),
        "value of an attribute: `v`": schema.encode_bytes(b"v"),
        "key of chain 7": chain,
        "key of version 2 of table 1": table,
        "configuration version 1, `a=1`": managed[b"CONFmeta"],
    }


def store_examples(directory: Path) -> dict[str, bytes]:
    """Section 2."""
    environment = lmdb_environment.open_databases(
        lmdb_environment.open_handle(str(directory), 1 << 20), str(directory))
    with environment.handle.begin(write=True) as transaction:
        environment.store_state(transaction, lmdb_environment.State(3, 1, 40))
        state = transaction.get(b"luciole-kv-state")
        assert transaction.get(b"luciole-kv-format") == b"2"
    environment.handle.close()
    assert state is not None
    written = RangeSet([(b"a", b"a\0"), (b"b", b"d")])
    return {
        "state: version 3, floor 1, 40 bytes in the log": state,
        "log entry: the key `a`, and `b` to `d`": written.encode(),
    }


def target_examples(directory: Path) -> dict[str, bytes]:
    """Sections 3 and 4."""
    version = records.StoredVersion(
        7, 5, tag=(CLIENT, 1, 9), block=records.Block(0, 42), written=5,
        checksums=(0x04030201).to_bytes(4, "little"))
    assert version.public().tag == Tag(CLIENT, 1, 9)
    files = BlockFiles(directory, FileCalls())
    block = records.Block(10, 20)
    _, position = files.locate(block)
    assert files.where(block) == str(directory / "10-000000")
    files.close()
    chunk = chunk_id(4097, 3)
    return {
        "chunk 3 of inode 4097": chunk,
        "block 20 of class 10 begins in its file at (u64 LE)": position.to_bytes(8, "little"),
        "key of chunk 3 of inode 4097": records.chunk_key(chunk),
        "key of channel 1 of client 11…11": records.applied_key(CLIENT, 1),
        "chunk record: version 7, 5 bytes, update 9 of that channel, block 42 of class 0, checksum "
        "0x04030201; nothing pending": records.encode_record(records.Record(version)),
        "marker: cluster `local`, target 10100000, content 7": records.encode_marker(
            records.Marker(records.FORMAT, "local", target_id(101, 0, 0), 7)),
    }


def frame_examples() -> dict[str, bytes]:
    """Section 6."""
    request = meta_pb2.StatRequest(inode_id=1).SerializeToString()
    return {
        "hello of a client: cluster `local`, name `cli`, kind `client`":
            frame.encode_hello("local", "cli", "client"),
        "request 1: Meta.Stat of inode 1, within 10 s": frame.encode(
            frame.REQUEST, request, service_id=META_STAT.service_id,
            method_id=META_STAT.method_id, deadline_ms=frame.milliseconds(10), request_id=1),
    }


def volume_examples() -> dict[str, bytes]:
    """Section 7."""
    checksums = crc32c(b"abc").to_bytes(4, "little")
    return {
        "volume with slabs of 65 MiB, cluster `local`": headers.encode_volume(SLAB_BYTES, "local"),
        "slab of class 4096, token 7": headers.encode_slab(4096, 7),
        "mark: sequence 3, no boot id": headers.encode_mark(3, ""),
        "header of block `kkkkkkkk`: token 7, sequence 2, created 1, namespace 5, `abc`":
            headers.encode_block(headers.BlockHeader(7, 2, 1, 5, 3, b"k" * 8, checksums)),
    }


def test_examples_are_what_the_code_makes(tmp_path: Path) -> None:
    made = (namespace_examples() | store_examples(tmp_path / "kv")
            | target_examples(tmp_path / "blocks") | frame_examples()
            | volume_examples())
    documented = dict(EXAMPLE.findall(PAGE))
    assert documented == {name: data.hex(" ") for name, data in made.items()}


def test_every_prefix_of_a_key_is_documented() -> None:
    prefixes = {
        value for module in (schema, store) for name, value in vars(module).items()
        if name.isupper() and isinstance(value, bytes) and value[:4].isalpha()}
    documented = {name.encode() for name in re.findall(r"^\| `\"([A-Z]{4}[a-z-]*)\"`", PAGE, re.M)}
    assert prefixes == documented


def test_long_keys_share_a_record(tmp_path: Path) -> None:
    key = b"k" * 511
    kv = EmbeddedStore(tmp_path, ThreadRuntime())

    async def body(txn: Transaction) -> None:
        txn.set(key + b"b", b"2")
        txn.set(key + b"a", b"1")

    drive(kv.run(body))
    kv.close()
    environment = lmdb_environment.open_databases(
        lmdb_environment.open_handle(str(tmp_path), 1 << 30), str(tmp_path))
    with environment.handle.begin(db=environment.records) as transaction:
        assert transaction.get(key) == bytes.fromhex("92 92 c401 61 c401 31 92 c401 62 c401 32")
    environment.handle.close()


def test_fields_of_the_header_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", PAGE, re.M)
    fields = re.findall(r"\d*[a-zA-Z]", frame.HEADER.format)
    sizes = [struct.calcsize("<" + field) for field in fields]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    assert [(int(offset), int(size)) for offset, size in rows] == list(
        zip(offsets, sizes, strict=True))
