"""gRPC binding: the same handlers for anyone's client.

Layer: shell. Methods are bound from our `Service` values, without generated stubs. What differs
from the framed protocol: bulk bytes travel in the message's field `data`; our error travels as a
serialised luciole.Error in the trailing metadata `luciole-error-bin` beside the nearest gRPC
status; the cluster id travels, if the caller gives one, in the metadata `luciole-cluster`.

grpc has no types: what comes from it is given one where it enters.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.proto import common_pb2
from luciole.proto.method import Method
from luciole.proto.services import Buffer, ReplyT, RequestT
from luciole.rpc import frame
from luciole.rpc.dispatch import Endpoint, Endpoints, Services, failure
from luciole.rpc.interface import (
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TIMEOUT_DEFAULT_S,
    TIMEOUT_MAX_S,
    ServerCall,
    scatter,
)
from luciole.rpc.wire import Address, describe
from luciole.runtime import drive

CLUSTER_KEY = "luciole-cluster"
ERROR_KEY = "luciole-error-bin"
_ERROR_TEXT_MAX = 1024  # a peer accepts 8 KiB of metadata by default
_SIZE_MAX = MESSAGE_BYTES_MAX + PAYLOAD_BYTES_MAX + 64
_OPTIONS = [
    ("grpc.max_receive_message_length", _SIZE_MAX),
    ("grpc.max_send_message_length", _SIZE_MAX),
    ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

_STATUS = {
    Kind.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.CONNECTION_LOST: grpc.StatusCode.UNAVAILABLE,
    Kind.CORRUPT_FRAME: grpc.StatusCode.DATA_LOSS,
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.WRONG_CLUSTER: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.CONFIG_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.KV_CONFLICT: grpc.StatusCode.ABORTED,
    Kind.KV_TOO_OLD: grpc.StatusCode.ABORTED,
    Kind.KV_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.ACCESS_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_PERMITTED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NAME_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.CHUNK_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CHECKSUM_MISMATCH: grpc.StatusCode.DATA_LOSS,
    Kind.NO_SPACE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.NOT_SERVING: grpc.StatusCode.UNAVAILABLE,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
# Every other kind is a state of the filesystem that forbids the operation.
_STATUS_OTHER = grpc.StatusCode.FAILED_PRECONDITION


class GrpcServer:
    """Serves handlers on one address, with a pool of threads.

    Args:
        address: (host, port), port 0 for any free one, or the path of a Unix socket.
        services: pairs of a service and its handler.
        cluster_id: callers that name another cluster are refused.
        threads: requests served at a time; more wait for their turn or their deadline.
    """

    def __init__(
        self, address: Address, services: Services, *, cluster_id: str, threads: int = 32
    ) -> None:
        self.address = address
        self._cluster_id = cluster_id
        self._ids = itertools.count(1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        self._server: Any = grpc.server(self._pool, options=_OPTIONS)
        by_service: dict[str, dict[str, Any]] = {}
        for endpoint in Endpoints(services).all():
            methods = by_service.setdefault(endpoint.method.service, {})
            methods[endpoint.method.name] = grpc.unary_unary_rpc_method_handler(
                self._serve_with(endpoint)
            )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(f"luciole.{n}", m) for n, m in by_service.items()]
        )

    def start(self) -> int:
        """Begins to serve; `self.address` then holds the bound one.

        Returns the port (0 for a Unix socket). Raises FsError CONFIG_INVALID if it is taken.
        """
        try:
            port = int(self._server.add_insecure_port(describe(self.address)))
        except RuntimeError as error:
            raise FsError(
                Kind.CONFIG_INVALID,
                f"cannot listen on {describe(self.address)}: stop the program that listens there "
                "or choose another address",
                describe(self.address),
            ) from error
        if isinstance(self.address, str):
            port = 0
        else:
            self.address = (self.address[0], port)
        self._server.start()
        return port

    def stop(self, limit_s: float = 5.0) -> None:
        """Stops accepting, lets running handlers end within `limit_s`, cancels the rest."""
        self._server.stop(limit_s).wait(limit_s + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve_with(self, endpoint: Endpoint) -> Callable[[bytes, Any], bytes]:
        def serve(data: bytes, context: Any) -> bytes:
            request_id = next(self._ids)
            try:
                self._check_cluster(context)
                return _answer(endpoint, data, request_id, context.time_remaining())
            except Exception as error:
                _abort(context, failure(error, request_id, endpoint.method.path))
                raise

        return serve

    def _check_cluster(self, context: Any) -> None:
        for key, value in context.invocation_metadata():
            if key == CLUSTER_KEY:
                frame.check_cluster(self._cluster_id, str(value))


def _answer(endpoint: Endpoint, data: bytes, request_id: int, remaining: float | None) -> bytes:
    """The serialised reply. `remaining` is in seconds; None: the caller named no deadline."""
    now = time.monotonic()
    seconds = TIMEOUT_DEFAULT_S if remaining is None else min(remaining, TIMEOUT_MAX_S)
    request = endpoint.parse(data)
    call = ServerCall(now + seconds, memoryview(_take_data(request)), request_id)
    reply = drive(endpoint.answer(request, call, now))
    frame.check_message_size(reply.SerializeToString(), endpoint.method.path)
    _put_data(reply, call.response, endpoint.method.path)
    return reply.SerializeToString()


def _abort(context: Any, error: FsError) -> None:
    told = frame.portable(error, _ERROR_TEXT_MAX)
    context.set_trailing_metadata(((ERROR_KEY, told.SerializeToString()),))
    context.abort(_STATUS.get(error.kind, _STATUS_OTHER), told.message)


def _take_data(message: Message) -> bytes:
    """Removes the bulk bytes from a message and returns them."""
    if "data" not in message.DESCRIPTOR.fields_by_name:
        return b""
    data: bytes = message.data  # type: ignore[attr-defined]
    message.ClearField("data")
    return data


def _put_data(message: Message, payload: Sequence[Buffer], what: str) -> None:
    """Lays bulk bytes into a message. Raises FsError INVALID_ARGUMENT if it has no room."""
    if not frame.payload_bytes(payload):
        return
    if "data" not in message.DESCRIPTOR.fields_by_name:
        raise FsError(Kind.INVALID_ARGUMENT, "this method carries no payload over gRPC", what)
    message.data = b"".join(payload)  # type: ignore[attr-defined]


class GrpcCaller:
    """Calls one peer from any thread; its coroutines never suspend (runtime.drive).

    Args:
        address: of the peer.
        cluster_id: if not empty, the peer must be of this cluster.
        timeout: seconds for calls that name none.
    """

    def __init__(
        self, address: Address, *, cluster_id: str = "", timeout: float = TIMEOUT_DEFAULT_S
    ) -> None:
        self._address = describe(address)
        self._metadata = ((CLUSTER_KEY, cluster_id),) if cluster_id else ()
        self._timeout = timeout
        self._channel: Any = grpc.insecure_channel(self._address, options=_OPTIONS)
        self._callables: dict[str, Any] = {}

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout: float | None = None,
        payload: Sequence[Buffer] = (),
        sink: Callable[[ReplyT], Sequence[memoryview]] | None = None,
        into: Sequence[memoryview] = (),
    ) -> ReplyT:
        """As `Caller.call`. Blocks the thread."""
        seconds = frame.call_seconds(timeout, self._timeout, self._address)
        data = request.SerializeToString()
        frame.check_message_size(data, method.path)
        if payload:
            with_data = method.request.FromString(data)
            _put_data(with_data, payload, method.path)
            data = with_data.SerializeToString()
        answer = self._exchange(method.path, data, seconds)
        try:
            reply = method.reply.FromString(answer)
        except DecodeError as error:
            raise frame.corrupt(f"{self._address} sent an undecodable reply: {error}") from error
        arrived = _take_data(reply)
        if sink is not None:
            scatter(memoryview(arrived), sink(reply))
        elif arrived:
            raise frame.corrupt(f"{len(arrived)} bytes of payload came unasked")
        return reply

    def _exchange(self, path: str, data: bytes, seconds: float) -> bytes:
        exchange = self._callables.get(path)
        if exchange is None:
            exchange = self._callables[path] = self._channel.unary_unary(path)
        try:
            answer: bytes = exchange(data, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._told(error, path) from error
        except ValueError as error:  # how grpc says that the channel was closed
            raise FsError(Kind.UNAVAILABLE, f"{self._address}: {error}", path) from error
        return answer

    def _told(self, error: Any, path: str) -> FsError:
        """The error that the peer sent, or what a status of gRPC itself means to us."""
        for key, value in error.trailing_metadata() or ():
            if key == ERROR_KEY:
                return FsError.from_proto(common_pb2.Error.FromString(value))
        status, details = error.code(), str(error.details())
        kind = Kind.INTERNAL
        if status == grpc.StatusCode.UNAVAILABLE:
            # Only a failure to connect is known to have sent nothing.
            never_sent = "connect" in details.lower() and "reset" not in details.lower()
            kind = Kind.UNAVAILABLE if never_sent else Kind.CONNECTION_LOST
        elif status == grpc.StatusCode.CANCELLED:
            kind = Kind.CONNECTION_LOST
        elif status == grpc.StatusCode.DEADLINE_EXCEEDED:
            kind = Kind.DEADLINE_EXCEEDED
        elif status == grpc.StatusCode.UNIMPLEMENTED:
            kind = Kind.UNIMPLEMENTED
        elif status == grpc.StatusCode.RESOURCE_EXHAUSTED:
            kind = Kind.INVALID_ARGUMENT
        return FsError(kind, f"{self._address}: {details}", path)

    def close(self) -> None:
        """Closes the channel; calls under way fail."""
        self._channel.close()
