"""Namespaces of the KV cache as records: what may be in one, and how one changes.

Layer: pure. A namespace keeps its id and name for ever; ids are never used again, so that blocks of
one that was dropped are nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from luciole.errors import Kind, require
from luciole.proto import mgmtd_pb2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
QUOTA_MAX = 1 << 60
REPLICATION_MAX = 8
DESCRIPTION_MAX = 1024
NAMESPACES_MAX = 1024  # routing carries them all


def settled(
    wanted: mgmtd_pb2.KvNamespace, known: Iterable[mgmtd_pb2.KvNamespace], next_id: int
) -> mgmtd_pb2.KvNamespace:
    """The record to store for what a client asks for.

    Args:
        wanted: id 0 for a new one.
        known: all that there are.
        next_id: of a new one.

    Raises FsError INVALID_ARGUMENT, EXISTS (the name is taken) or NOT_FOUND.
    """
    record = mgmtd_pb2.KvNamespace()
    record.CopyFrom(wanted)
    record.replication = record.replication or 1
    name = repr(record.name)
    require(_NAME.fullmatch(record.name) is not None, Kind.INVALID_ARGUMENT,
            "a namespace's name has 1 to 64 letters, digits, dots, dashes and underscores and "
            "begins with a letter or digit", name)
    require(record.quota_bytes <= QUOTA_MAX, Kind.INVALID_ARGUMENT,
            f"a quota is at most {QUOTA_MAX} bytes", name)
    require(record.replication <= REPLICATION_MAX, Kind.INVALID_ARGUMENT,
            f"replication is 1 to {REPLICATION_MAX}", name)
    require(len(record.description.encode()) <= DESCRIPTION_MAX, Kind.INVALID_ARGUMENT,
            f"a description has at most {DESCRIPTION_MAX} bytes", name)
    by_id = {other.namespace_id: other for other in known}
    if record.namespace_id == 0:
        require(all(other.name != record.name for other in by_id.values()), Kind.EXISTS,
                "there is a namespace of this name: change it with `luciole kv set`", name)
        require(len(by_id) < NAMESPACES_MAX, Kind.INVALID_ARGUMENT,
                f"there are {NAMESPACES_MAX} namespaces already: drop one", name)
        record.namespace_id = next_id
        return record
    require(record.namespace_id in by_id, Kind.NOT_FOUND, "there is no such namespace", name)
    require(by_id[record.namespace_id].name == record.name, Kind.INVALID_ARGUMENT,
            "a namespace keeps its name: make another one", name)
    return record
