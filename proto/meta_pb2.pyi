from luciole.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_TYPE_UNSPECIFIED: _ClassVar[FileType]
    REGULAR: _ClassVar[FileType]
    DIRECTORY: _ClassVar[FileType]
    SYMLINK: _ClassVar[FileType]
    FIFO: _ClassVar[FileType]
    SOCKET: _ClassVar[FileType]
    CHARACTER_DEVICE: _ClassVar[FileType]
    BLOCK_DEVICE: _ClassVar[FileType]
FILE_TYPE_UNSPECIFIED: FileType
REGULAR: FileType
DIRECTORY: FileType
SYMLINK: FileType
FIFO: FileType
SOCKET: FileType
CHARACTER_DEVICE: FileType
BLOCK_DEVICE: FileType

class Layout(_message.Message):
    __slots__ = ("table_id", "table_version", "chunk_size", "stripe", "seed")
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    STRIPE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    table_id: int
    table_version: int
    chunk_size: int
    stripe: int
    seed: int
    def __init__(self, table_id: _Optional[int] = ..., table_version: _Optional[int] = ..., chunk_size: _Optional[int] = ..., stripe: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Inode(_message.Message):
    __slots__ = ("inode_id", "type", "mode", "uid", "gid", "nlink", "length", "truncate_version", "atime_ns", "mtime_ns", "ctime_ns", "btime_ns", "layout", "symlink", "parent", "trim_pending", "unlinked_ns", "rdev", "acl_access", "acl_default", "xattr_bytes", "linkable", "data_version", "allocated", "append_end", "quota_root", "trashed", "inline_bytes")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    NLINK_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATIME_NS_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    CTIME_NS_FIELD_NUMBER: _ClassVar[int]
    BTIME_NS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TRIM_PENDING_FIELD_NUMBER: _ClassVar[int]
    UNLINKED_NS_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    ACL_ACCESS_FIELD_NUMBER: _ClassVar[int]
    ACL_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    XATTR_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINKABLE_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_FIELD_NUMBER: _ClassVar[int]
    APPEND_END_FIELD_NUMBER: _ClassVar[int]
    QUOTA_ROOT_FIELD_NUMBER: _ClassVar[int]
    TRASHED_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    type: FileType
    mode: int
    uid: int
    gid: int
    nlink: int
    length: int
    truncate_version: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    layout: Layout
    symlink: bytes
    parent: int
    trim_pending: bool
    unlinked_ns: int
    rdev: int
    acl_access: bytes
    acl_default: bytes
    xattr_bytes: int
    linkable: bool
    data_version: int
    allocated: int
    append_end: int
    quota_root: int
    trashed: Trashed
    inline_bytes: int
    def __init__(self, inode_id: _Optional[int] = ..., type: _Optional[_Union[FileType, str]] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., nlink: _Optional[int] = ..., length: _Optional[int] = ..., truncate_version: _Optional[int] = ..., atime_ns: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., ctime_ns: _Optional[int] = ..., btime_ns: _Optional[int] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., symlink: _Optional[bytes] = ..., parent: _Optional[int] = ..., trim_pending: _Optional[bool] = ..., unlinked_ns: _Optional[int] = ..., rdev: _Optional[int] = ..., acl_access: _Optional[bytes] = ..., acl_default: _Optional[bytes] = ..., xattr_bytes: _Optional[int] = ..., linkable: _Optional[bool] = ..., data_version: _Optional[int] = ..., allocated: _Optional[int] = ..., append_end: _Optional[int] = ..., quota_root: _Optional[int] = ..., trashed: _Optional[_Union[Trashed, _Mapping]] = ..., inline_bytes: _Optional[int] = ...) -> None: ...

class Patch(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Trashed(_message.Message):
    __slots__ = ("directory", "parent", "name", "uid", "time_ns")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    directory: int
    parent: int
    name: bytes
    uid: int
    time_ns: int
    def __init__(self, directory: _Optional[int] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., uid: _Optional[int] = ..., time_ns: _Optional[int] = ...) -> None: ...

class Dentry(_message.Message):
    __slots__ = ("parent", "name", "inode_id", "type")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    parent: int
    name: bytes
    inode_id: int
    type: FileType
    def __init__(self, parent: _Optional[int] = ..., name: _Optional[bytes] = ..., inode_id: _Optional[int] = ..., type: _Optional[_Union[FileType, str]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("client_id", "session_id", "inode_id", "opened_ns", "write")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    OPENED_NS_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    session_id: bytes
    inode_id: int
    opened_ns: int
    write: bool
    def __init__(self, client_id: _Optional[bytes] = ..., session_id: _Optional[bytes] = ..., inode_id: _Optional[int] = ..., opened_ns: _Optional[int] = ..., write: _Optional[bool] = ...) -> None: ...

class LengthHint(_message.Message):
    __slots__ = ("length", "truncate_version", "mtime_ns", "allocated_change", "allocated", "uncertain", "patches", "waiting")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_CHANGE_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    length: int
    truncate_version: int
    mtime_ns: int
    allocated_change: int
    allocated: int
    uncertain: bool
    patches: _containers.RepeatedCompositeFieldContainer[Patch]
    waiting: WaitingAttributes
    def __init__(self, length: _Optional[int] = ..., truncate_version: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., allocated_change: _Optional[int] = ..., allocated: _Optional[int] = ..., uncertain: _Optional[bool] = ..., patches: _Optional[_Iterable[_Union[Patch, _Mapping]]] = ..., waiting: _Optional[_Union[WaitingAttributes, _Mapping]] = ...) -> None: ...

class WaitingAttributes(_message.Message):
    __slots__ = ("credential", "mode", "atime_ns", "mtime_ns", "ctime_ns")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ATIME_NS_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    CTIME_NS_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    mode: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., mode: _Optional[int] = ..., atime_ns: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., ctime_ns: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("credential", "parent", "name")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("inode_id", "with_content")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_CONTENT_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    with_content: bool
    def __init__(self, inode_id: _Optional[int] = ..., with_content: _Optional[bool] = ...) -> None: ...

class InodeReply(_message.Message):
    __slots__ = ("inode", "content", "directories")
    INODE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    content: bytes
    directories: _containers.RepeatedCompositeFieldContainer[Inode]
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., content: _Optional[bytes] = ..., directories: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ...) -> None: ...

class LookupManyRequest(_message.Message):
    __slots__ = ("credential", "names", "with_content")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    WITH_CONTENT_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    names: _containers.RepeatedCompositeFieldContainer[ChangedEntry]
    with_content: bool
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., names: _Optional[_Iterable[_Union[ChangedEntry, _Mapping]]] = ..., with_content: _Optional[bool] = ...) -> None: ...

class FoundName(_message.Message):
    __slots__ = ("error", "inode", "content")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    error: _common_pb2.Error
    inode: Inode
    content: bytes
    def __init__(self, error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ..., content: _Optional[bytes] = ...) -> None: ...

class LookupManyReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[FoundName]
    def __init__(self, found: _Optional[_Iterable[_Union[FoundName, _Mapping]]] = ...) -> None: ...

class BatchStatRequest(_message.Message):
    __slots__ = ("inode_ids",)
    INODE_IDS_FIELD_NUMBER: _ClassVar[int]
    inode_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, inode_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class BatchStatReply(_message.Message):
    __slots__ = ("inodes",)
    INODES_FIELD_NUMBER: _ClassVar[int]
    inodes: _containers.RepeatedCompositeFieldContainer[Inode]
    def __init__(self, inodes: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ...) -> None: ...

class SetAttrRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "mode", "uid", "gid", "atime_ns", "mtime_ns", "atime_now", "mtime_now", "session_id", "hint")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    ATIME_NS_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    ATIME_NOW_FIELD_NUMBER: _ClassVar[int]
    MTIME_NOW_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    atime_now: bool
    mtime_now: bool
    session_id: bytes
    hint: LengthHint
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., atime_ns: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., atime_now: _Optional[bool] = ..., mtime_now: _Optional[bool] = ..., session_id: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name", "mode", "exclusive", "truncate", "read", "write", "session_id", "umask")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    mode: int
    exclusive: bool
    truncate: bool
    read: bool
    write: bool
    session_id: bytes
    umask: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., mode: _Optional[int] = ..., exclusive: _Optional[bool] = ..., truncate: _Optional[bool] = ..., read: _Optional[bool] = ..., write: _Optional[bool] = ..., session_id: _Optional[bytes] = ..., umask: _Optional[int] = ...) -> None: ...

