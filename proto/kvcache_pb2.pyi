from luciole.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BlockStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABSENT: _ClassVar[BlockStatus]
    PRESENT: _ClassVar[BlockStatus]
    STORED: _ClassVar[BlockStatus]
    REFUSED: _ClassVar[BlockStatus]
    DAMAGED: _ClassVar[BlockStatus]
    OTHER_SIZE: _ClassVar[BlockStatus]
ABSENT: BlockStatus
PRESENT: BlockStatus
STORED: BlockStatus
REFUSED: BlockStatus
DAMAGED: BlockStatus
OTHER_SIZE: BlockStatus

class KvExistsRequest(_message.Message):
    __slots__ = ("namespace_id", "key_size", "keys", "touch", "details")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TOUCH_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    key_size: int
    keys: bytes
    touch: bool
    details: bool
    def __init__(self, namespace_id: _Optional[int] = ..., key_size: _Optional[int] = ..., keys: _Optional[bytes] = ..., touch: _Optional[bool] = ..., details: _Optional[bool] = ...) -> None: ...

class KvExistsReply(_message.Message):
    __slots__ = ("statuses", "blocks")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    statuses: bytes
    blocks: _containers.RepeatedCompositeFieldContainer[KvBlock]
    def __init__(self, statuses: _Optional[bytes] = ..., blocks: _Optional[_Iterable[_Union[KvBlock, _Mapping]]] = ...) -> None: ...

class KvBlock(_message.Message):
    __slots__ = ("key", "length", "created_ns")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    length: int
    created_ns: int
    def __init__(self, key: _Optional[bytes] = ..., length: _Optional[int] = ..., created_ns: _Optional[int] = ...) -> None: ...

class KvListRequest(_message.Message):
    __slots__ = ("namespace_id", "prefix", "after", "limit")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    prefix: bytes
    after: bytes
    limit: int
    def __init__(self, namespace_id: _Optional[int] = ..., prefix: _Optional[bytes] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class KvListReply(_message.Message):
    __slots__ = ("blocks", "more")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedCompositeFieldContainer[KvBlock]
    more: bool
    def __init__(self, blocks: _Optional[_Iterable[_Union[KvBlock, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class KvMatchRequest(_message.Message):
    __slots__ = ("namespace_id", "key_size", "keys", "lease_id", "lease_ms")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    key_size: int
    keys: bytes
    lease_id: int
    lease_ms: int
    def __init__(self, namespace_id: _Optional[int] = ..., key_size: _Optional[int] = ..., keys: _Optional[bytes] = ..., lease_id: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class KvMatchReply(_message.Message):
    __slots__ = ("count", "bytes")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    count: int
    bytes: int
    def __init__(self, count: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class KvLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "lease_ms")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    lease_ms: int
    def __init__(self, lease_id: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class KvLeaseReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class KvGetRequest(_message.Message):
    __slots__ = ("namespace_id", "key_size", "keys", "offset", "length")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    key_size: int
    keys: bytes
    offset: int
    length: int
    def __init__(self, namespace_id: _Optional[int] = ..., key_size: _Optional[int] = ..., keys: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class KvGetReply(_message.Message):
    __slots__ = ("statuses", "lengths", "checksums", "data")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    statuses: bytes
    lengths: bytes
    checksums: bytes
    data: bytes
    def __init__(self, statuses: _Optional[bytes] = ..., lengths: _Optional[bytes] = ..., checksums: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class KvPutRequest(_message.Message):
    __slots__ = ("namespace_id", "key_size", "keys", "lengths", "checksums", "data")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    key_size: int
    keys: bytes
    lengths: bytes
    checksums: bytes
    data: bytes
    def __init__(self, namespace_id: _Optional[int] = ..., key_size: _Optional[int] = ..., keys: _Optional[bytes] = ..., lengths: _Optional[bytes] = ..., checksums: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class KvPutReply(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: bytes
    def __init__(self, statuses: _Optional[bytes] = ...) -> None: ...

class KvDeleteRequest(_message.Message):
    __slots__ = ("namespace_id", "key_size", "keys")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    key_size: int
    keys: bytes
    def __init__(self, namespace_id: _Optional[int] = ..., key_size: _Optional[int] = ..., keys: _Optional[bytes] = ...) -> None: ...

class KvDeleteReply(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: bytes
    def __init__(self, statuses: _Optional[bytes] = ...) -> None: ...

class KvEvictRequest(_message.Message):
    __slots__ = ("namespace_id", "keep_bytes")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    keep_bytes: int
    def __init__(self, namespace_id: _Optional[int] = ..., keep_bytes: _Optional[int] = ...) -> None: ...

class KvEvictReply(_message.Message):
    __slots__ = ("blocks", "bytes")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    bytes: int
    def __init__(self, blocks: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class KvNamespaceStats(_message.Message):
    __slots__ = ("namespace_id", "blocks", "used_bytes", "limit_bytes", "hits", "misses", "bytes_read", "bytes_written", "puts", "evicted", "expired", "refused", "damaged", "leased_blocks")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    PUTS_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    LEASED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    blocks: int
    used_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    bytes_read: int
    bytes_written: int
    puts: int
    evicted: int
    expired: int
    refused: int
    damaged: int
    leased_blocks: int
    def __init__(self, namespace_id: _Optional[int] = ..., blocks: _Optional[int] = ..., used_bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., bytes_read: _Optional[int] = ..., bytes_written: _Optional[int] = ..., puts: _Optional[int] = ..., evicted: _Optional[int] = ..., expired: _Optional[int] = ..., refused: _Optional[int] = ..., damaged: _Optional[int] = ..., leased_blocks: _Optional[int] = ...) -> None: ...

class KvStatsReply(_message.Message):
    __slots__ = ("capacity_bytes", "used_bytes", "leases", "recovered_blocks", "namespaces")
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    capacity_bytes: int
    used_bytes: int
    leases: int
    recovered_blocks: int
    namespaces: _containers.RepeatedCompositeFieldContainer[KvNamespaceStats]
    def __init__(self, capacity_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., leases: _Optional[int] = ..., recovered_blocks: _Optional[int] = ..., namespaces: _Optional[_Iterable[_Union[KvNamespaceStats, _Mapping]]] = ...) -> None: ...

class KvCheckReply(_message.Message):
    __slots__ = ("blocks", "problems")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, blocks: _Optional[int] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...
