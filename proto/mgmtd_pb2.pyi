from luciole.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_KIND_UNSPECIFIED: _ClassVar[NodeKind]
    MGMTD: _ClassVar[NodeKind]
    META: _ClassVar[NodeKind]
    STORAGE: _ClassVar[NodeKind]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    CONNECTED: _ClassVar[NodeState]
    FAILED: _ClassVar[NodeState]
    DISABLED: _ClassVar[NodeState]

class PublicState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUBLIC_STATE_UNSPECIFIED: _ClassVar[PublicState]
    SERVING: _ClassVar[PublicState]
    LAST_SERVING: _ClassVar[PublicState]
    SYNCING: _ClassVar[PublicState]
    WAITING: _ClassVar[PublicState]
    OFFLINE: _ClassVar[PublicState]

class LocalState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOCAL_STATE_UNSPECIFIED: _ClassVar[LocalState]
    LOCAL_UP_TO_DATE: _ClassVar[LocalState]
    LOCAL_ONLINE: _ClassVar[LocalState]
    LOCAL_OFFLINE: _ClassVar[LocalState]
    LOCAL_DOUBTFUL: _ClassVar[LocalState]
    LOCAL_ASIDE: _ClassVar[LocalState]

class NodeAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_ACTION_UNSPECIFIED: _ClassVar[NodeAction]
    ENABLE: _ClassVar[NodeAction]
    DISABLE: _ClassVar[NodeAction]
    DRAIN: _ClassVar[NodeAction]
NODE_KIND_UNSPECIFIED: NodeKind
MGMTD: NodeKind
META: NodeKind
STORAGE: NodeKind
NODE_STATE_UNSPECIFIED: NodeState
CONNECTED: NodeState
FAILED: NodeState
DISABLED: NodeState
PUBLIC_STATE_UNSPECIFIED: PublicState
SERVING: PublicState
LAST_SERVING: PublicState
SYNCING: PublicState
WAITING: PublicState
OFFLINE: PublicState
LOCAL_STATE_UNSPECIFIED: LocalState
LOCAL_UP_TO_DATE: LocalState
LOCAL_ONLINE: LocalState
LOCAL_OFFLINE: LocalState
LOCAL_DOUBTFUL: LocalState
LOCAL_ASIDE: LocalState
NODE_ACTION_UNSPECIFIED: NodeAction
ENABLE: NodeAction
DISABLE: NodeAction
DRAIN: NodeAction

class Node(_message.Message):
    __slots__ = ("node_id", "kind", "state", "host", "rpc_port", "grpc_port", "generation", "local", "kv_capacity_bytes")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    RPC_PORT_FIELD_NUMBER: _ClassVar[int]
    GRPC_PORT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    KV_CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    kind: NodeKind
    state: NodeState
    host: str
    rpc_port: int
    grpc_port: int
    generation: int
    local: str
    kv_capacity_bytes: int
    def __init__(self, node_id: _Optional[int] = ..., kind: _Optional[_Union[NodeKind, str]] = ..., state: _Optional[_Union[NodeState, str]] = ..., host: _Optional[str] = ..., rpc_port: _Optional[int] = ..., grpc_port: _Optional[int] = ..., generation: _Optional[int] = ..., local: _Optional[str] = ..., kv_capacity_bytes: _Optional[int] = ...) -> None: ...

class KvNamespace(_message.Message):
    __slots__ = ("namespace_id", "name", "quota_bytes", "ttl_seconds", "replication", "block_bytes", "description")
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    name: str
    quota_bytes: int
    ttl_seconds: int
    replication: int
    block_bytes: int
    description: str
    def __init__(self, namespace_id: _Optional[int] = ..., name: _Optional[str] = ..., quota_bytes: _Optional[int] = ..., ttl_seconds: _Optional[int] = ..., replication: _Optional[int] = ..., block_bytes: _Optional[int] = ..., description: _Optional[str] = ...) -> None: ...

