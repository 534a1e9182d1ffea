"""Limits that more than one component must agree on."""

from __future__ import annotations

NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4095
CHUNKS_PER_FILE_MAX = (1 << 32) - 1  # a chunk id has 32 bits for the index
INLINE_BYTES_MAX = 8192  # so much of a file may be kept beside its inode
XATTR_NAME_BYTES_MAX = 255  # xattr(7), as the two below
XATTR_VALUE_BYTES_MAX = 65_536
XATTR_LIST_BYTES_MAX = 65_536
XATTR_INODE_BYTES_MAX = 131_072  # all names and values of one inode; ours
LOOKUPS_MAX = 256  # of one request: with 8 KiB inline of each they fit a message
