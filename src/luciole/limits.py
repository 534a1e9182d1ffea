"""Limits that more than one component must agree on."""

from __future__ import annotations

NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4095
