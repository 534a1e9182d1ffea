"""The direct binding without a kernel: layouts, negotiation, requests that hold anything."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luciole.client.fuse.direct import memory, negotiation, protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.dispatch import NO_REPLY, TABLE, Dispatcher
from luciole.client.fuse.direct.drops import Drops
from luciole.client.fuse.direct.memory import Pool
from luciole.client.fuse.direct.messages import RefusedError, Request, Validity
from luciole.client.fuse.direct.protocol import Init, Opcode
from luciole.runtime import ThreadRuntime, drive
from luciole.tests.fuse.memory_cluster import MemoryCluster

# sizeof in linux/fuse.h, as the C compiler has it.
SIZES = {
    "IN_HEADER": 40, "OUT_HEADER": 16, "INIT_OUT": 64, "ATTR": 88, "ATTR_OUT": 104,
    "ENTRY_OUT": 128, "OPEN_OUT": 16, "WRITE_OUT": 8, "STATFS_OUT": 80, "DIRENT": 24,
    "GETATTR_IN": 16, "SETATTR_IN": 88, "MKNOD_IN": 16, "MKDIR_IN": 8, "RENAME_IN": 8,
    "RENAME2_IN": 16, "LINK_IN": 8, "OPEN_IN": 8, "CREATE_IN": 16, "READ_IN": 40, "WRITE_IN": 40,
    "RELEASE_IN": 24, "FLUSH_IN": 24, "FSYNC_IN": 16, "INTERRUPT_IN": 8, "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8, "SETXATTR_IN": 8, "GETXATTR_IN": 8, "LOCK_IN": 48, "ACCESS_IN": 8,
    "BMAP_IN": 16, "IOCTL_IN": 32, "POLL_IN": 24, "FALLOCATE_IN": 32, "LSEEK_IN": 24,
    "COPY_FILE_RANGE_IN": 56, "STATX_IN": 24, "NOTIFY_INVAL_INODE_OUT": 24,
    "NOTIFY_INVAL_ENTRY_OUT": 16, "NOTIFY_DELETE_OUT": 24, "NOTIFY_STORE_OUT": 24,
}


def message(opcode: int, body: bytes, *, node: int = 1, extensions: int = 0) -> bytes:
    return protocol.IN_HEADER.pack(
        protocol.IN_HEADER.size + len(body), opcode, 7, node, 0, 0, 0, extensions, 0) + body


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[Dispatcher]:
    cluster = MemoryCluster(ThreadRuntime())
    drive(cluster.start())
    operations = cluster.client(b"direct test cli.", None)
    yield Dispatcher(Context(
        operations, Validity.of(1.0, 1.0), Validity.of(1.0, 1.0),
        Drops(operations, lambda inode_id, offset: True)))
    drive(operations.close_all())


def test_structures_have_the_sizes_of_the_header() -> None:
    found = {name: getattr(protocol, name).size for name in SIZES}
    assert found == SIZES


def test_every_opcode_has_an_answer() -> None:
    special = {Opcode.INIT, Opcode.DESTROY, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING,
               Opcode.SYNCFS}  # DAX and virtiofs, which there is none of: ENOSYS
    assert set(Opcode) == {Opcode(number) for number in TABLE} | NO_REPLY | special


@pytest.mark.parametrize("content", [
    b"", b"x" * 39, message(1, b"")[:-1], message(1, b"a\0") + b"more",
    message(1, b"", extensions=6), b"\xff" * 40])
def test_what_is_not_one_whole_message_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError):
        Request(memoryview(content))


@pytest.mark.parametrize("body", [b"", b"\0", b"no end", b"x" * 256 + b"\0", b"a\0b\0c"])
def test_names_are_checked(dispatcher: Dispatcher, body: bytes) -> None:
    answer = dispatcher.answer(Request(memoryview(message(Opcode.SYMLINK, body))))
    assert answer in {errno.EIO, errno.ENAMETOOLONG} or body == b"a\0b\0c"


# INIT alone may come at any time without harm: the last agreement is kept.
BODIES = st.one_of(
    st.binary(max_size=150),
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 5), max_size=12).map(
        lambda numbers: Struct(f"={len(numbers)}Q").pack(*numbers)),
    st.tuples(st.binary(max_size=56), st.binary(min_size=1, max_size=20)).map(
        lambda parts: parts[0] + parts[1].replace(b"\0", b"n") + b"\0"),
)


@given(
    opcode=st.sampled_from(sorted(Opcode)) | st.integers(0, (1 << 32) - 1),
    node=st.integers(0, 5) | st.integers(0, (1 << 64) - 1), body=BODIES)
@settings(max_examples=600, deadline=None)
def test_no_request_breaks_the_dispatcher(
    dispatcher: Dispatcher, opcode: int, node: int, body: bytes
) -> None:
    room = memoryview(bytearray(1 << 16))
    answer = dispatcher.answer(Request(memoryview(message(opcode, body, node=node)), room))
    if opcode in NO_REPLY:
        assert answer is None
    elif isinstance(answer, int):
        assert 0 < answer < 4096
        assert errno.errorcode[answer]
    else:
        assert answer is not None


def test_a_body_that_is_too_short_is_an_error_for_every_structure(dispatcher: Dispatcher) -> None:
    for opcode, row in TABLE.items():
        if row.body_bytes_min:
            body = bytes(row.body_bytes_min - 1)
            assert dispatcher.answer(Request(memoryview(message(opcode, body)))) == errno.EIO


def init_request(major: int, minor: int, low: int, high: int | None) -> Request:
    body = Struct("=IIII").pack(major, minor, 1 << 17, low)
    if high is not None:
        body += Struct("=I44x").pack(high)
    return Request(memoryview(message(Opcode.INIT, body, node=0)))


def test_negotiation_takes_only_what_is_offered() -> None:
    everything, none = (1 << 32) - 1, 0
    agreed, reply = negotiation.negotiate(init_request(7, 45, everything, everything))
    assert agreed.flags == negotiation.WANTED
    assert agreed.max_write == 1 << 20
    fields = protocol.INIT_OUT.unpack(reply)
    assert fields[:2] == (7, protocol.KERNEL_MINOR)
    assert fields[3] | fields[-1] << 32 == negotiation.WANTED
    agreed, reply = negotiation.negotiate(init_request(7, 31, none, None))
    assert (agreed.flags, agreed.minor) == (Init(0), 31)
    assert agreed.max_write == 128 * 1024
    # Flags above 32 are not looked at unless the kernel says that they are there.
    agreed, _ = negotiation.negotiate(
        init_request(7, 45, everything & ~Init.INIT_EXT, everything))
    assert agreed.flags < 1 << 32


@pytest.mark.parametrize("version", [(6, 45), (8, 0), (7, 30)])
def test_kernels_that_speak_otherwise_are_refused(version: tuple[int, int]) -> None:
    with pytest.raises(RefusedError):
        negotiation.negotiate(init_request(*version, 0, None))


def test_memory_is_used_again_only_when_nobody_looks_at_it() -> None:
    pool = Pool(1 << 16)
    buffer = pool.take()
    buffer.whole[:4] = b"kept"
    kept = buffer.whole[:4].toreadonly()
    del buffer
    assert pool.free_count == 0
    other = pool.take()
    other.whole[:4] = b"else"
    assert bytes(kept) == b"kept"
    del kept
    assert pool.free_count == 1
    again = pool.take()
    assert pool.free_count == 0
    assert bytes(again.whole[:4]) == b"kept"
    del again, other
    assert pool.free_count == 2


def test_a_payload_begins_where_writes_put_it() -> None:
    buffer = Pool(1 << 16).take()
    buffer.payload[:4] = b"data"
    assert bytes(buffer.whole[memory.BEFORE_PAYLOAD :][:4]) == b"data"
    assert len(buffer.whole) >= memory.BEFORE_PAYLOAD + (1 << 16)
