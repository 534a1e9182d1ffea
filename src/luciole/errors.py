"""The one exception of the project, and what each of its kinds means to a caller.

Layer: pure (cores raise it too). Every kind has three facts in `FACTS`: the errno an application
sees, whether and how a caller may try again, and whether the failed request may have taken
effect. Nothing else decides retries; only the FUSE and native edges look at errno.
"""

from __future__ import annotations

import enum
import errno
from typing import NamedTuple

from luciole.proto import common_pb2

Kind = common_pb2.ErrorKind
for _name, _number in Kind.items():
    # Its attributes are looked up by a function each time, and every check names a kind.
    setattr(Kind, _name, _number)


class Retry(enum.Enum):
    """What a caller may do after an error."""

    NEVER = "never"
    SAME = "same request again, after a pause"
    REROUTE = "same request again, with newer routing"


class Facts(NamedTuple):
    """What one error kind means."""

    errno: int
    retry: Retry = Retry.NEVER
    maybe_applied: bool = False


FACTS: dict[int, Facts] = {
    Kind.INTERNAL: Facts(errno.EIO, Retry.NEVER, maybe_applied=True),
    Kind.INVALID_ARGUMENT: Facts(errno.EINVAL),
    Kind.UNAUTHENTICATED: Facts(errno.EACCES),
    Kind.DEADLINE_EXCEEDED: Facts(errno.ETIMEDOUT, Retry.SAME, maybe_applied=True),
    Kind.UNAVAILABLE: Facts(errno.EIO, Retry.REROUTE),
    Kind.CONNECTION_LOST: Facts(errno.EIO, Retry.REROUTE, maybe_applied=True),
    Kind.CORRUPT_FRAME: Facts(errno.EIO, Retry.SAME, maybe_applied=True),
    Kind.UNIMPLEMENTED: Facts(errno.ENOSYS),
    Kind.WRONG_CLUSTER: Facts(errno.EIO),
    Kind.CONFIG_INVALID: Facts(errno.EINVAL),
    Kind.KV_CONFLICT: Facts(errno.EAGAIN, Retry.SAME),
    Kind.KV_TOO_OLD: Facts(errno.EAGAIN, Retry.SAME),
    Kind.KV_TOO_LARGE: Facts(errno.E2BIG),
    Kind.KV_MAYBE_COMMITTED: Facts(errno.EIO, Retry.SAME, maybe_applied=True),
    Kind.NOT_FOUND: Facts(errno.ENOENT),
    Kind.EXISTS: Facts(errno.EEXIST),
    Kind.NOT_DIRECTORY: Facts(errno.ENOTDIR),
    Kind.IS_DIRECTORY: Facts(errno.EISDIR),
    Kind.NOT_EMPTY: Facts(errno.ENOTEMPTY),
    Kind.ACCESS_DENIED: Facts(errno.EACCES),
    Kind.NOT_PERMITTED: Facts(errno.EPERM),
    Kind.NAME_TOO_LONG: Facts(errno.ENAMETOOLONG),
    Kind.TOO_MANY_LINKS: Facts(errno.EMLINK),
    Kind.STALE_HANDLE: Facts(errno.ESTALE),
    Kind.FILE_TOO_LARGE: Facts(errno.EFBIG),
    Kind.LOOP: Facts(errno.EINVAL),
    Kind.BUSY: Facts(errno.EBUSY, Retry.SAME),
    Kind.NO_SESSION: Facts(errno.EBADF),
    Kind.READ_ONLY: Facts(errno.EROFS),
    Kind.NO_ATTRIBUTE: Facts(errno.ENODATA),
    Kind.NOT_SUPPORTED: Facts(errno.EOPNOTSUPP),
    Kind.OUT_OF_RANGE: Facts(errno.ERANGE),
    Kind.ARGUMENT_TOO_LARGE: Facts(errno.E2BIG),
    Kind.QUOTA_EXCEEDED: Facts(errno.EDQUOT),
    Kind.CROSS_QUOTA: Facts(errno.EXDEV),
    Kind.NOT_INLINE: Facts(errno.EIO),
    Kind.LOCKED: Facts(errno.EAGAIN),
    Kind.DEADLOCK: Facts(errno.EDEADLK),
    Kind.NO_LOCKS: Facts(errno.ENOLCK),
    Kind.INTERRUPTED: Facts(errno.EINTR),
    Kind.LOCKS_LOST: Facts(errno.EIO),
    Kind.CHAIN_VERSION_MISMATCH: Facts(errno.EIO, Retry.REROUTE),
    Kind.NOT_SERVING: Facts(errno.EIO, Retry.REROUTE),
    Kind.CHUNK_NOT_FOUND: Facts(errno.EIO),
    Kind.CHECKSUM_MISMATCH: Facts(errno.EIO, Retry.SAME),
    Kind.NO_SPACE: Facts(errno.ENOSPC),
    Kind.MISSING_UPDATE: Facts(errno.EIO, Retry.REROUTE),
    Kind.STALE_UPDATE: Facts(errno.EIO),
    Kind.NOT_PRIMARY: Facts(errno.EIO, Retry.REROUTE),
    Kind.DISK_FAILED: Facts(errno.EIO, Retry.REROUTE),
    Kind.DATA_LOST: Facts(errno.EIO),
}


class FsError(Exception):
    """An operation failed: `kind` says how a caller reacts, `subject` what it is about."""

    def __init__(self, kind: Kind, message: str, subject: str = "") -> None:
        super().__init__(kind, message, subject)
        self.kind = kind
        self.message = message
        self.subject = subject

    def __str__(self) -> str:
        name = common_pb2.ErrorKind.Name(self.kind).lower().replace("_", " ")
        about = f" ({self.subject})" if self.subject else ""
        return f"{name}: {self.message}{about}"

    @property
    def facts(self) -> Facts:
        """errno, retry behaviour and maybe-applied of this kind."""
        return FACTS[self.kind]

    def to_proto(self) -> common_pb2.Error:
        """The form that travels."""
        return common_pb2.Error(kind=self.kind, message=self.message, subject=self.subject)

    @classmethod
    def from_proto(cls, error: common_pb2.Error) -> FsError:
        """The error that a peer sent. A kind newer than this program counts as INTERNAL."""
        kind = error.kind if error.kind in FACTS else Kind.INTERNAL
        return cls(kind, error.message, error.subject)


def require(condition: bool, kind: Kind, message: str, subject: str = "") -> None:
    """Raises FsError unless `condition` holds."""
    if not condition:
        raise FsError(kind, message, subject)