class ChainTarget(_message.Message):
    __slots__ = ("target_id", "state")
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    target_id: int
    state: PublicState
    def __init__(self, target_id: _Optional[int] = ..., state: _Optional[_Union[PublicState, str]] = ...) -> None: ...

class Chain(_message.Message):
    __slots__ = ("chain_id", "version", "targets", "preferred_order", "losses")
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_ORDER_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    chain_id: int
    version: int
    targets: _containers.RepeatedCompositeFieldContainer[ChainTarget]
    preferred_order: _containers.RepeatedScalarFieldContainer[int]
    losses: int
    def __init__(self, chain_id: _Optional[int] = ..., version: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[ChainTarget, _Mapping]]] = ..., preferred_order: _Optional[_Iterable[int]] = ..., losses: _Optional[int] = ...) -> None: ...

class ChainTable(_message.Message):
    __slots__ = ("table_id", "version", "chain_ids")
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_IDS_FIELD_NUMBER: _ClassVar[int]
    table_id: int
    version: int
    chain_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, table_id: _Optional[int] = ..., version: _Optional[int] = ..., chain_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("target_id", "node_id", "disk", "chain_id", "content_id")
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ID_FIELD_NUMBER: _ClassVar[int]
    target_id: int
    node_id: int
    disk: int
    chain_id: int
    content_id: int
    def __init__(self, target_id: _Optional[int] = ..., node_id: _Optional[int] = ..., disk: _Optional[int] = ..., chain_id: _Optional[int] = ..., content_id: _Optional[int] = ...) -> None: ...

