"""Handlers for extended attributes, access control lists among them.

Layer: shell. As `names`. Source: getxattr(2), listxattr(2): a size of 0 asks how long the answer
is, and one that is too small is refused with ERANGE.
"""

from __future__ import annotations

import errno

from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.context import Context
from luciole.client.fuse.direct.messages import MALFORMED, RefusedError, Request
from luciole.limits import XATTR_LIST_BYTES_MAX
from luciole.proto import meta_pb2

_NAME_BYTE_MIN = 0x20


async def setxattr(context: Context, request: Request) -> bytes:
    """setxattr(2)."""
    size, flags = request.fields(protocol.SETXATTR_IN)
    start, more = protocol.SETXATTR_IN.size, 0
    # A name begins with a letter, the flags of the longer structure with a small number.
    if len(request.body) > start and request.body[start] < _NAME_BYTE_MIN:
        start = protocol.SETXATTR_IN_EXTENDED.size
        more = request.fields(protocol.SETXATTR_IN_EXTENDED)[2]
    name = request.name(start)
    value = bytes(request.body[start + len(name) + 1 :])
    if len(value) != size:
        raise RefusedError(MALFORMED)
    await context.as_caller(request, lambda who: context.operations.xattrs.set(
        meta_pb2.SetXattrRequest(
            credential=who, inode_id=request.node, name=name, value=value,
            create=bool(flags & protocol.XATTR_CREATE),
            replace=bool(flags & protocol.XATTR_REPLACE),
            clear_setgid=bool(more & protocol.SETXATTR_ACL_KILL_SGID))))
    return b""


async def getxattr(context: Context, request: Request) -> bytes:
    """getxattr(2)."""
    size = request.fields(protocol.GETXATTR_IN)[0]
    name = request.name(protocol.GETXATTR_IN.size)
    return _sized(size, await context.as_caller(
        request, lambda who: context.operations.xattrs.get(who, request.node, name)))


async def listxattr(context: Context, request: Request) -> bytes:
    """listxattr(2)."""
    size = request.fields(protocol.GETXATTR_IN)[0]
    names = await context.as_caller(
        request, lambda who: context.operations.xattrs.list(who, request.node))
    answer = b"".join(name + b"\0" for name in names)
    if len(answer) > XATTR_LIST_BYTES_MAX:
        raise RefusedError(errno.E2BIG)
    return _sized(size, answer)


def _sized(size: int, answer: bytes) -> bytes:
    """The answer, or only its length when that is the question."""
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(answer), 0)
    if len(answer) > size:
        raise RefusedError(errno.ERANGE)
    return answer


async def removexattr(context: Context, request: Request) -> bytes:
    """removexattr(2)."""
    name = request.name()
    await context.as_caller(
        request, lambda who: context.operations.xattrs.remove(who, request.node, name))
    return b""