class CreateReply(_message.Message):
    __slots__ = ("inode", "created", "directories")
    INODE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    created: bool
    directories: _containers.RepeatedCompositeFieldContainer[Inode]
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., created: _Optional[bool] = ..., directories: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "read", "write", "truncate", "session_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    read: bool
    write: bool
    truncate: bool
    session_id: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., read: _Optional[bool] = ..., write: _Optional[bool] = ..., truncate: _Optional[bool] = ..., session_id: _Optional[bytes] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "session_id", "hint")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    session_id: bytes
    hint: LengthHint
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., session_id: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ...) -> None: ...

class FsyncRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "session_id", "hint", "report_only")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    REPORT_ONLY_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    session_id: bytes
    hint: LengthHint
    report_only: bool
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., session_id: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ..., report_only: _Optional[bool] = ...) -> None: ...

class TruncateRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "length", "session_id", "hint")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    length: int
    session_id: bytes
    hint: LengthHint
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., length: _Optional[int] = ..., session_id: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "session_id", "hint", "length")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    session_id: bytes
    hint: LengthHint
    length: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., session_id: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ..., length: _Optional[int] = ...) -> None: ...

class AppendReply(_message.Message):
    __slots__ = ("inode", "offset")
    INODE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    offset: int
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadDirRequest(_message.Message):
    __slots__ = ("credential", "inode_id", "after", "limit", "with_inodes")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WITH_INODES_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    inode_id: int
    after: bytes
    limit: int
    with_inodes: bool
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ..., with_inodes: _Optional[bool] = ...) -> None: ...

