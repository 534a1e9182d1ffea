"""From a method's numbers to its handler, and from whatever it raises to the error that travels.

Layer: shell. Every binding's server half goes through here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError, Message

from luciole.errors import FsError, Kind
from luciole.proto.method import Method, Service
from luciole.rpc.at_once import key as key_of
from luciole.rpc.interface import ServerCall

_log = structlog.get_logger(__name__)

AT_ONCE = "_at_once"
AtOnce = Callable[[bytes, ServerCall], bytes | None]
Handle = Callable[[Message, ServerCall], Coroutine[object, None, Message]]
Services = Sequence[tuple[Service, object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and the handler that serves it.

    `at_once`, if the handler has it, takes a request as bytes and gives the reply as bytes, without
    waiting for anything; None: this request is for `handle`. It is named as the method's handler,
    with `_at_once` behind.
    """

    method: Method[Message, Message]
    handle: Handle
    at_once: AtOnce | None = None

    def parse(self, data: bytes) -> Message:
        """The request in `data`. Raises FsError INVALID_ARGUMENT."""
        try:
            return self.method.request.FromString(data)
        except DecodeError as failure:
            raise FsError(
                Kind.INVALID_ARGUMENT, f"the request cannot be decoded: {failure}", self.method.path
            ) from failure

    async def answer(self, request: Message, call: ServerCall, now: float) -> Message:
        """Runs the handler unless the caller has given up by `now`. Raises what it raises."""
        if call.deadline <= now:
            raise FsError(
                Kind.DEADLINE_EXCEEDED, "the deadline passed before work began", self.method.path
            )
        reply = await self.handle(request, call)
        if type(reply) is not self.method.reply:
            raise TypeError(f"{self.method.path} returned {type(reply).__name__}")
        return reply


class Endpoints:
    """All methods that a server serves. `services` pairs each service with its handler.

    A handler may lack methods of its service: they are answered UNIMPLEMENTED.
    """

    def __init__(self, services: Services) -> None:
        self.by_key: dict[int, Endpoint] = {}  # by at_once.key
        self._names = ", ".join(service.name for service, _ in services)
        for service, handler in services:
            for method in service.methods:
                handle: Handle | None = getattr(handler, method.handler, None)
                if handle is not None:
                    at_once = getattr(handler, method.handler + AT_ONCE, None)
                    self.by_key[key_of(method.service_id, method.method_id)] = Endpoint(
                        method, handle, at_once)

    def find(self, service_id: int, method_id: int) -> Endpoint:
        """The method's endpoint. Raises FsError UNIMPLEMENTED."""
        endpoint = self.by_key.get(key_of(service_id, method_id))
        if endpoint is None:
            raise FsError(
                Kind.UNIMPLEMENTED,
                f"service {service_id} has no method {method_id} here; served: {self._names}",
            )
        return endpoint

    def all(self) -> list[Endpoint]:
        """Every endpoint."""
        return list(self.by_key.values())


def failure(error: Exception, request_id: int, what: str) -> FsError:
    """The error that a caller may see: a broken invariant stays in the log, with its trace."""
    if isinstance(error, FsError):
        return error
    _log.error("handler failed", request_id=f"{request_id:016x}", method=what, exc_info=error)
    return FsError(
        Kind.INTERNAL, f"request {request_id:016x} failed; the server's log has the trace", what
    )
