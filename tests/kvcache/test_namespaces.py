"""Records of namespaces: what the manager accepts, and that routing carries them."""

from __future__ import annotations

import pytest

from luciole.errors import FsError, Kind
from luciole.mgmtd.core.kv_namespaces import settled
from luciole.proto import mgmtd_pb2

KNOWN = [mgmtd_pb2.KvNamespace(namespace_id=3, name="llama", replication=1)]


def test_a_new_namespace_gets_the_next_id_and_one_copy() -> None:
    record = settled(mgmtd_pb2.KvNamespace(name="new", quota_bytes=5), KNOWN, 7)
    assert (record.namespace_id, record.replication, record.quota_bytes) == (7, 1, 5)


def test_a_namespace_changes_all_but_its_name() -> None:
    changed = mgmtd_pb2.KvNamespace(namespace_id=3, name="llama", ttl_seconds=9, replication=2)
    assert settled(changed, KNOWN, 7) == changed
    changed.name = "other"
    with pytest.raises(FsError, match="keeps its name"):
        settled(changed, KNOWN, 7)


@pytest.mark.parametrize(("record", "kind"), [
    (mgmtd_pb2.KvNamespace(name="llama"), Kind.EXISTS),
    (mgmtd_pb2.KvNamespace(name=""), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="a/b"), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="x" * 65), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="a", replication=9), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="a", quota_bytes=1 << 61), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="a", description="x" * 2000), Kind.INVALID_ARGUMENT),
    (mgmtd_pb2.KvNamespace(name="a", namespace_id=9), Kind.NOT_FOUND),
])
def test_what_cannot_be_is_refused(record: mgmtd_pb2.KvNamespace, kind: Kind) -> None:
    with pytest.raises(FsError) as failure:
        settled(record, KNOWN, 7)
    assert failure.value.kind == kind
