"""Luciole: a distributed parallel filesystem for AI clusters.

`luciole.connect(where)` gives a program the files of a cluster (client/native/connect.py). What it
needs is imported when it is asked for, so that `import luciole` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luciole.client.native.connect import connect
    from luciole.errors import FsError

__all__ = ["FsError", "connect"]


_HOMES = {"connect": "luciole.client.native.connect", "FsError": "luciole.errors"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