class Routing(_message.Message):
    __slots__ = ("version", "cluster_id", "nodes", "targets", "chains", "tables", "kv_namespaces")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    KV_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    version: int
    cluster_id: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    chains: _containers.RepeatedCompositeFieldContainer[Chain]
    tables: _containers.RepeatedCompositeFieldContainer[ChainTable]
    kv_namespaces: _containers.RepeatedCompositeFieldContainer[KvNamespace]
    def __init__(self, version: _Optional[int] = ..., cluster_id: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., chains: _Optional[_Iterable[_Union[Chain, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[ChainTable, _Mapping]]] = ..., kv_namespaces: _Optional[_Iterable[_Union[KvNamespace, _Mapping]]] = ...) -> None: ...

class TargetReport(_message.Message):
    __slots__ = ("target_id", "state", "chain_version", "used_bytes", "capacity_bytes", "free_bytes", "chunks", "resync_done", "resync_total", "disk", "device", "scrubbed_chunks", "scrubbed_bytes", "damaged", "repaired", "unrepairable", "resync_seconds_left", "content_id")
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    RESYNC_DONE_FIELD_NUMBER: _ClassVar[int]
    RESYNC_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SCRUBBED_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    SCRUBBED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    UNREPAIRABLE_FIELD_NUMBER: _ClassVar[int]
    RESYNC_SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ID_FIELD_NUMBER: _ClassVar[int]
    target_id: int
    state: LocalState
    chain_version: int
    used_bytes: int
    capacity_bytes: int
    free_bytes: int
    chunks: int
    resync_done: int
    resync_total: int
    disk: int
    device: str
    scrubbed_chunks: int
    scrubbed_bytes: int
    damaged: int
    repaired: int
    unrepairable: int
    resync_seconds_left: int
    content_id: int
    def __init__(self, target_id: _Optional[int] = ..., state: _Optional[_Union[LocalState, str]] = ..., chain_version: _Optional[int] = ..., used_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., chunks: _Optional[int] = ..., resync_done: _Optional[int] = ..., resync_total: _Optional[int] = ..., disk: _Optional[int] = ..., device: _Optional[str] = ..., scrubbed_chunks: _Optional[int] = ..., scrubbed_bytes: _Optional[int] = ..., damaged: _Optional[int] = ..., repaired: _Optional[int] = ..., unrepairable: _Optional[int] = ..., resync_seconds_left: _Optional[int] = ..., content_id: _Optional[int] = ...) -> None: ...

class PrimaryLease(_message.Message):
    __slots__ = ("node_id", "generation", "epoch", "address", "renewals", "released")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RENEWALS_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    generation: int
    epoch: int
    address: str
    renewals: int
    released: bool
    def __init__(self, node_id: _Optional[int] = ..., generation: _Optional[int] = ..., epoch: _Optional[int] = ..., address: _Optional[str] = ..., renewals: _Optional[int] = ..., released: _Optional[bool] = ...) -> None: ...

class RegisterNodeRequest(_message.Message):
    __slots__ = ("cluster_id", "node", "targets")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    node: Node
    targets: _containers.RepeatedCompositeFieldContainer[TargetReport]
    def __init__(self, cluster_id: _Optional[str] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., targets: _Optional[_Iterable[_Union[TargetReport, _Mapping]]] = ...) -> None: ...

class RegisterNodeReply(_message.Message):
    __slots__ = ("routing_version", "lease_ms")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    lease_ms: int
    def __init__(self, routing_version: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class Unreachable(_message.Message):
    __slots__ = ("node_id", "for_ms")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FOR_MS_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    for_ms: int
    def __init__(self, node_id: _Optional[int] = ..., for_ms: _Optional[int] = ...) -> None: ...

class StepDown(_message.Message):
    __slots__ = ("target_id", "chain_version")
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    target_id: int
    chain_version: int
    def __init__(self, target_id: _Optional[int] = ..., chain_version: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("cluster_id", "node_id", "generation", "targets", "config_version", "unreachable")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    node_id: int
    generation: int
    targets: _containers.RepeatedCompositeFieldContainer[TargetReport]
    config_version: int
    unreachable: _containers.RepeatedCompositeFieldContainer[Unreachable]
    def __init__(self, cluster_id: _Optional[str] = ..., node_id: _Optional[int] = ..., generation: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[TargetReport, _Mapping]]] = ..., config_version: _Optional[int] = ..., unreachable: _Optional[_Iterable[_Union[Unreachable, _Mapping]]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("routing_version", "config_version", "lease_ms", "step_down")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    STEP_DOWN_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    config_version: int
    lease_ms: int
    step_down: _containers.RepeatedCompositeFieldContainer[StepDown]
    def __init__(self, routing_version: _Optional[int] = ..., config_version: _Optional[int] = ..., lease_ms: _Optional[int] = ..., step_down: _Optional[_Iterable[_Union[StepDown, _Mapping]]] = ...) -> None: ...

class GetRoutingRequest(_message.Message):
    __slots__ = ("known_version", "wait_ms")
    KNOWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    known_version: int
    wait_ms: int
    def __init__(self, known_version: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class GetRoutingReply(_message.Message):
    __slots__ = ("version", "routing")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    version: int
    routing: Routing
    def __init__(self, version: _Optional[int] = ..., routing: _Optional[_Union[Routing, _Mapping]] = ...) -> None: ...

class CreateChainsRequest(_message.Message):
    __slots__ = ("replicas", "chains_per_target", "allow_shared_nodes")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CHAINS_PER_TARGET_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SHARED_NODES_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    chains_per_target: int
    allow_shared_nodes: bool
    def __init__(self, replicas: _Optional[int] = ..., chains_per_target: _Optional[int] = ..., allow_shared_nodes: _Optional[bool] = ...) -> None: ...

class CreateChainsReply(_message.Message):
    __slots__ = ("routing_version", "chains")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    chains: int
    def __init__(self, routing_version: _Optional[int] = ..., chains: _Optional[int] = ...) -> None: ...

class GetConfigRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class GetConfigReply(_message.Message):
    __slots__ = ("version", "content")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    version: int
    content: str
    def __init__(self, version: _Optional[int] = ..., content: _Optional[str] = ...) -> None: ...

class SetConfigRequest(_message.Message):
    __slots__ = ("service", "content")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    service: str
    content: str
    def __init__(self, service: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class SetConfigReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class ClientSession(_message.Message):
    __slots__ = ("client_id", "host", "mount_point", "kind", "pid", "started_ns", "last_seen_ns")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    host: str
    mount_point: str
    kind: str
    pid: int
    started_ns: int
    last_seen_ns: int
    def __init__(self, client_id: _Optional[bytes] = ..., host: _Optional[str] = ..., mount_point: _Optional[str] = ..., kind: _Optional[str] = ..., pid: _Optional[int] = ..., started_ns: _Optional[int] = ..., last_seen_ns: _Optional[int] = ...) -> None: ...

class ExtendClientSessionRequest(_message.Message):
    __slots__ = ("cluster_id", "session")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    session: ClientSession
    def __init__(self, cluster_id: _Optional[str] = ..., session: _Optional[_Union[ClientSession, _Mapping]] = ...) -> None: ...

class ExtendClientSessionReply(_message.Message):
    __slots__ = ("routing_version", "lease_ms")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    lease_ms: int
    def __init__(self, routing_version: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class EndClientSessionRequest(_message.Message):
    __slots__ = ("client_id",)
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: bytes
    def __init__(self, client_id: _Optional[bytes] = ...) -> None: ...

class ListClientSessionsReply(_message.Message):
    __slots__ = ("sessions", "bootstrapping")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAPPING_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[ClientSession]
    bootstrapping: bool
    def __init__(self, sessions: _Optional[_Iterable[_Union[ClientSession, _Mapping]]] = ..., bootstrapping: _Optional[bool] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node", "last_heartbeat_age_ms", "targets", "heard", "unreachable")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LAST_HEARTBEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    node: Node
    last_heartbeat_age_ms: int
    targets: _containers.RepeatedCompositeFieldContainer[TargetReport]
    heard: bool
    unreachable: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[_Union[Node, _Mapping]] = ..., last_heartbeat_age_ms: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[TargetReport, _Mapping]]] = ..., heard: _Optional[bool] = ..., unreachable: _Optional[_Iterable[int]] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("routing", "nodes", "clients", "capacity_bytes", "free_bytes", "used_bytes", "bootstrapping", "primary")
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAPPING_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    routing: Routing
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    clients: _containers.RepeatedCompositeFieldContainer[ClientSession]
    capacity_bytes: int
    free_bytes: int
    used_bytes: int
    bootstrapping: bool
    primary: PrimaryLease
    def __init__(self, routing: _Optional[_Union[Routing, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., clients: _Optional[_Iterable[_Union[ClientSession, _Mapping]]] = ..., capacity_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., bootstrapping: _Optional[bool] = ..., primary: _Optional[_Union[PrimaryLease, _Mapping]] = ...) -> None: ...

class AdministerNodeRequest(_message.Message):
    __slots__ = ("node_id", "action", "force")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    action: NodeAction
    force: bool
    def __init__(self, node_id: _Optional[int] = ..., action: _Optional[_Union[NodeAction, str]] = ..., force: _Optional[bool] = ...) -> None: ...

class AdministerNodeReply(_message.Message):
    __slots__ = ("routing_version",)
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    def __init__(self, routing_version: _Optional[int] = ...) -> None: ...

class SetKvNamespaceRequest(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: KvNamespace
    def __init__(self, record: _Optional[_Union[KvNamespace, _Mapping]] = ...) -> None: ...

class SetKvNamespaceReply(_message.Message):
    __slots__ = ("routing_version", "namespace_id")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    namespace_id: int
    def __init__(self, routing_version: _Optional[int] = ..., namespace_id: _Optional[int] = ...) -> None: ...

class DropKvNamespaceRequest(_message.Message):
    __slots__ = ("namespace_id",)
    NAMESPACE_ID_FIELD_NUMBER: _ClassVar[int]
    namespace_id: int
    def __init__(self, namespace_id: _Optional[int] = ...) -> None: ...

class DropKvNamespaceReply(_message.Message):
    __slots__ = ("routing_version",)
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    def __init__(self, routing_version: _Optional[int] = ...) -> None: ...
