"""Sessions: which clients hold a file open.

Layer: pure. A write-open records a session at once. A read-open records nothing; a handle that
stays open is registered by its client now and then (`hold`), well before the grace period after
an unlink ends, so that short reads cost no state and long ones keep their file.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.kv.interface import Transaction, prefix_end
from luciole.meta.core import schema
from luciole.proto import meta_pb2

SESSION_ID_SIZE = 16
TIME_BYTES = 8
LOOKED_FOR = b"\1"  # behind the time in a note of UNREPORTED: only the count of blocks is missing


def begin(txn: Transaction, session: meta_pb2.Session) -> None:
    """Records a session, under its inode and under its client."""
    if len(session.session_id) != SESSION_ID_SIZE or len(session.client_id) != SESSION_ID_SIZE:
        raise FsError(Kind.INVALID_ARGUMENT, "session and client ids have 16 bytes")
    txn.set(schema.session_key(session.inode_id, session.session_id), schema.encode(session))
    txn.set(
        schema.client_session_key(session.client_id, session.inode_id, session.session_id), b"")


def end(txn: Transaction, client_id: bytes, inode_id: int, session_id: bytes) -> None:
    """Forgets a session. Ending one that is unknown changes nothing."""
    txn.clear(schema.session_key(inode_id, session_id))
    txn.clear(schema.client_session_key(client_id, inode_id, session_id))


async def need(txn: Transaction, inode_id: int, session_id: bytes) -> None:
    """Raises FsError NO_SESSION unless the session is open for writing."""
    value = await txn.get(schema.session_key(inode_id, session_id))
    if value is None or not schema.decode(value, meta_pb2.Session, f"inode {inode_id}").write:
        raise FsError(Kind.NO_SESSION, "the write session is unknown: closed, or its client was "
                      "taken for dead; open the file again", f"inode {inode_id}")


async def others_may_write(txn: Transaction, inode_id: int, client_id: bytes) -> bool:
    """Whether there may be chunks of another client that it has not reported.

    Either it has a session, or it died, or failed, and its chunks have not been looked for yet.
    """
    note = await txn.get(schema.listed_key(schema.UNREPORTED, inode_id))
    if note is not None and not note.endswith(LOOKED_FOR, TIME_BYTES):
        return True
    return await are_writing(txn, inode_id, but=client_id)


async def are_writing(txn: Transaction, inode_id: int, *, but: bytes = b"") -> bool:
    """Whether a client has a session to write, `but` one."""
    begin_key, end_key = schema.session_range(inode_id)
    rows = await txn.get_range(begin_key, end_key)
    found = [schema.decode(row.value, meta_pb2.Session, f"inode {inode_id}") for row in rows]
    return any(session.write and session.client_id != but for session in found)


async def hold(
    txn: Transaction, request: meta_pb2.HoldRequest, now_ns: int
) -> meta_pb2.HoldReply:
    """Registers handles that are open still; tells which of their inodes are gone."""
    wanted = list(request.sessions)
    records = await txn.get_many([schema.inode_key(session.inode_id) for session in wanted])
    known = await txn.get_many(
        [schema.session_key(session.inode_id, session.session_id) for session in wanted])
    missing = []
    for session, record, present in zip(wanted, records, known, strict=True):
        if record is None:
            missing.append(session.inode_id)
        elif present is None:
            begin(txn, meta_pb2.Session(
                client_id=request.client_id, session_id=session.session_id,
                inode_id=session.inode_id, opened_ns=now_ns, write=session.write))
    return meta_pb2.HoldReply(missing=missing)


def release(txn: Transaction, request: meta_pb2.ReleaseRequest) -> None:
    """Forgets handles that were registered by `hold`."""
    for session in request.sessions:
        end(txn, session.client_id, session.inode_id, session.session_id)


async def clients_with_state(txn: Transaction, after: bytes) -> bytes | None:
    """The next client id greater than `after` that owns sessions, locks or idempotency records."""
    found = []
    for prefix in (schema.CLIENT_SESSION, schema.CLIENT_LOCKS, schema.IDEMPOTENCY):
        begin_key = prefix_end(prefix + after) if after else prefix
        rows = await txn.get_range(begin_key, prefix_end(prefix), limit=1, snapshot=True)
        found += [row.key[4:20] for row in rows]
    return min(found) if found else None


async def drop_client(txn: Transaction, client_id: bytes, limit: int) -> int:
    """Ends up to `limit` sessions of a dead client and forgets its request records.

    Returns how many sessions were ended; fewer than `limit` means that none is left.
    """
    prefix = schema.CLIENT_SESSION + client_id
    rows = await txn.get_range(prefix, prefix_end(prefix), limit=limit)
    for row in rows:
        inode_id = int.from_bytes(row.key[20:28], "little")
        session_id = row.key[28:]
        value = await txn.get(schema.session_key(inode_id, session_id))
        if value and schema.decode(value, meta_pb2.Session, f"inode {inode_id}").write:
            # It may have written beyond the length that it reported: the collector looks.
            txn.set(schema.listed_key(schema.UNREPORTED, inode_id), b"")
        end(txn, client_id, inode_id, session_id)
    if len(rows) < limit:
        begin_key = schema.IDEMPOTENCY + client_id
        txn.clear_range(begin_key, prefix_end(begin_key))
    return len(rows)