class DirEntry(_message.Message):
    __slots__ = ("dentry", "inode")
    DENTRY_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    dentry: Dentry
    inode: Inode
    def __init__(self, dentry: _Optional[_Union[Dentry, _Mapping]] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ...) -> None: ...

class ReadDirReply(_message.Message):
    __slots__ = ("entries", "more", "parent")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[DirEntry]
    more: bool
    parent: int
    def __init__(self, entries: _Optional[_Iterable[_Union[DirEntry, _Mapping]]] = ..., more: _Optional[bool] = ..., parent: _Optional[int] = ...) -> None: ...

class MakeDirRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name", "mode", "umask")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    mode: int
    umask: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., mode: _Optional[int] = ..., umask: _Optional[int] = ...) -> None: ...

class MakeNodeRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name", "mode", "type", "rdev", "umask")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    mode: int
    type: FileType
    rdev: int
    umask: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., mode: _Optional[int] = ..., type: _Optional[_Union[FileType, str]] = ..., rdev: _Optional[int] = ..., umask: _Optional[int] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class RemoveReply(_message.Message):
    __slots__ = ("inode", "directories")
    INODE_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    directories: _containers.RepeatedCompositeFieldContainer[Inode]
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., directories: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ...) -> None: ...

class SymlinkRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name", "target")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    target: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., target: _Optional[bytes] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "parent", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    parent: int
    name: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class RenameRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name", "new_parent", "new_name", "no_replace", "exchange")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NEW_PARENT_FIELD_NUMBER: _ClassVar[int]
    NEW_NAME_FIELD_NUMBER: _ClassVar[int]
    NO_REPLACE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    no_replace: bool
    exchange: bool
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ..., new_parent: _Optional[int] = ..., new_name: _Optional[bytes] = ..., no_replace: _Optional[bool] = ..., exchange: _Optional[bool] = ...) -> None: ...

class RenameReply(_message.Message):
    __slots__ = ("inode", "replaced", "directories")
    INODE_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    replaced: Inode
    directories: _containers.RepeatedCompositeFieldContainer[Inode]
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., replaced: _Optional[_Union[Inode, _Mapping]] = ..., directories: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ...) -> None: ...

class SetXattrRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "name", "value", "create", "replace", "clear_setgid")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    CLEAR_SETGID_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    name: bytes
    value: bytes
    create: bool
    replace: bool
    clear_setgid: bool
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., name: _Optional[bytes] = ..., value: _Optional[bytes] = ..., create: _Optional[bool] = ..., replace: _Optional[bool] = ..., clear_setgid: _Optional[bool] = ...) -> None: ...

class RemoveXattrRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    name: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class GetXattrRequest(_message.Message):
    __slots__ = ("credential", "inode_id", "name")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    inode_id: int
    name: bytes
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class GetXattrReply(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    def __init__(self, value: _Optional[bytes] = ...) -> None: ...

class ListXattrRequest(_message.Message):
    __slots__ = ("credential", "inode_id")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    inode_id: int
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ...) -> None: ...

