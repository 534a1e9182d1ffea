"""Deliberate breaks of one rule each, which the simulator must catch: its own test.

Layer: tests. A mutant is a context in which some method of a real class is another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from luciole.checksum import block_checksums
from luciole.client.remote.membership import Membership
from luciole.client.reporting import ReportedFile
from luciole.errors import FsError
from luciole.kvcache.asking import Deadline
from luciole.kvcache.core.leases import Leases
from luciole.kvcache.core.space import Space
from luciole.kvcache.volume import reading
from luciole.kvcache.volume.disk import VolumeDisk
from luciole.meta.core import idempotency, inline
from luciole.mgmtd import primary
from luciole.mgmtd.primary import Primary
from luciole.proto import storage_pb2
from luciole.storage.chain import ChainReplica
from luciole.storage.engine import engine
from luciole.storage.engine.engine import BlockEngine
from luciole.storage.resync import Resync
from luciole.storage.service import StorageService


@contextmanager
def replaced(owner: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    """Within, `owner` has `other` under that name."""
    with patch.object(owner, name, other):
        yield


def early_answer() -> AbstractContextManager[None]:
    """A replica commits and answers although its successor could not be told."""
    whole = ChainReplica._pass_on

    async def pass_on(self: Any, *args: Any) -> None:
        with contextlib.suppress(FsError):
            await whole(self, *args)

    return replaced(ChainReplica, "_pass_on", pass_on)


def forget_tags() -> AbstractContextManager[None]:
    """The head does not know which updates it has applied."""

    async def outcome(*_: Any) -> None:
        return None

    return replaced(ChainReplica, "_outcome", outcome)


def any_version() -> AbstractContextManager[None]:
    """Requests for another version of the chain are taken."""
    member, check = StorageService._member, ChainReplica.check_chain

    def renamed(self: Any, wanted: storage_pb2.VersionedChain) -> storage_pb2.VersionedChain:
        return storage_pb2.VersionedChain(
            chain_id=wanted.chain_id,
            version=self._routing.current().chain(wanted.chain_id).version)

    async def any_member(self: Any, wanted: storage_pb2.VersionedChain) -> Any:
        return await member(self, renamed(self, wanted))

    def any_chain(self: Any, target: Any, wanted: storage_pb2.VersionedChain) -> Any:
        return check(self, target, renamed(self, wanted))

    stack = contextlib.ExitStack()
    stack.enter_context(replaced(StorageService, "_member", any_member))
    stack.enter_context(replaced(ChainReplica, "check_chain", any_chain))

    @contextmanager
    def both() -> Iterator[None]:
        with stack:
            yield

    return both()


def unfenced() -> AbstractContextManager[None]:
    """A storage service serves on when its lease has run out."""

    def check(self: Any) -> None:
        return None

    return replaced(Membership, "check", check)


def no_flush() -> AbstractContextManager[None]:
    """What must be durable is not flushed."""

    def make_durable(self: Any) -> None:
        return None

    return replaced(BlockEngine, "_make_durable", make_durable)


def no_fsync() -> AbstractContextManager[None]:
    """fsync answers without doing anything."""

    async def sync(self: Any) -> None:
        return None

    return replaced(BlockEngine, "sync", sync)


def clean_reads() -> AbstractContextManager[None]:
    """A replica reads its pending version without asking the tail."""

    async def resolve(*_: Any) -> bool:
        return True

    return replaced(StorageService, "_resolve", resolve)


def lost_removal() -> AbstractContextManager[None]:
    """A removal is not passed on."""
    whole = ChainReplica._pass_on

    async def pass_on(self: Any, target: Any, staged: Any, call: Any) -> None:
        if staged.io.kind != storage_pb2.REMOVE:
            await whole(self, target, staged, call)

    return replaced(ChainReplica, "_pass_on", pass_on)


def short_resync() -> AbstractContextManager[None]:
    """Resync leaves chunks of odd index out."""
    whole = Resync._send

    async def send(self: Any, target: Any, chain: Any, stub: Any, chunk_id: bytes) -> None:
        if chunk_id[-1] % 2 == 0:
            await whole(self, target, chain, stub, chunk_id)

    return replaced(Resync, "_send", send)


def forget_requests() -> AbstractContextManager[None]:
    """The metadata service does not know which requests it has answered."""

    async def once(txn: Any, request_id: Any, reply_type: Any, operation: Any) -> Any:
        return await operation()

    return replaced(idempotency, "once", once)


def long_lease() -> AbstractContextManager[None]:
    """A manager believes in its lease for longer than the others wait."""

    def held(sent_at: float, lease_seconds: float) -> float:
        return sent_at + 2 * lease_seconds

    return replaced(primary, "held_until", held)


def unproved_term() -> AbstractContextManager[None]:
    """A manager's transactions do not look whether it still is the primary."""

    async def validate(*_: Any) -> None:
        return None

    return replaced(Primary, "validate", validate)


