"""Limits that more than one component must agree on."""

from __future__ import annotations

NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4095
CHUNKS_PER_FILE_MAX = (1 << 32) - 1  # a chunk id has 32 bits for the index
