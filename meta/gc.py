"""The collector: frees what nobody can reach, finishes what a crash interrupted.

Layer: shell. Runs beside every metadata service; each pass takes bounded pages and every step may
be repeated, so that collectors of several servers only cost each other conflicts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import msgspec

from luciole.errors import FsError
from luciole.inline import chunks_end
from luciole.kv.interface import KeyValue, KeyValueStore
from luciole.log import get_logger
from luciole.meta.core import (
    changes,
    garbage,
    length,
    locks,
    lookup,
    quota,
    remove_tree,
    schema,
    sessions,
    trash,
    truncate,
)
from luciole.meta.durable import ChunksBehindStore
from luciole.meta.ports import Chunks, Cluster
from luciole.proto import meta_pb2
from luciole.runtime import Runtime

log = get_logger("meta.gc")
PAGE = 256
BATCHES = 500  # of the walks through trees, so that other lists are not kept waiting


class Collected(msgspec.Struct):
    """What one pass did."""

    condemned: int = 0
    freed: int = 0
    trimmed: int = 0
    recovered: int = 0
    expired: int = 0  # items of the trash
    taken_apart: int = 0  # entries of removed trees
    dropped_clients: int = 0
    failures: int = 0


class Collector:
    """Collects orphans, garbage, interrupted trims and the sessions of dead clients."""

    def __init__(
        self,
        kv: KeyValueStore,
        runtime: Runtime,
        chunks: Chunks,
        cluster: Cluster,
        *,
        grace_seconds: float,
    ) -> None:
        self._kv = changes.NotingStore(kv, runtime.clock.wall_ns)
        self._runtime = runtime
        self._chunks: Chunks = ChunksBehindStore(kv, chunks)
        self._cluster = cluster
        self._grace_ns = int(grace_seconds * 1e9)
        self._suspects: set[bytes] = set()

    async def run_once(self) -> Collected:
        """One pass over all lists."""
        done = Collected()
        await self._drop_dead_clients(done)
        await self._expire_trash(done)
        await self._take_trees_apart(done)
        await self._account(done)
        await self._each(schema.ORPHAN, self._condemn, done)
        await self._free_all(done)
        await self._each(schema.TRIM, self._trim, done)
        await self._each(schema.UNREPORTED, self._recover_length, done)
        before_ns = self._runtime.clock.wall_ns() - changes.KEEP_NS
        while await self._kv.run(lambda txn: changes.trim(txn, before_ns)) == changes.PAGE:
            pass
        return done

    async def _pages(self, list_prefix: bytes) -> AsyncGenerator[list[KeyValue], None]:
        after = b""
        while True:
            rows = await self._kv.run(
                partial(garbage.page_of_list, list_prefix=list_prefix, after=after, limit=PAGE))
            yield rows
            if len(rows) < PAGE:
                return
            after = rows[-1].key

    async def _each(
        self,
        list_prefix: bytes,
        step: Callable[[bytes, bytes, Collected], Awaitable[None]],
        done: Collected,
    ) -> None:
        async with aclosing(self._pages(list_prefix)) as pages:
            async for rows in pages:
                for row in rows:
                    await self._attempt(list_prefix, row, step, done)

    async def _attempt(
        self,
        list_prefix: bytes,
        row: KeyValue,
        step: Callable[[bytes, bytes, Collected], Awaitable[None]],
        done: Collected,
    ) -> None:
        try:
            await step(row.key, row.value, done)
        except FsError as failure:
            done.failures += 1
            log.info("collect_later", list=list_prefix.decode(),
                     inode=schema.inode_id_of(row.key), error=str(failure))

    async def _take_trees_apart(self, done: Collected) -> None:
        """Some pages of removed trees; directories found on the way are among the next."""
        batches = 0
        while batches < BATCHES:
            rows = await self._kv.run(partial(
                garbage.page_of_list, list_prefix=schema.DETACHED, after=b"", limit=PAGE))
            if not rows:
                return
            now_ns = self._runtime.clock.wall_ns()
            for row in rows[:BATCHES - batches]:
                batches += 1
                try:
                    done.taken_apart += await self._kv.run(partial(
                        remove_tree.take_apart, directory=schema.inode_id_of(row.key),
                        now_ns=now_ns))
                except FsError as failure:
                    done.failures += 1
                    log.info("take_apart_later", inode=schema.inode_id_of(row.key),
                             error=str(failure))

    async def _expire_trash(self, done: Collected) -> None:
        try:
            for policy in await self._kv.run(trash.policies):
                now_ns = self._runtime.clock.wall_ns()
                step = partial(
                    trash.expire, directory=policy.inode_id, now_ns=now_ns,
                    before_ns=now_ns - policy.keep_seconds * 10**9)
                for _ in range(BATCHES):
                    gone = await self._kv.run(step)
                    done.expired += gone
                    if gone < trash.PAGE:
                        break
                if policy.disabled or not gone:
                    await self._kv.run(partial(trash.forget, directory=policy.inode_id))
        except FsError as failure:
            done.failures += 1
            log.info("expire_later", error=str(failure))

    async def _account(self, done: Collected) -> None:
        """Goes on with the walk of a quota, and forgets roots that are done with."""
        try:
            for _ in range(BATCHES):
                if not await self._kv.run(quota.walk_on):
                    await self._kv.run(quota.reap)
                    return
        except FsError as failure:
            done.failures += 1
            log.info("account_later", error=str(failure))

    async def _condemn(self, key: bytes, value: bytes, done: Collected) -> None:
        before_ns = self._runtime.clock.wall_ns() - self._grace_ns
        if int.from_bytes(value, "little") > before_ns:
            return
        inode_id = schema.inode_id_of(key)
        done.condemned += await self._kv.run(
            lambda txn: garbage.condemn(txn, inode_id, before_ns))

    async def _free_all(self, done: Collected) -> None:
        """Frees the garbage list by pages: one message per chain and page.

        After the grace period every file is looked at again: a write that its client had given up
        may have come in the meantime.
        """
        async with aclosing(self._pages(schema.GARBAGE)) as pages:
            async for rows in pages:
                if not await self._free(rows, done, again=False):
                    return
                done.freed += len(rows)
        too_young = garbage.freed_key(self._runtime.clock.wall_ns() - self._grace_ns, 0)
        async with aclosing(self._pages(schema.FREED)) as pages:
            async for rows in pages:
                old = [row for row in rows if row.key < too_young]
                if not await self._free(old, done, again=True) or len(old) < len(rows):
                    return

    async def _free(self, rows: Sequence[KeyValue], done: Collected, *, again: bool) -> bool:
        inodes = [schema.decode(row.value, meta_pb2.Inode, repr(row.key)) for row in rows]
        try:
            await self._chunks.remove_all(inodes, everywhere=again)
            await self._kv.run(
                partial(garbage.forget, keys=[row.key for row in rows]) if again else
                partial(garbage.freed, files=inodes, now_ns=self._runtime.clock.wall_ns()))
        except FsError as failure:
            done.failures += len(rows)
            log.info("free_later", files=len(rows), error=str(failure))
            return False
        return True

    async def _inode(self, key: bytes) -> meta_pb2.Inode:
        """The inode that a list's key names; an empty one when it is gone."""
        request = meta_pb2.BatchStatRequest(inode_ids=[schema.inode_id_of(key)])
        return (await self._kv.run(lambda txn: lookup.batch_stat(txn, request))).inodes[0]

    async def _recover_length(self, key: bytes, value: bytes, done: Collected) -> None:
        noted_ns = int.from_bytes(value[: sessions.TIME_BYTES], "little")
        if noted_ns > self._runtime.clock.wall_ns() - self._grace_ns:
            return
        inode = await self._inode(key)
        end = allocated = 0
        if inode.HasField("layout"):
            end = await self._chunks.data_end(inode)
            allocated = await self._chunks.allocated(inode)
        inode.inode_id = schema.inode_id_of(key)  # also of one that is gone
        await self._kv.run(lambda txn: length.recover(
            txn, inode, end, allocated, self._runtime.clock.wall_ns()))
        done.recovered += 1

    async def _trim(self, key: bytes, value: bytes, done: Collected) -> None:
        inode_id = schema.inode_id_of(key)
        inode = await self._inode(key)
        allocated = 0
        if inode.inode_id:
            if inode.ctime_ns > self._runtime.clock.wall_ns() - self._grace_ns:
                return  # the server that cut it is at it
            await self._chunks.trim(inode, lambda: self._kv.run(
                lambda txn: truncate.is_pending(txn, inode_id, inode.truncate_version)))
            allocated = await self._chunks.allocated(inode) if chunks_end(inode) else 0
        await self._kv.run(
            lambda txn: truncate.trim_done(txn, inode_id, inode.truncate_version, allocated))
        done.trimmed += 1

    async def _drop_dead_clients(self, done: Collected) -> None:
        """Ends the sessions and locks of clients that were missing on two passes in a row."""
        alive = await self._cluster.live_clients()
        if alive is None:
            return
        suspects: set[bytes] = set()
        client_id = b""
        while True:
            position = client_id
            found = await self._kv.run(
                lambda txn: sessions.clients_with_state(txn, position))  # noqa: B023
            if found is None:
                break
            client_id = found
            if client_id in alive:
                continue
            if client_id not in self._suspects:
                suspects.add(client_id)
                continue
            while await self._kv.run(
                lambda txn: locks.drop_client(txn, client_id, PAGE)  # noqa: B023
            ) == PAGE:
                pass
            while await self._kv.run(
                lambda txn: sessions.drop_client(txn, client_id, PAGE)  # noqa: B023
            ) == PAGE:
                pass
            done.dropped_clients += 1
        self._suspects = suspects
