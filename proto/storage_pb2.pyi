from luciole.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UpdateKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_KIND_UNSPECIFIED: _ClassVar[UpdateKind]
    WRITE: _ClassVar[UpdateKind]
    TRUNCATE: _ClassVar[UpdateKind]
    REPLACE: _ClassVar[UpdateKind]
    REMOVE: _ClassVar[UpdateKind]
    PUNCH: _ClassVar[UpdateKind]
    COPY: _ClassVar[UpdateKind]
    MERGE: _ClassVar[UpdateKind]
UPDATE_KIND_UNSPECIFIED: UpdateKind
WRITE: UpdateKind
TRUNCATE: UpdateKind
REPLACE: UpdateKind
REMOVE: UpdateKind
PUNCH: UpdateKind
COPY: UpdateKind
MERGE: UpdateKind

class VersionedChain(_message.Message):
    __slots__ = ("chain_id", "version")
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    chain_id: int
    version: int
    def __init__(self, chain_id: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class UpdateTag(_message.Message):
    __slots__ = ("client_id", "channel", "sequence")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    channel: int
    sequence: int
    def __init__(self, client_id: _Optional[bytes] = ..., channel: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class CopySource(_message.Message):
    __slots__ = ("chain_id", "chunk_id", "offset")
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    chain_id: int
    chunk_id: bytes
    offset: int
    def __init__(self, chain_id: _Optional[int] = ..., chunk_id: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class WriteIO(_message.Message):
    __slots__ = ("chain", "chunk_id", "chunk_size", "kind", "offset", "length", "checksums", "tag", "if_versions", "source", "runs")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    IF_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    chunk_id: bytes
    chunk_size: int
    kind: UpdateKind
    offset: int
    length: int
    checksums: _containers.RepeatedScalarFieldContainer[int]
    tag: UpdateTag
    if_versions: _containers.RepeatedScalarFieldContainer[int]
    source: CopySource
    runs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., chunk_id: _Optional[bytes] = ..., chunk_size: _Optional[int] = ..., kind: _Optional[_Union[UpdateKind, str]] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., checksums: _Optional[_Iterable[int]] = ..., tag: _Optional[_Union[UpdateTag, _Mapping]] = ..., if_versions: _Optional[_Iterable[int]] = ..., source: _Optional[_Union[CopySource, _Mapping]] = ..., runs: _Optional[_Iterable[int]] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("error", "version", "length", "length_before")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BEFORE_FIELD_NUMBER: _ClassVar[int]
    error: _common_pb2.Error
    version: int
    length: int
    length_before: int
    def __init__(self, error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., version: _Optional[int] = ..., length: _Optional[int] = ..., length_before: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("ios", "data")
    IOS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ios: _containers.RepeatedCompositeFieldContainer[WriteIO]
    data: bytes
    def __init__(self, ios: _Optional[_Iterable[_Union[WriteIO, _Mapping]]] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("io", "version", "base_version", "syncing", "link", "data")
    IO_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SYNCING_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    io: WriteIO
    version: int
    base_version: int
    syncing: bool
    link: int
    data: bytes
    def __init__(self, io: _Optional[_Union[WriteIO, _Mapping]] = ..., version: _Optional[int] = ..., base_version: _Optional[int] = ..., syncing: _Optional[bool] = ..., link: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ForwardReply(_message.Message):
    __slots__ = ("result", "link")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    result: WriteResult
    link: int
    def __init__(self, result: _Optional[_Union[WriteResult, _Mapping]] = ..., link: _Optional[int] = ...) -> None: ...

class ReadIO(_message.Message):
    __slots__ = ("chain", "chunk_id", "offset", "length", "relaxed", "version", "unverified")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    RELAXED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNVERIFIED_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    chunk_id: bytes
    offset: int
    length: int
    relaxed: bool
    version: int
    unverified: bool
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., chunk_id: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., relaxed: _Optional[bool] = ..., version: _Optional[int] = ..., unverified: _Optional[bool] = ...) -> None: ...

class ReadResult(_message.Message):
    __slots__ = ("error", "length", "version", "checksums")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    error: _common_pb2.Error
    length: int
    version: int
    checksums: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., length: _Optional[int] = ..., version: _Optional[int] = ..., checksums: _Optional[_Iterable[int]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("ios",)
    IOS_FIELD_NUMBER: _ClassVar[int]
    ios: _containers.RepeatedCompositeFieldContainer[ReadIO]
    def __init__(self, ios: _Optional[_Iterable[_Union[ReadIO, _Mapping]]] = ...) -> None: ...

class ReadReply(_message.Message):
    __slots__ = ("results", "data")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReadResult]
    data: bytes
    def __init__(self, results: _Optional[_Iterable[_Union[ReadResult, _Mapping]]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PackedReads(_message.Message):
    __slots__ = ("chain", "records")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    records: bytes
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., records: _Optional[bytes] = ...) -> None: ...

class ReadPackedRequest(_message.Message):
    __slots__ = ("batches",)
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[PackedReads]
    def __init__(self, batches: _Optional[_Iterable[_Union[PackedReads, _Mapping]]] = ...) -> None: ...

class ReadPackedReply(_message.Message):
    __slots__ = ("lengths", "checksums", "data")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    lengths: bytes
    checksums: bytes
    data: bytes
    def __init__(self, lengths: _Optional[bytes] = ..., checksums: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class QueryVersionRequest(_message.Message):
    __slots__ = ("chain", "chunk_id")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    chunk_id: bytes
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., chunk_id: _Optional[bytes] = ...) -> None: ...

class QueryVersionReply(_message.Message):
    __slots__ = ("found", "committed_version")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    found: bool
    committed_version: int
    def __init__(self, found: _Optional[bool] = ..., committed_version: _Optional[int] = ...) -> None: ...

class ChunkRange(_message.Message):
    __slots__ = ("begin", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: bytes
    end: bytes
    def __init__(self, begin: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...

class RemoveRangesRequest(_message.Message):
    __slots__ = ("chain", "ranges", "limit")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    ranges: _containers.RepeatedCompositeFieldContainer[ChunkRange]
    limit: int
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., ranges: _Optional[_Iterable[_Union[ChunkRange, _Mapping]]] = ..., limit: _Optional[int] = ...) -> None: ...

class RemoveRangesReply(_message.Message):
    __slots__ = ("removed", "ranges_done")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    RANGES_DONE_FIELD_NUMBER: _ClassVar[int]
    removed: int
    ranges_done: int
    def __init__(self, removed: _Optional[int] = ..., ranges_done: _Optional[int] = ...) -> None: ...

class RemoveListedRequest(_message.Message):
    __slots__ = ("chain", "chunks")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    chunks: _containers.RepeatedCompositeFieldContainer[ChunkInfo]
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., chunks: _Optional[_Iterable[_Union[ChunkInfo, _Mapping]]] = ...) -> None: ...

class RemoveListedReply(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, kept: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ("chains",)
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    chains: _containers.RepeatedCompositeFieldContainer[VersionedChain]
    def __init__(self, chains: _Optional[_Iterable[_Union[VersionedChain, _Mapping]]] = ...) -> None: ...

class ChunkInfo(_message.Message):
    __slots__ = ("chunk_id", "committed_version", "pending_version", "length", "checksum", "allocated")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PENDING_VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_FIELD_NUMBER: _ClassVar[int]
    chunk_id: bytes
    committed_version: int
    pending_version: int
    length: int
    checksum: int
    allocated: int
    def __init__(self, chunk_id: _Optional[bytes] = ..., committed_version: _Optional[int] = ..., pending_version: _Optional[int] = ..., length: _Optional[int] = ..., checksum: _Optional[int] = ..., allocated: _Optional[int] = ...) -> None: ...

class ListChunksRequest(_message.Message):
    __slots__ = ("target_id", "begin", "end", "limit", "chain")
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    target_id: int
    begin: bytes
    end: bytes
    limit: int
    chain: VersionedChain
    def __init__(self, target_id: _Optional[int] = ..., begin: _Optional[bytes] = ..., end: _Optional[bytes] = ..., limit: _Optional[int] = ..., chain: _Optional[_Union[VersionedChain, _Mapping]] = ...) -> None: ...

class ListChunksReply(_message.Message):
    __slots__ = ("chunks", "more", "incarnation")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[ChunkInfo]
    more: bool
    incarnation: int
    def __init__(self, chunks: _Optional[_Iterable[_Union[ChunkInfo, _Mapping]]] = ..., more: _Optional[bool] = ..., incarnation: _Optional[int] = ...) -> None: ...

class SyncDoneRequest(_message.Message):
    __slots__ = ("chain", "incarnation")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    incarnation: int
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class AppliedRecord(_message.Message):
    __slots__ = ("client_id", "channel", "sequence", "chunk_id", "version", "length", "length_before")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BEFORE_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    channel: int
    sequence: int
    chunk_id: bytes
    version: int
    length: int
    length_before: int
    def __init__(self, client_id: _Optional[bytes] = ..., channel: _Optional[int] = ..., sequence: _Optional[int] = ..., chunk_id: _Optional[bytes] = ..., version: _Optional[int] = ..., length: _Optional[int] = ..., length_before: _Optional[int] = ...) -> None: ...

class SyncAppliedRequest(_message.Message):
    __slots__ = ("chain", "incarnation", "records")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    chain: VersionedChain
    incarnation: int
    records: _containers.RepeatedCompositeFieldContainer[AppliedRecord]
    def __init__(self, chain: _Optional[_Union[VersionedChain, _Mapping]] = ..., incarnation: _Optional[int] = ..., records: _Optional[_Iterable[_Union[AppliedRecord, _Mapping]]] = ...) -> None: ...

class Way(_message.Message):
    __slots__ = ("node_id", "transport", "why")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    transport: str
    why: str
    def __init__(self, node_id: _Optional[int] = ..., transport: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class WaysReply(_message.Message):
    __slots__ = ("ways",)
    WAYS_FIELD_NUMBER: _ClassVar[int]
    ways: _containers.RepeatedCompositeFieldContainer[Way]
    def __init__(self, ways: _Optional[_Iterable[_Union[Way, _Mapping]]] = ...) -> None: ...
