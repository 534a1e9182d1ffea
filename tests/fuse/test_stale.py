"""ESTALE makes the kernel walk a path anew, and reaches nobody who gave one."""

from __future__ import annotations

import errno

from luciole.client.core.runs import Run
from luciole.client.fuse.direct.drops import Stored, lay_over
from luciole.client.fuse.direct.messages import Request
from luciole.client.fuse.direct.protocol import IN_HEADER, Opcode
from luciole.client.fuse.direct.stale import Walks


def request(opcode: int, thread: int = 77) -> Request:
    return Request(memoryview(IN_HEADER.pack(IN_HEADER.size, opcode, 2, 5, 0, 0, thread, 0, 0)))


def test_the_second_walk_ends_in_enoent() -> None:
    walks = Walks()
    assert walks.errno_of(request(Opcode.MKDIR)) == errno.ESTALE
    walks.other(request(Opcode.LOOKUP))
    walks.other(request(Opcode.GETATTR))
    assert walks.errno_of(request(Opcode.MKDIR, 78)) == errno.ESTALE, "another thread's first"
    assert walks.errno_of(request(Opcode.LOOKUP)) == errno.ENOENT
    assert walks.errno_of(request(Opcode.MKDIR)) == errno.ESTALE, "the first walk of the next call"


def test_a_walk_that_arrives_is_over() -> None:
    walks = Walks()
    assert walks.errno_of(request(Opcode.MKDIR)) == errno.ESTALE
    walks.other(request(Opcode.MKDIR))
    assert walks.errno_of(request(Opcode.MKDIR)) == errno.ESTALE


def test_what_has_no_path_is_told_the_truth() -> None:
    walks = Walks()
    assert [walks.errno_of(request(Opcode.READ)) for _ in range(2)] == [errno.ESTALE] * 2
    assert [walks.errno_of(request(Opcode.OPEN, 0)) for _ in range(2)] == [errno.ESTALE] * 2, \
        "threads of other pid namespaces cannot be told apart"
    assert walks.errno_of(request(Opcode.READDIR)) == errno.ENOENT


def test_staged_bytes_are_laid_over_what_was_read() -> None:
    data = bytearray(b"0123456789")
    lay_over(memoryview(data), 100, [
        Stored(1, Run(98, b"abcd")), Stored(1, Run(104, b"x")), Stored(1, Run(109, b"yz")),
        Stored(1, Run(110, b"q"))])
    assert data == b"cd23x5678y"
