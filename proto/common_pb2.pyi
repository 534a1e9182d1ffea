from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OK: _ClassVar[ErrorKind]
    INTERNAL: _ClassVar[ErrorKind]
    INVALID_ARGUMENT: _ClassVar[ErrorKind]
    UNAUTHENTICATED: _ClassVar[ErrorKind]
    DEADLINE_EXCEEDED: _ClassVar[ErrorKind]
    UNAVAILABLE: _ClassVar[ErrorKind]
    CONNECTION_LOST: _ClassVar[ErrorKind]
    CORRUPT_FRAME: _ClassVar[ErrorKind]
    UNIMPLEMENTED: _ClassVar[ErrorKind]
    WRONG_CLUSTER: _ClassVar[ErrorKind]
    CONFIG_INVALID: _ClassVar[ErrorKind]
    KV_CONFLICT: _ClassVar[ErrorKind]
    KV_TOO_OLD: _ClassVar[ErrorKind]
    KV_TOO_LARGE: _ClassVar[ErrorKind]
    KV_MAYBE_COMMITTED: _ClassVar[ErrorKind]
    NOT_FOUND: _ClassVar[ErrorKind]
    EXISTS: _ClassVar[ErrorKind]
    NOT_DIRECTORY: _ClassVar[ErrorKind]
    IS_DIRECTORY: _ClassVar[ErrorKind]
    NOT_EMPTY: _ClassVar[ErrorKind]
    ACCESS_DENIED: _ClassVar[ErrorKind]
    NOT_PERMITTED: _ClassVar[ErrorKind]
    NAME_TOO_LONG: _ClassVar[ErrorKind]
    TOO_MANY_LINKS: _ClassVar[ErrorKind]
    STALE_HANDLE: _ClassVar[ErrorKind]
    FILE_TOO_LARGE: _ClassVar[ErrorKind]
    LOOP: _ClassVar[ErrorKind]
    BUSY: _ClassVar[ErrorKind]
    NO_SESSION: _ClassVar[ErrorKind]
    READ_ONLY: _ClassVar[ErrorKind]
    NO_ATTRIBUTE: _ClassVar[ErrorKind]
    NOT_SUPPORTED: _ClassVar[ErrorKind]
    OUT_OF_RANGE: _ClassVar[ErrorKind]
    ARGUMENT_TOO_LARGE: _ClassVar[ErrorKind]
    QUOTA_EXCEEDED: _ClassVar[ErrorKind]
    CROSS_QUOTA: _ClassVar[ErrorKind]
    NOT_INLINE: _ClassVar[ErrorKind]
    LOCKED: _ClassVar[ErrorKind]
    DEADLOCK: _ClassVar[ErrorKind]
    NO_LOCKS: _ClassVar[ErrorKind]
    INTERRUPTED: _ClassVar[ErrorKind]
    LOCKS_LOST: _ClassVar[ErrorKind]
    CHAIN_VERSION_MISMATCH: _ClassVar[ErrorKind]
    NOT_SERVING: _ClassVar[ErrorKind]
    CHUNK_NOT_FOUND: _ClassVar[ErrorKind]
    CHECKSUM_MISMATCH: _ClassVar[ErrorKind]
    NO_SPACE: _ClassVar[ErrorKind]
    MISSING_UPDATE: _ClassVar[ErrorKind]
    STALE_UPDATE: _ClassVar[ErrorKind]
    NOT_PRIMARY: _ClassVar[ErrorKind]
    DISK_FAILED: _ClassVar[ErrorKind]
    DATA_LOST: _ClassVar[ErrorKind]
OK: ErrorKind
INTERNAL: ErrorKind
INVALID_ARGUMENT: ErrorKind
UNAUTHENTICATED: ErrorKind
DEADLINE_EXCEEDED: ErrorKind
UNAVAILABLE: ErrorKind
CONNECTION_LOST: ErrorKind
CORRUPT_FRAME: ErrorKind
UNIMPLEMENTED: ErrorKind
WRONG_CLUSTER: ErrorKind
CONFIG_INVALID: ErrorKind
KV_CONFLICT: ErrorKind
KV_TOO_OLD: ErrorKind
KV_TOO_LARGE: ErrorKind
KV_MAYBE_COMMITTED: ErrorKind
NOT_FOUND: ErrorKind
EXISTS: ErrorKind
NOT_DIRECTORY: ErrorKind
IS_DIRECTORY: ErrorKind
NOT_EMPTY: ErrorKind
ACCESS_DENIED: ErrorKind
NOT_PERMITTED: ErrorKind
NAME_TOO_LONG: ErrorKind
TOO_MANY_LINKS: ErrorKind
STALE_HANDLE: ErrorKind
FILE_TOO_LARGE: ErrorKind
LOOP: ErrorKind
BUSY: ErrorKind
NO_SESSION: ErrorKind
READ_ONLY: ErrorKind
NO_ATTRIBUTE: ErrorKind
NOT_SUPPORTED: ErrorKind
OUT_OF_RANGE: ErrorKind
ARGUMENT_TOO_LARGE: ErrorKind
QUOTA_EXCEEDED: ErrorKind
CROSS_QUOTA: ErrorKind
NOT_INLINE: ErrorKind
LOCKED: ErrorKind
DEADLOCK: ErrorKind
NO_LOCKS: ErrorKind
INTERRUPTED: ErrorKind
LOCKS_LOST: ErrorKind
CHAIN_VERSION_MISMATCH: ErrorKind
NOT_SERVING: ErrorKind
CHUNK_NOT_FOUND: ErrorKind
CHECKSUM_MISMATCH: ErrorKind
NO_SPACE: ErrorKind
MISSING_UPDATE: ErrorKind
STALE_UPDATE: ErrorKind
NOT_PRIMARY: ErrorKind
DISK_FAILED: ErrorKind
DATA_LOST: ErrorKind
METHOD_ID_FIELD_NUMBER: _ClassVar[int]
method_id: _descriptor.FieldDescriptor
SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
service_id: _descriptor.FieldDescriptor

class Error(_message.Message):
    __slots__ = ("kind", "message", "subject")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    kind: ErrorKind
    message: str
    subject: str
    def __init__(self, kind: _Optional[_Union[ErrorKind, str]] = ..., message: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class Credential(_message.Message):
    __slots__ = ("uid", "gid", "groups")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ..., groups: _Optional[_Iterable[int]] = ...) -> None: ...

class RequestId(_message.Message):
    __slots__ = ("client_id", "sequence", "first_incomplete")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    sequence: int
    first_incomplete: int
    def __init__(self, client_id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., first_incomplete: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("cluster_id", "name", "kind")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    name: str
    kind: str
    def __init__(self, cluster_id: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
