"""When the kernel may have missed a length, and when it has it."""

from __future__ import annotations

import pytest

from luciole.client.fuse.direct import lengths, protocol
from luciole.client.fuse.direct.lengths import Lengths
from luciole.client.fuse.direct.messages import Request
from luciole.client.fuse.direct.protocol import Opcode
from luciole.proto import meta_pb2

FILE = 7


def asking(*, flags: int = protocol.GETATTR_FH, node: int = FILE) -> Request:
    body = protocol.GETATTR_IN.pack(flags, 0, 1)
    size = protocol.IN_HEADER.size + len(body)
    return Request(memoryview(
        protocol.IN_HEADER.pack(size, Opcode.GETATTR, 2, node, 0, 0, 1, 0, 0) + body))


def of(length: int, truncate_version: int = 0) -> meta_pb2.Inode:
    return meta_pb2.Inode(inode_id=FILE, length=length, truncate_version=truncate_version)


def test_only_open_files_that_were_invalidated_are_in_doubt() -> None:
    made = Lengths()
    assert not made.doubt(asking())
    made.invalidated(FILE)
    assert made.doubt(asking())
    assert not made.doubt(asking(flags=0)), "stat(2) takes the answer itself"
    assert not made.doubt(asking(node=FILE + 1))
    made.forget(FILE)
    assert not made.doubt(asking())


def test_a_length_that_was_given_ends_the_doubt_until_it_is_invalidated_again() -> None:
    made = Lengths()
    made.invalidated(FILE)
    doubt = made.doubt(asking())
    made.invalidated(FILE)  # after the file was asked for, perhaps
    made.settle(of(10), doubt)
    assert made.doubt(asking())
    made.settle(of(10), made.doubt(asking()))
    assert not made.doubt(asking())
    made.invalidated(FILE)
    assert made.doubt(asking())


def test_only_a_longer_file_or_one_that_was_cut_is_given_again() -> None:
    made = Lengths()
    made.invalidated(FILE)
    assert made.missing(of(10))
    assert not made.missing(of(0)), "there is nothing to give"
    made.settle(of(10), made.doubt(asking()))
    assert not made.missing(of(10))
    assert made.missing(of(11))
    assert made.missing(of(5, truncate_version=1)), "it may have been shorter meanwhile"


def test_the_file_that_was_invalidated_longest_ago_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lengths, "FILES_MAX", 2)
    made = Lengths()
    for node in (1, 2, 1, 3):
        made.invalidated(node)
    assert [bool(made.doubt(asking(node=node))) for node in (1, 2, 3)] == [True, False, True]