class ListXattrReply(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RemoveTreeRequest(_message.Message):
    __slots__ = ("request_id", "credential", "parent", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    parent: int
    name: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("inode_id", "bytes_limit", "inodes_limit", "removed", "bytes_used", "inodes_used", "pending")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    INODES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    INODES_USED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    bytes_limit: int
    inodes_limit: int
    removed: bool
    bytes_used: int
    inodes_used: int
    pending: bool
    def __init__(self, inode_id: _Optional[int] = ..., bytes_limit: _Optional[int] = ..., inodes_limit: _Optional[int] = ..., removed: _Optional[bool] = ..., bytes_used: _Optional[int] = ..., inodes_used: _Optional[int] = ..., pending: _Optional[bool] = ...) -> None: ...

class QuotaWalk(_message.Message):
    __slots__ = ("source", "target")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    source: int
    target: int
    def __init__(self, source: _Optional[int] = ..., target: _Optional[int] = ...) -> None: ...

class SetQuotaRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "bytes_limit", "inodes_limit")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    INODES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    bytes_limit: int
    inodes_limit: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., bytes_limit: _Optional[int] = ..., inodes_limit: _Optional[int] = ...) -> None: ...

class RemoveQuotaRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ...) -> None: ...

class QuotaReply(_message.Message):
    __slots__ = ("quota",)
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    quota: Quota
    def __init__(self, quota: _Optional[_Union[Quota, _Mapping]] = ...) -> None: ...

class Trash(_message.Message):
    __slots__ = ("inode_id", "keep_seconds", "disabled")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    keep_seconds: int
    disabled: bool
    def __init__(self, inode_id: _Optional[int] = ..., keep_seconds: _Optional[int] = ..., disabled: _Optional[bool] = ...) -> None: ...

class SetTrashRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id", "keep_seconds")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    keep_seconds: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., keep_seconds: _Optional[int] = ...) -> None: ...

class TrashReply(_message.Message):
    __slots__ = ("trash",)
    TRASH_FIELD_NUMBER: _ClassVar[int]
    trash: Trash
    def __init__(self, trash: _Optional[_Union[Trash, _Mapping]] = ...) -> None: ...

class ListTrashRequest(_message.Message):
    __slots__ = ("credential", "inode_id", "after")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    credential: _common_pb2.Credential
    inode_id: int
    after: bytes
    def __init__(self, credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ..., after: _Optional[bytes] = ...) -> None: ...

