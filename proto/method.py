"""What a transport must know of a method: its numbers, its name and its message types.

Layer: proto. Imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Reply]):
    """One method of one service, the same on every transport."""

    service: str
    name: str
    handler: str  # name of the coroutine method that serves it
    service_id: int
    method_id: int
    request: type[Request]
    reply: type[Reply]

    @property
    def path(self) -> str:
        """The gRPC path, `/luciole.Service/Method`."""
        return f"/luciole.{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """All methods of one service."""

    name: str
    service_id: int
    methods: tuple[Method[Message, Message], ...]
