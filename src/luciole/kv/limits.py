"""FoundationDB's limits, enforced alike by every engine.

Layer: pure. Two rules are a little stricter than FoundationDB's, so that every engine can keep
them: the empty key cannot be written, and a range that ends before it begins is always refused.
Keys from 0xff on belong to FoundationDB itself. Source: FoundationDB, "Known limitations".
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import KEY_BYTES_MAX, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX

KEYS_END = b"\xff"
ADD_MIN = -(1 << 63)
ADD_MAX = (1 << 63) - 1
STAMP_BYTES = 10

_SHOWN_BYTES = 64


def shown(key: bytes) -> str:
    """A key as an error message names it: cut when it is long."""
    return repr(key) if len(key) <= _SHOWN_BYTES else f"{key[:_SHOWN_BYTES]!r}... {len(key)} bytes"


def check_read(key: bytes) -> None:
    """Raises FsError INVALID_ARGUMENT for a key that no user record can have."""
    if key >= KEYS_END:
        raise FsError(Kind.INVALID_ARGUMENT, "keys from 0xff on are reserved", shown(key))


def check_key(key: bytes) -> None:
    """Raises FsError unless a record may be written under `key`."""
    if not key:
        raise FsError(Kind.INVALID_ARGUMENT, "a record needs a key of at least one byte")
    check_read(key)
    if len(key) > KEY_BYTES_MAX:
        raise FsError(Kind.KV_TOO_LARGE, f"a key has at most {KEY_BYTES_MAX} bytes", shown(key))


def check_record(key: bytes, value: bytes) -> None:
    """Raises FsError unless `value` may be written under `key`."""
    if b"" < key < KEYS_END and len(key) <= KEY_BYTES_MAX and len(value) <= VALUE_BYTES_MAX:
        return
    check_key(key)
    if len(value) > VALUE_BYTES_MAX:
        raise FsError(
            Kind.KV_TOO_LARGE,
            f"a value has at most {VALUE_BYTES_MAX} bytes, not {len(value)}: split it",
            shown(key),
        )


def check_stamped(prefix: bytes, suffix: bytes, value: bytes) -> None:
    """Raises FsError unless prefix + commit version + suffix may become a record."""
    check_record(prefix + bytes(STAMP_BYTES) + suffix, value)


def check_range(begin: bytes, end: bytes) -> None:
    """Raises FsError unless begin <= end, both within the user's keys."""
    if begin > end:
        raise FsError(
            Kind.INVALID_ARGUMENT, "a range begins before it ends", f"{shown(begin)}, {shown(end)}"
        )
    if end > KEYS_END:
        raise FsError(Kind.INVALID_ARGUMENT, "keys from 0xff on are reserved", shown(end))
    # The key after a key of the greatest length is one byte longer.
    if max(len(begin), len(end)) > KEY_BYTES_MAX + 1:
        raise FsError(Kind.KV_TOO_LARGE, f"a key has at most {KEY_BYTES_MAX} bytes", shown(begin))


def check_delta(delta: int) -> None:
    """Raises FsError unless `delta` is a signed 64-bit number."""
    if not ADD_MIN <= delta <= ADD_MAX:
        raise FsError(Kind.INVALID_ARGUMENT, "add takes a signed 64-bit number", str(delta))


def check_transaction(size: int) -> None:
    """Raises FsError KV_TOO_LARGE for a transaction of `size` bytes beyond the limit."""
    if size > TRANSACTION_BYTES_MAX:
        raise FsError(
            Kind.KV_TOO_LARGE,
            f"a transaction has at most {TRANSACTION_BYTES_MAX} bytes, not {size}: split it",
        )