def stale_member() -> AbstractContextManager[None]:
    """A node that was out of touch serves before it knows the new routing."""
    whole = Membership.check

    def check(self: Any) -> None:
        self._needs_routing = 0
        whole(self)

    return replaced(Membership, "check", check)


def keep_content() -> AbstractContextManager[None]:
    """A cut leaves the inline part of a file as it is."""

    async def cut(*_: Any, **__: Any) -> None:
        return None

    return replaced(inline, "cut", cut)


def forget_patches() -> AbstractContextManager[None]:
    """A client forgets what it wrote inline when it reports it, not when the report counts."""
    whole = ReportedFile._hint

    async def hint(self: Any) -> Any:
        told = await whole(self)
        self._head.clear()
        return told

    return replaced(ReportedFile, "_hint", hint)


def evict_leased() -> AbstractContextManager[None]:
    """A lease of the KV cache holds nothing."""
    whole = Leases.grant

    def grant(self: Any, lease_id: int, entries: Any, deadline: float) -> bool:
        return whole(self, lease_id, [], deadline)

    return replaced(Leases, "grant", grant)


def blind_get() -> AbstractContextManager[None]:
    """A volume does not compare what it has read with key and checksums."""
    whole = reading._read_verified

    def read(volume: Any, namespace_id: int, entry: Any, begin: int, view: memoryview) -> list[int]:
        whole(volume, namespace_id, entry, begin, view)
        return block_checksums(begin, view)

    return replaced(reading, "_read_verified", read)


def no_reserve() -> AbstractContextManager[None]:
    """Blocks that are being written do not count for the quota."""
    whole = Space.room_for

    def room_for(self: Any, size: int) -> Any:
        kept, self.reserved = self.reserved, 0
        try:
            return whole(self, size)
        finally:
            self.reserved = kept

    return replaced(Space, "room_for", room_for)


def no_erase() -> AbstractContextManager[None]:
    """A slot is used again under the header of the block that it held."""

    def erase(self: Any, position: int) -> None:
        return None

    return replaced(VolumeDisk, "erase", erase)


def late_answer() -> AbstractContextManager[None]:
    """A client of the KV cache gives volumes more time than it has."""
    whole = Deadline.remaining

    def remaining(self: Any) -> float:
        return whole(self) + 1.0

    return replaced(Deadline, "remaining", remaining)


def unverified() -> AbstractContextManager[None]:
    """A replica stores what it was sent, or found in its sender's memory, without a look at it."""

    def verify(*_: Any) -> None:
        return None

    return replaced(engine, "verify_data", verify)


@dataclass(frozen=True)
class Mutant:
    """A break, and the scenario that is to show it."""

    break_rule: Callable[[], AbstractContextManager[None]]
    scenario: str


MUTANTS = {
    "early-answer": Mutant(early_answer, "storm"),
    "forget-tags": Mutant(forget_tags, "lossy"),
    "any-version": Mutant(any_version, "storm"),
    "unfenced": Mutant(unfenced, "manager"),
    "no-flush": Mutant(no_flush, "power"),
    "no-fsync": Mutant(no_fsync, "fsync"),
    "clean-reads": Mutant(clean_reads, "slow"),
    "lost-removal": Mutant(lost_removal, "kills"),
    "short-resync": Mutant(short_resync, "kills"),
    "forget-requests": Mutant(forget_requests, "lossy"),
    "long-lease": Mutant(long_lease, "managers"),
    "stale-member": Mutant(stale_member, "managers"),
    "unproved-term": Mutant(unproved_term, "managers"),
    "keep-content": Mutant(keep_content, "cuts"),
    "forget-patches": Mutant(forget_patches, "splits"),
    "evict-leased": Mutant(evict_leased, "kvcache"),
    "blind-get": Mutant(blind_get, "kvdisks"),
    "no-reserve": Mutant(no_reserve, "kvcache"),
    "no-erase": Mutant(no_erase, "kvcache"),
    "late-answer": Mutant(late_answer, "kvcache"),
    "unverified": Mutant(unverified, "lossy"),
}