class ListTrashReply(_message.Message):
    __slots__ = ("inodes", "last", "more")
    INODES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    inodes: _containers.RepeatedCompositeFieldContainer[Inode]
    last: bytes
    more: bool
    def __init__(self, inodes: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ..., last: _Optional[bytes] = ..., more: _Optional[bool] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("request_id", "credential", "directory", "time_ns", "inode_id", "parent", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    directory: int
    time_ns: int
    inode_id: int
    parent: int
    name: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., directory: _Optional[int] = ..., time_ns: _Optional[int] = ..., inode_id: _Optional[int] = ..., parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class EmptyTrashRequest(_message.Message):
    __slots__ = ("request_id", "credential", "inode_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    credential: _common_pb2.Credential
    inode_id: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., credential: _Optional[_Union[_common_pb2.Credential, _Mapping]] = ..., inode_id: _Optional[int] = ...) -> None: ...

class EmptyTrashReply(_message.Message):
    __slots__ = ("removed", "more")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    removed: int
    more: bool
    def __init__(self, removed: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...

class StatFsReply(_message.Message):
    __slots__ = ("capacity_bytes", "free_bytes", "used_bytes", "inodes", "inodes_limit")
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    INODES_FIELD_NUMBER: _ClassVar[int]
    INODES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    capacity_bytes: int
    free_bytes: int
    used_bytes: int
    inodes: int
    inodes_limit: int
    def __init__(self, capacity_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., inodes: _Optional[int] = ..., inodes_limit: _Optional[int] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("client_id", "sessions")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, client_id: _Optional[bytes] = ..., sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class HoldReply(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing: _Optional[_Iterable[int]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class ChangedEntry(_message.Message):
    __slots__ = ("parent", "name")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    parent: int
    name: bytes
    def __init__(self, parent: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("client_id", "time_ns", "inode_ids", "entries")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    INODE_IDS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    time_ns: int
    inode_ids: _containers.RepeatedScalarFieldContainer[int]
    entries: _containers.RepeatedCompositeFieldContainer[ChangedEntry]
    def __init__(self, client_id: _Optional[bytes] = ..., time_ns: _Optional[int] = ..., inode_ids: _Optional[_Iterable[int]] = ..., entries: _Optional[_Iterable[_Union[ChangedEntry, _Mapping]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("client_id", "after", "wait_ms")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    after: bytes
    wait_ms: int
    def __init__(self, client_id: _Optional[bytes] = ..., after: _Optional[bytes] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("changes", "next", "lost")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    next: bytes
    lost: bool
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., next: _Optional[bytes] = ..., lost: _Optional[bool] = ...) -> None: ...

class FileLock(_message.Message):
    __slots__ = ("client_id", "owner", "flock", "write", "first", "last", "pid", "wait_id")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    FLOCK_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WAIT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    owner: int
    flock: bool
    write: bool
    first: int
    last: int
    pid: int
    wait_id: int
    def __init__(self, client_id: _Optional[bytes] = ..., owner: _Optional[int] = ..., flock: _Optional[bool] = ..., write: _Optional[bool] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., pid: _Optional[int] = ..., wait_id: _Optional[int] = ...) -> None: ...

class FileLocks(_message.Message):
    __slots__ = ("held", "waiting")
    HELD_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedCompositeFieldContainer[FileLock]
    waiting: _containers.RepeatedCompositeFieldContainer[FileLock]
    def __init__(self, held: _Optional[_Iterable[_Union[FileLock, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[FileLock, _Mapping]]] = ...) -> None: ...

class LockRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "lock", "wait", "after")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    lock: FileLock
    wait: bool
    after: bytes
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., lock: _Optional[_Union[FileLock, _Mapping]] = ..., wait: _Optional[bool] = ..., after: _Optional[bytes] = ...) -> None: ...

class LockReply(_message.Message):
    __slots__ = ("granted", "blocker", "inode", "behind")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    BLOCKER_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    blocker: FileLock
    inode: Inode
    behind: WatchReply
    def __init__(self, granted: _Optional[bool] = ..., blocker: _Optional[_Union[FileLock, _Mapping]] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ..., behind: _Optional[_Union[WatchReply, _Mapping]] = ...) -> None: ...

class UnlockRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "lock")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    lock: FileLock
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., lock: _Optional[_Union[FileLock, _Mapping]] = ...) -> None: ...

class TestLockRequest(_message.Message):
    __slots__ = ("inode_id", "lock")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    lock: FileLock
    def __init__(self, inode_id: _Optional[int] = ..., lock: _Optional[_Union[FileLock, _Mapping]] = ...) -> None: ...

class AwaitLockRequest(_message.Message):
    __slots__ = ("inode_id", "client_id", "wait_id", "wait_ms", "after")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    client_id: bytes
    wait_id: int
    wait_ms: int
    after: bytes
    def __init__(self, inode_id: _Optional[int] = ..., client_id: _Optional[bytes] = ..., wait_id: _Optional[int] = ..., wait_ms: _Optional[int] = ..., after: _Optional[bytes] = ...) -> None: ...

class AwaitLockReply(_message.Message):
    __slots__ = ("waiting", "inode", "behind")
    WAITING_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    waiting: bool
    inode: Inode
    behind: WatchReply
    def __init__(self, waiting: _Optional[bool] = ..., inode: _Optional[_Union[Inode, _Mapping]] = ..., behind: _Optional[_Union[WatchReply, _Mapping]] = ...) -> None: ...

class CancelLockRequest(_message.Message):
    __slots__ = ("request_id", "inode_id", "wait_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: _common_pb2.RequestId
    inode_id: int
    wait_id: int
    def __init__(self, request_id: _Optional[_Union[_common_pb2.RequestId, _Mapping]] = ..., inode_id: _Optional[int] = ..., wait_id: _Optional[int] = ...) -> None: ...

class CancelLockReply(_message.Message):
    __slots__ = ("withdrawn",)
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    withdrawn: bool
    def __init__(self, withdrawn: _Optional[bool] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: bytes
    limit: int
    def __init__(self, after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class ScanReply(_message.Message):
    __slots__ = ("inodes", "dentries", "sessions", "garbage", "last", "more", "quotas", "contents")
    INODES_FIELD_NUMBER: _ClassVar[int]
    DENTRIES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    inodes: _containers.RepeatedCompositeFieldContainer[Inode]
    dentries: _containers.RepeatedCompositeFieldContainer[Dentry]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    garbage: _containers.RepeatedScalarFieldContainer[int]
    last: bytes
    more: bool
    quotas: _containers.RepeatedCompositeFieldContainer[Quota]
    contents: _containers.RepeatedCompositeFieldContainer[InlineRecord]
    def __init__(self, inodes: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ..., dentries: _Optional[_Iterable[_Union[Dentry, _Mapping]]] = ..., sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., garbage: _Optional[_Iterable[int]] = ..., last: _Optional[bytes] = ..., more: _Optional[bool] = ..., quotas: _Optional[_Iterable[_Union[Quota, _Mapping]]] = ..., contents: _Optional[_Iterable[_Union[InlineRecord, _Mapping]]] = ...) -> None: ...

class InlineRecord(_message.Message):
    __slots__ = ("inode_id", "length")
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    inode_id: int
    length: int
    def __init__(self, inode_id: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...
