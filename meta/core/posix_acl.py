"""POSIX access control lists: what a list means, whether it is valid, how children inherit it.

Layer: pure. A list is kept as the bytes of system.posix_acl_access (or _default): version 2, then
entries of tag, permissions and id, little-endian. A list that the nine bits of the mode say as
well is not kept at all, so that b"" means "look at the mode". The owner's and other entries equal
the mode's bits, and the mode's group bits equal the mask: `after_chmod` keeps it so.

Source: acl(5); linux/posix_acl_xattr.h; POSIX.1e draft 17, 23.1; fs/posix_acl.c for inheritance.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from luciole.errors import FsError, Kind, require

VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
ENTRIES_MAX = 256  # of one list; it travels with the inode
_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Entry(NamedTuple):
    """One line of a list: `id` is a user's or group's for USER and GROUP, NO_ID otherwise."""

    tag: int
    permissions: int
    id: int = NO_ID


Acl = tuple[Entry, ...]


def encode(acl: Acl) -> bytes:
    """The bytes of the extended attribute."""
    return _HEAD.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def decode(value: bytes) -> Acl:
    """The list that `value` holds; () for one without entries.

    Raises FsError NOT_SUPPORTED (another version) or INVALID_ARGUMENT (not a valid list).
    """
    body = len(value) - _HEAD.size
    require(body >= 0 and body % _ENTRY.size == 0, Kind.INVALID_ARGUMENT,
            f"an access control list has not {len(value)} bytes")
    require(_HEAD.unpack_from(value)[0] == VERSION, Kind.NOT_SUPPORTED,
            f"only version {VERSION} of access control lists is known")
    require(body // _ENTRY.size <= ENTRIES_MAX, Kind.NO_SPACE,
            f"an access control list has at most {ENTRIES_MAX} entries")
    acl = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEAD.size:]))
    if acl:
        _check(acl)
    return acl


def _check(acl: Acl) -> None:
    """One owner, group and other; in the order of tags; a mask where it is needed; no id twice."""
    tags = [entry.tag for entry in acl]
    named = [entry for entry in acl if entry.tag in {USER, GROUP}]
    valid = (
        tags == sorted(tags)
        and set(tags) <= {USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER}
        and all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
        and tags.count(MASK) <= 1 and (MASK in tags or not named)
        and all(entry.permissions <= 7 for entry in acl)
        and all(entry.id != NO_ID for entry in named)
        and len({(entry.tag, entry.id) for entry in named}) == len(named))
    if not valid:
        raise FsError(Kind.INVALID_ARGUMENT, "not a valid access control list (acl(5), Validity)")


def is_minimal(acl: Acl) -> bool:
    """Whether the mode says the same."""
    return len(acl) <= 3


def mode_bits(acl: Acl) -> int:
    """The nine permission bits that go with a list: the mask stands for the group."""
    found = {entry.tag: entry.permissions for entry in acl}
    return found[USER_OBJ] << 6 | found.get(MASK, found[GROUP_OBJ]) << 3 | found[OTHER]


def _masked(acl: Acl, change: Callable[[int, int], int]) -> Acl:
    """The list with `change(permissions, shift)` for the entries that the mode shows."""
    group = MASK if any(entry.tag == MASK for entry in acl) else GROUP_OBJ
    shifts = {USER_OBJ: 6, group: 3, OTHER: 0}
    return tuple(
        entry._replace(permissions=change(entry.permissions, shifts[entry.tag]))
        if entry.tag in shifts else entry for entry in acl)


def after_chmod(value: bytes, mode: int) -> bytes:
    """The access list after chmod(2) to `mode`."""
    return value and encode(_masked(decode(value), lambda _, shift: mode >> shift & 7))


def inherit(default: bytes, mode: int) -> tuple[bytes, int]:
    """Access list and mode of what is made in a directory with a default list.

    The list stands in the place of the umask: what `mode` asks for is what both grant.
    """
    acl = _masked(decode(default), lambda permissions, shift: permissions & mode >> shift & 7)
    return (b"" if is_minimal(acl) else encode(acl)), mode & ~0o777 | mode_bits(acl)


def granted(
    value: bytes, want: int, *, is_owner: bool, user_id: int,
    owning_group: bool, in_group: Callable[[int], bool],
) -> bool:
    """The access check algorithm of acl(5).

    Args:
        value: the access list, not empty.
        want: READ | WRITE | EXECUTE of `access`.
        is_owner: whether the caller owns the file.
        user_id: of the caller.
        owning_group: whether the caller belongs to the file's group.
        in_group: whether the caller belongs to a group.
    """
    acl = decode(value)
    mask = next((entry.permissions for entry in acl if entry.tag == MASK), 7)
    by_tag = {entry.tag: entry.permissions for entry in acl}
    if is_owner:
        return not want & ~by_tag[USER_OBJ]
    for entry in acl:
        if entry.tag == USER and entry.id == user_id:
            return not want & ~(entry.permissions & mask)
    of_groups = [
        entry.permissions for entry in acl
        if (entry.tag == GROUP_OBJ and owning_group) or (entry.tag == GROUP and in_group(entry.id))]
    if of_groups:
        return any(not want & ~(permissions & mask) for permissions in of_groups)
    return not want & ~by_tag[OTHER]
