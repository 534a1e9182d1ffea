"""A mutating request takes effect once, and its outcome can be told again.

Layer: pure. The reply is stored in the transaction that makes the change, under the client's id
and sequence number. A retry (after a lost reply, a crash of this server or a commit of unknown
outcome) finds it, on whatever server it lands. Each request also says below which sequence the
client has all answers; those records go, and that number stays, so that a message which was
delayed until then is known for what it is. Only success is stored: a refused request changed
nothing, and may be judged anew.

Source: RIFL, Lee et al., "Implementing Linearizability at Large Scale and Low Latency", SOSP 2015.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from luciole.errors import Kind, require
from luciole.kv.interface import Transaction
from luciole.meta.core import schema
from luciole.proto import common_pb2

ReplyT = TypeVar("ReplyT", bound=Message)
CLIENT_ID_SIZE = 16
# Clearing is a range write: doing it now and then is enough to bound the records of a client.
CLEAR_EVERY = 16


async def once(
    txn: Transaction,
    request_id: common_pb2.RequestId,
    reply_type: type[ReplyT],
    operation: Callable[[], Awaitable[ReplyT]],
) -> ReplyT:
    """Runs `operation` unless this request was done before; returns its reply either way.

    Raises FsError INVALID_ARGUMENT when the request is not named, or was answered long ago.
    """
    require(len(request_id.client_id) == CLIENT_ID_SIZE and request_id.sequence > 0,
            Kind.INVALID_ARGUMENT, "a mutating request needs a 16-byte client id and a sequence")
    key = schema.idempotency_key(request_id.client_id, request_id.sequence)
    known = await txn.get(key)
    if known is not None:
        return schema.decode(known, reply_type, f"request {request_id.sequence}")
    # A snapshot is enough: clearing the record conflicts with having read it.
    floor_key = schema.idempotency_key(request_id.client_id, 0)
    floor = schema.decode_counter(await txn.get(floor_key, snapshot=True))
    require(request_id.sequence >= floor, Kind.INVALID_ARGUMENT,
            "the request was answered before", f"request {request_id.sequence}")
    reply = await operation()
    txn.set(key, schema.encode(reply))
    if request_id.sequence % CLEAR_EVERY == 0 and request_id.first_incomplete:
        answered = min(request_id.first_incomplete, request_id.sequence)
        txn.clear_range(
            schema.idempotency_key(request_id.client_id, 1),
            schema.idempotency_key(request_id.client_id, answered))
        txn.set(floor_key, max(floor, answered).to_bytes(8, "little"))
    return reply
