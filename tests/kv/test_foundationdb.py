"""The FoundationDB engine: the conformance suite on a real cluster, if there is one.

LUCIOLE_FDB_CLUSTER names its cluster file; libfdb_c must be where the loader looks. Only keys
under a random prefix are written, and removed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from luciole.clock import SystemEntropy
from luciole.errors import FsError, Kind
from luciole.kv.foundationdb import API_VERSION, FoundationDbStore, load_binding
from luciole.kv.interface import Transaction, prefix_end
from luciole.runtime import drive
from luciole.tests.conformance.kv import CASES
from luciole.tests.conformance.kv_subject import Subject, raises

API = int(os.environ.get("LUCIOLE_FDB_API_VERSION", API_VERSION))


def _library_error() -> str:
    try:
        load_binding(API)
    except FsError as failure:
        return str(failure)
    return ""


def _why_not() -> str:
    if not os.environ.get("LUCIOLE_FDB_CLUSTER"):
        return "LUCIOLE_FDB_CLUSTER does not name a cluster file"
    return _library_error()


WHY_NOT = _why_not()
on_cluster = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a cluster")


@pytest.fixture
def prefix() -> Iterator[bytes]:
    prefix = b"luciole-test/" + SystemEntropy().token(8).hex().encode() + b"/"
    yield prefix

    async def clean(transaction: Transaction) -> None:
        transaction.clear_range(prefix, prefix_end(prefix))

    drive(_open("thread").run(clean))


def _open(bridge: str) -> FoundationDbStore:
    cluster = os.environ["LUCIOLE_FDB_CLUSTER"]
    return FoundationDbStore(
        cluster, bridge="trio" if bridge == "trio" else "thread", api_version=API
    )


@on_cluster
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_conforms(case: Callable[[Subject], None], prefix: bytes) -> None:
    case(Subject(_open("thread"), prefix, time.sleep))


@on_cluster
def test_trio_tasks_share_the_thread(prefix: bytes) -> None:
    async def increment(transaction: Transaction) -> None:
        value = int(await transaction.get(prefix) or b"0")
        transaction.set(prefix, b"%d" % (value + 1))

    async def main() -> bytes | None:
        store = _open("trio")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(_wait, store.run(increment))
        records = await store.transaction().get_range(prefix, prefix_end(prefix), limit=1)
        return records[0].value

    assert trio.run(main) == b"16"


async def _wait(awaited: Awaitable[None]) -> None:
    await awaited


@pytest.mark.skipif(not _library_error(), reason="libfdb_c is there")
def test_missing_library_is_named() -> None:
    error = raises(Kind.CONFIG_INVALID, lambda: FoundationDbStore("/nowhere", bridge="thread"))
    assert "install" in str(error)
    assert "libfdb_c" in str(error)
