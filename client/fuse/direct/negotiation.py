"""INIT: what the kernel and this program agree on, once for each mount.

Layer: pure. A flag stands in `WANTED` only if the handlers keep what it promises.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from luciole.client.fuse.direct import protocol
from luciole.client.fuse.direct.messages import RefusedError, Request
from luciole.client.fuse.direct.protocol import Init

# The kernel's own limit without sysctl fs.fuse.max_pages_limit; more gained 3 % at most.
REQUEST_BYTES_MAX = 1 << 20
BACKGROUND = 64  # requests without a waiting thread (read-ahead) that the kernel sends at once
_UPPER = 32
_WORD = (1 << _UPPER) - 1

WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.AUTO_INVAL_DATA  # pages go when a GETATTR shows another time or length
    | Init.ASYNC_DIO
    | Init.BIG_WRITES
    | Init.DIRECT_IO_ALLOW_MMAP
    | Init.DO_READDIRPLUS
    | Init.DONT_MASK  # the umask is the service's to apply: a default ACL may stand in its place
    | Init.FLOCK_LOCKS
    | Init.POSIX_LOCKS
    | Init.EXPORT_SUPPORT  # LOOKUP knows "." and ".."
    | Init.HANDLE_KILLPRIV_V2  # spares the kernel asking for capabilities at each write
    | Init.INIT_EXT
    | Init.MAX_PAGES
    | Init.PARALLEL_DIROPS
    | Init.POSIX_ACL
    | Init.READDIRPLUS_AUTO
    | Init.SETXATTR_EXT
)


class Agreed(NamedTuple):
    """The outcome."""

    minor: int
    flags: Init
    max_write: int


def negotiate(request: Request) -> tuple[Agreed, bytes]:
    """What to agree on, and the reply that says so. Raises RefusedError for another protocol."""
    major, minor, max_readahead, low = request.fields(protocol.INIT_IN)
    if major != protocol.KERNEL_VERSION or minor < protocol.KERNEL_MINOR_MIN:
        raise RefusedError(errno.EPROTO)
    offered = low
    if low & Init.INIT_EXT and len(request.body) >= protocol.INIT_IN_EXTENDED.size:
        offered |= request.fields(protocol.INIT_IN_EXTENDED)[-1] << _UPPER
    flags = Init(WANTED & offered)
    agreed = Agreed(min(minor, protocol.KERNEL_MINOR), flags, REQUEST_BYTES_MAX)
    if not flags & Init.MAX_PAGES:
        agreed = agreed._replace(max_write=32 * protocol.PAGE)
    return agreed, protocol.INIT_OUT.pack(
        protocol.KERNEL_VERSION, agreed.minor, max_readahead, int(flags) & _WORD, BACKGROUND,
        BACKGROUND, agreed.max_write, 1, agreed.max_write // protocol.PAGE, 0,
        int(flags) >> _UPPER)
