"""The cluster manager: who is here, who serves what, and everybody told of it.

Layer: shell. Durable facts (nodes, targets, chains, tables, config) are in the key-value store;
what is heard (heartbeats, client leases) is in memory, since a primary that begins its term hears
it again within one lease. Until then it is *bootstrapping* and takes nobody for dead. Of several
managers one is the primary (mgmtd/primary.py); the others answer NOT_PRIMARY and say who is.

Concurrency: handlers and the one `tick` loop run on many threads; everything shared is guarded by
one lock of the runtime ("mgmtd"), which no wait for a heartbeat or a long poll ever holds.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from luciole.config import validate_service_config
from luciole.errors import FsError, Kind, require
from luciole.kv.interface import KeyValueStore, Transaction
from luciole.log import get_logger
from luciole.mgmtd import store
from luciole.mgmtd.core.administration import check_removal
from luciole.mgmtd.core.chain_table import next_chain, without_content
from luciole.mgmtd.core.kv_namespaces import settled
from luciole.mgmtd.core.links import Links, cut_links, who_steps_down
from luciole.mgmtd.core.placement import place_chains
from luciole.mgmtd.primary import Primary, Term
from luciole.proto import common_pb2, mgmtd_pb2
from luciole.proto.services import Call
from luciole.runtime import Runtime

log = get_logger("mgmtd")
FRESH = 0.25  # of a lease: a node that was heard so lately is there
LOCK = "mgmtd"
POLL_SECONDS_MAX = 30.0
T = TypeVar("T")


@dataclass
class Heard:
    """What the last heartbeat of a node said."""

    at: float
    generation: int
    since: float  # when this process registered; long ago if that was with another primary
    targets: list[mgmtd_pb2.TargetReport] = field(default_factory=list)
    unreachable: dict[int, int] = field(default_factory=dict)  # node -> for how many ms


@dataclass
class HeardClient:
    """What the last sign of a client said."""

    at: float
    session: mgmtd_pb2.ClientSession


class MgmtdService:
    """Handler of the service Mgmtd."""

    def __init__(
        self,
        kv: KeyValueStore,
        runtime: Runtime,
        primary: Primary,
        *,
        cluster_id: str,
        lease_seconds: float,
        client_lease_seconds: float,
        start_grace_seconds: float = 0.0,
    ) -> None:
        self._kv = kv
        self._runtime = runtime
        self._primary = primary
        self._term: Term | None = None  # for which what is below was made
        self._cluster_id = cluster_id
        self._lease = lease_seconds
        self._client_lease = client_lease_seconds
        self._start_grace = start_grace_seconds
        self._started = self._grown_up = runtime.clock.now()
        self._routing = mgmtd_pb2.Routing()
        self._changed = runtime.signal()
        self._heard: dict[int, Heard] = {}
        self._asked: dict[int, mgmtd_pb2.StepDown] = {}  # by chain: who is to step down
        self._clients: dict[bytes, HeardClient] = {}
        self._stopping = False

    async def start(self) -> None:
        """Creates the cluster if the store is empty. Raises FsError for another cluster's."""
        await self._kv.run(lambda txn: store.create_cluster(txn, self._cluster_id))

    async def campaign(self) -> None:
        """One step of the election; takes up the work of the primary when it has come to us."""
        try:
            if self._is_deaf():
                log.warning("stepping_aside", reason="no node is heard any more")
                await self._primary.step_aside()
            await self._primary.step()
        finally:
            term = self._primary.term
            if term is not self._term:
                # Whoever waits here for news must hear of it from the next primary.
                self._term = None
                self._changed.notify()
        if term is not None and self._term is None:
            async with self._runtime.lock(LOCK):
                await self._take_up(term)

    def _is_deaf(self) -> bool:
        """Whether all nodes that this primary has heard fell silent at once.

        It may reach the store and nobody else: then another manager should lead. If there is none
        it leads on after a pause, with patience, as all nodes may have died indeed. Half a lease
        is when the nodes fence themselves: until then nobody misses us.
        """
        if self._primary.term is None or self._primary.term is not self._term:
            return False
        last = max((heard.at for heard in list(self._heard.values())), default=math.inf)
        return self._runtime.clock.now() >= last + self._lease / 2

    async def _take_up(self, term: Term) -> None:
        self._routing = await self._kv.run(store.load_routing)
        self._heard.clear()
        self._asked.clear()
        self._clients.clear()
        self._started = self._runtime.clock.now()
        # Those who were there a moment ago will be heard within a lease; when the cluster itself
        # starts, the others may take longer.
        grace = max(self._lease, self._start_grace) if term.cold else self._lease
        self._grown_up = self._started + grace
        self._term = term
        self._changed.notify()

    def _lead(self) -> Term:
        """The term. Raises FsError NOT_PRIMARY unless this manager leads and is ready."""
        term = self._primary.term
        if term is None or term is not self._term:
            raise self._primary.refusal()
        return term

    async def _write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs a transaction that commits only as this term's. Raises FsError NOT_PRIMARY."""
        term = self._lead()

        async def valid(txn: Transaction) -> T:
            await self._primary.validate(txn, term)
            return await body(txn)

        return await self._kv.run(valid)

    def _check_cluster(self, cluster_id: str) -> None:
        require(cluster_id == self._cluster_id, Kind.WRONG_CLUSTER,
                f"this is cluster {self._cluster_id!r}", repr(cluster_id))

    @property
    def bootstrapping(self) -> bool:
        """Whether this primary is too young to call anybody dead whom it has not heard."""
        return self._runtime.clock.now() < self._grown_up

    async def _reload(self) -> None:
        """Shows everybody what is stored now."""
        self._routing = await self._kv.run(store.load_routing)
        self._changed.notify()

    # Nodes.

    async def register_node(
        self, request: mgmtd_pb2.RegisterNodeRequest, call: Call
    ) -> mgmtd_pb2.RegisterNodeReply:
        """Takes a node in, or learns its new address and generation."""
        self._check_cluster(request.cluster_id)
        self._lead()
        require(request.node.node_id > 0 and bool(request.node.kind), Kind.INVALID_ARGUMENT,
                "a node needs an id and a kind")

        async def body(txn: Transaction) -> None:
            routing = await store.load_routing(txn)
            known = {target.target_id: target for target in routing.targets}
            node = mgmtd_pb2.Node()
            node.CopyFrom(request.node)
            # What an operator decided outlives the process.
            disabled = any(other.node_id == node.node_id and other.state == mgmtd_pb2.DISABLED
                           for other in routing.nodes)
            node.state = mgmtd_pb2.DISABLED if disabled else mgmtd_pb2.CONNECTED
            store.put_node(txn, node)
            for report in request.targets:
                target = known.get(report.target_id) or mgmtd_pb2.Target(
                    target_id=report.target_id, node_id=node.node_id, disk=report.disk)
                if target.node_id != node.node_id:
                    raise FsError(Kind.INVALID_ARGUMENT, f"the target belongs to node "
                                  f"{target.node_id}", f"target {report.target_id}")
                if report.content_id not in {0, target.content_id}:
                    if target.content_id:
                        _take_out(txn, routing, target.target_id)
                    target.content_id = report.content_id
                store.put_target(txn, target)
            await store.raise_version(txn)

        async with self._runtime.lock(LOCK):
            await self._write(body)
            now = self._runtime.clock.now()
            self._heard[request.node.node_id] = Heard(
                now, request.node.generation, now, list(request.targets))
            await self._reload()
        log.info("node_registered", node=request.node.node_id, port=request.node.rpc_port)
        return mgmtd_pb2.RegisterNodeReply(
            routing_version=self._routing.version, lease_ms=int(self._lease * 1000))

    async def heartbeat(
        self, request: mgmtd_pb2.HeartbeatRequest, call: Call
    ) -> mgmtd_pb2.HeartbeatReply:
        """A node is alive. Raises FsError NOT_FOUND for one that must register (again)."""
        self._check_cluster(request.cluster_id)
        self._lead()
        async with self._runtime.lock(LOCK):
            known = {node.node_id: node for node in self._routing.nodes}.get(request.node_id)
            if known is None or known.generation != request.generation:
                raise FsError(Kind.NOT_FOUND, "not registered with this generation: register",
                              f"node {request.node_id}")
            now, before = self._runtime.clock.now(), self._heard.get(request.node_id)
            self._heard[request.node_id] = Heard(
                now, request.generation, before.since if before else -math.inf,
                list(request.targets),
                {other.node_id: other.for_ms for other in request.unreachable})
            own = {report.target_id for report in request.targets}
            asked = [step for step in self._asked.values() if step.target_id in own]
        return mgmtd_pb2.HeartbeatReply(
            routing_version=self._routing.version, lease_ms=int(self._lease * 1000),
            step_down=asked)

    async def tick(self) -> bool:
        """Judges nodes and chains by what was heard; returns whether routing changed."""
        if self._primary.term is None or self._primary.term is not self._term:
            return False
        async with self._runtime.lock(LOCK):
            now = self._runtime.clock.now()
            self._forget_clients(now)
            reports = self._local_states(now)
            nodes = self._judged_nodes(now)
            links = self._links(now, silent_for=self._lease)
            self._ask_to_step_down(self._links(now, silent_for=self._lease * FRESH))
            chains = [
                after for before in self._routing.chains
                if (after := next_chain(before, reports[before.chain_id], links)) is not before
            ]
            if not chains and not nodes:
                return False

            async def body(txn: Transaction) -> None:
                for chain in chains:
                    store.put_chain(txn, chain)
                for node in nodes:
                    store.put_node(txn, node)
                await store.raise_version(txn)

            await self._write(body)
            await self._reload()
        for chain in chains:
            log.info("chain_changed", chain=chain.chain_id, version=chain.version, states=[
                f"{target.target_id}:{mgmtd_pb2.PublicState.Name(target.state)}"
                for target in chain.targets])
        return True

    def _alive(self, node_id: int, now: float) -> bool:
        """Heard within the lease, or not yet to be judged."""
        heard = self._heard.get(node_id)
        return now < (heard.at + self._lease if heard else self._grown_up)

    def _judged_nodes(self, now: float) -> list[mgmtd_pb2.Node]:
        changed = []
        for node in self._routing.nodes:
            state = mgmtd_pb2.CONNECTED if self._alive(node.node_id, now) else mgmtd_pb2.FAILED
            if node.state not in {state, mgmtd_pb2.DISABLED}:
                after = mgmtd_pb2.Node()
                after.CopyFrom(node)
                after.state = state
                changed.append(after)
        return changed

    def _links(self, now: float, *, silent_for: float) -> Links:
        """Which nodes do not reach each other, by the word of those that have lived a while.

        Only nodes count that were not silent for longer than `silent_for` seconds.
        Half a lease is what a node has for the manager, too. A node that was started again is
        reported until the next probe finds it.
        """
        patience = self._lease / 2
        unreachable = {
            node_id: heard.unreachable for node_id, heard in self._heard.items()
            if now >= heard.since + patience and now < heard.at + silent_for
            and self._alive(node_id, now)}
        return Links(
            cut_links(unreachable, int(patience * 1000)),
            {target.target_id: target.node_id for target in self._routing.targets},
            complete=all(node.node_id in self._heard for node in self._routing.nodes
                         if self._alive(node.node_id, now)))

    def _ask_to_step_down(self, links: Links) -> None:
        """Settles who is asked. One who was asked stays so for that version of the chain.

        Of a pair that has just fallen silent one may be dead: then the other must not leave.
        """
        before, self._asked = self._asked, {}
        if not links.cut:
            return
        for chain in self._routing.chains:
            target_id = who_steps_down(chain, links)
            asked = before.get(chain.chain_id)
            if target_id is None:
                continue
            if asked is None or asked.chain_version != chain.version:
                asked = mgmtd_pb2.StepDown(target_id=target_id, chain_version=chain.version)
                log.info("asked_to_step_down", chain=chain.chain_id, target=target_id)
            self._asked[chain.chain_id] = asked

    def _local_states(self, now: float) -> dict[int, dict[int, mgmtd_pb2.LocalState]]:
        """Per chain, the local state of each target as far as it is known and current."""
        node_of = {target.target_id: target.node_id for target in self._routing.targets}
        disabled = {
            node.node_id for node in self._routing.nodes if node.state == mgmtd_pb2.DISABLED}
        found: dict[int, dict[int, mgmtd_pb2.LocalState]] = {}
        for chain in self._routing.chains:
            states = {}
            for member in chain.targets:
                node_id = node_of.get(member.target_id, 0)
                if node_id in disabled or not self._alive(node_id, now):
                    continue
                states[member.target_id] = self._reported(node_id, member, chain.version)
            found[chain.chain_id] = states
        return found

    def _reported(
        self, node_id: int, member: mgmtd_pb2.ChainTarget, chain_version: int
    ) -> mgmtd_pb2.LocalState:
        heard = self._heard.get(node_id)
        if heard is None:
            # Bootstrapping: a target keeps its part in the chain, and gets none unheard.
            has_part = member.state in {mgmtd_pb2.SERVING, mgmtd_pb2.SYNCING}
            return mgmtd_pb2.LOCAL_ONLINE if has_part else mgmtd_pb2.LOCAL_OFFLINE
        for report in heard.targets:
            if report.target_id == member.target_id:
                stale = report.chain_version != chain_version
                if report.state == mgmtd_pb2.LOCAL_UP_TO_DATE and stale:
                    return mgmtd_pb2.LOCAL_ONLINE
                if stale and report.state in {mgmtd_pb2.LOCAL_DOUBTFUL, mgmtd_pb2.LOCAL_ASIDE}:
                    return (mgmtd_pb2.LOCAL_OFFLINE if member.state == mgmtd_pb2.LAST_SERVING
                            else mgmtd_pb2.LOCAL_ONLINE)
                return report.state
        return mgmtd_pb2.LOCAL_OFFLINE

    async def administer_node(
        self, request: mgmtd_pb2.AdministerNodeRequest, call: Call
    ) -> mgmtd_pb2.AdministerNodeReply:
        """Takes a node out of service, or back in. The chains follow at once.

        Raises FsError NOT_FOUND; NOT_PERMITTED when a chain would lose its last serving target;
        BUSY while a node that is to be drained is needed.
        """
        self._lead()
        require(request.action in mgmtd_pb2.NodeAction.values() and bool(request.action),
                Kind.INVALID_ARGUMENT, "enable, disable or drain?", f"node {request.node_id}")

        async def body(txn: Transaction) -> None:
            routing = await store.load_routing(txn)
            node = next((node for node in routing.nodes if node.node_id == request.node_id), None)
            if node is None:
                raise FsError(Kind.NOT_FOUND, "there is no such node: `luciole status` lists them",
                              f"node {request.node_id}")
            if request.action == mgmtd_pb2.ENABLE:
                if node.state != mgmtd_pb2.DISABLED:
                    return
                node.state = mgmtd_pb2.CONNECTED
            else:
                if not request.force:
                    check_removal(
                        routing, request.node_id, drain=request.action == mgmtd_pb2.DRAIN)
                node.state = mgmtd_pb2.DISABLED
            store.put_node(txn, node)
            await store.raise_version(txn)

        async with self._runtime.lock(LOCK):
            await self._write(body)
            await self._reload()
        log.info("node_administered", node=request.node_id,
                 action=mgmtd_pb2.NodeAction.Name(request.action))
        await self.tick()
        return mgmtd_pb2.AdministerNodeReply(routing_version=self._routing.version)

    # Routing and chains.

    async def get_routing(
        self, request: mgmtd_pb2.GetRoutingRequest, call: Call
    ) -> mgmtd_pb2.GetRoutingReply:
        """Long poll: answers when routing differs from what the caller knows."""
        deadline = self._runtime.clock.now() + min(request.wait_ms / 1000, POLL_SECONDS_MAX)
        while True:
            seen = self._changed.count
            self._lead()
            routing = self._routing
            remaining = deadline - self._runtime.clock.now()
            if routing.version != request.known_version:
                return mgmtd_pb2.GetRoutingReply(version=routing.version, routing=routing)
            if remaining <= 0 or self._stopping:
                return mgmtd_pb2.GetRoutingReply(version=routing.version)
            await self._changed.wait(seen, remaining)

    def stop_polls(self) -> None:
        """Answers every long poll now: the process is about to stop."""
        self._stopping = True
        self._changed.notify()

    async def create_chains(
        self, request: mgmtd_pb2.CreateChainsRequest, call: Call
    ) -> mgmtd_pb2.CreateChainsReply:
        """Groups all targets that are in no chain yet, and makes version 1 of table 1."""
        async def body(txn: Transaction) -> list[mgmtd_pb2.Chain]:
            routing = await store.load_routing(txn)
            require(not routing.chains, Kind.EXISTS, "the cluster has chains already")
            by_node: dict[int, list[int]] = {}
            for target in routing.targets:
                by_node.setdefault(target.node_id, []).append(target.target_id)
            chains = place_chains(
                by_node, request.replicas, allow_shared_nodes=request.allow_shared_nodes)
            chain_of = {
                member.target_id: chain.chain_id for chain in chains for member in chain.targets}
            for target in routing.targets:
                target.chain_id = chain_of[target.target_id]
                store.put_target(txn, target)
            for chain in chains:
                store.put_chain(txn, chain)
            store.put_table(txn, mgmtd_pb2.ChainTable(
                table_id=1, version=1, chain_ids=[chain.chain_id for chain in chains]))
            await store.raise_version(txn)
            return chains

        async with self._runtime.lock(LOCK):
            chains = await self._write(body)
            await self._reload()
        return mgmtd_pb2.CreateChainsReply(
            routing_version=self._routing.version, chains=len(chains))

    # Configuration.

    async def get_config(
        self, request: mgmtd_pb2.GetConfigRequest, call: Call
    ) -> mgmtd_pb2.GetConfigReply:
        """A service's configuration as it was set."""
        self._lead()
        version, content = await self._kv.run(
            lambda txn: store.get_config(txn, request.service))
        return mgmtd_pb2.GetConfigReply(version=version, content=content)

    async def set_config(
        self, request: mgmtd_pb2.SetConfigRequest, call: Call
    ) -> mgmtd_pb2.SetConfigReply:
        """Validates and stores a service's configuration."""
        validate_service_config(request.service, request.content)

        async def body(txn: Transaction) -> int:
            version, _ = await store.get_config(txn, request.service)
            store.put_config(txn, request.service, version + 1, request.content)
            return version + 1

        return mgmtd_pb2.SetConfigReply(version=await self._write(body))

    # Namespaces of the KV cache.

    async def set_kv_namespace(
        self, request: mgmtd_pb2.SetKvNamespaceRequest, call: Call
    ) -> mgmtd_pb2.SetKvNamespaceReply:
        """Makes a namespace, or changes one. Raises FsError."""
        async def body(txn: Transaction) -> int:
            routing = await store.load_routing(txn)
            next_id = await store.next_kv_namespace(txn)
            record = settled(request.record, routing.kv_namespaces, next_id)
            store.put_kv_namespace(txn, record, max(next_id, record.namespace_id + 1))
            await store.raise_version(txn)
            return record.namespace_id

        namespace_id = await self._change(body)
        return mgmtd_pb2.SetKvNamespaceReply(
            routing_version=self._routing.version, namespace_id=namespace_id)

    async def drop_kv_namespace(
        self, request: mgmtd_pb2.DropKvNamespaceRequest, call: Call
    ) -> mgmtd_pb2.DropKvNamespaceReply:
        """Forgets a namespace; the volumes then remove its blocks."""
        async def body(txn: Transaction) -> None:
            store.drop_kv_namespace(txn, request.namespace_id)
            await store.raise_version(txn)

        await self._change(body)
        return mgmtd_pb2.DropKvNamespaceReply(routing_version=self._routing.version)

    async def _change(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs a transaction that changes routing, and shows everybody."""
        async with self._runtime.lock(LOCK):
            result = await self._write(body)
            await self._reload()
        return result

    # Clients.

    async def extend_client_session(
        self, request: mgmtd_pb2.ExtendClientSessionRequest, call: Call
    ) -> mgmtd_pb2.ExtendClientSessionReply:
        """A client is alive."""
        self._check_cluster(request.cluster_id)
        self._lead()
        request.session.last_seen_ns = self._runtime.clock.wall_ns()
        async with self._runtime.lock(LOCK):
            self._clients[request.session.client_id] = HeardClient(
                self._runtime.clock.now(), request.session)
        return mgmtd_pb2.ExtendClientSessionReply(
            routing_version=self._routing.version, lease_ms=int(self._client_lease * 1000))

    async def end_client_session(
        self, request: mgmtd_pb2.EndClientSessionRequest, call: Call
    ) -> common_pb2.Empty:
        """A client says good-bye."""
        self._lead()
        async with self._runtime.lock(LOCK):
            self._clients.pop(request.client_id, None)
        return common_pb2.Empty()

    def _forget_clients(self, now: float) -> None:
        dead = [client_id for client_id, client in self._clients.items()
                if now > client.at + self._client_lease]
        for client_id in dead:
            del self._clients[client_id]

    async def list_client_sessions(
        self, request: common_pb2.Empty, call: Call
    ) -> mgmtd_pb2.ListClientSessionsReply:
        """All clients whose lease runs."""
        self._lead()
        young = self._runtime.clock.now() < self._started + 2 * self._client_lease
        async with self._runtime.lock(LOCK):
            return mgmtd_pb2.ListClientSessionsReply(
                sessions=[client.session for client in self._clients.values()],
                bootstrapping=young)

    async def status(self, request: common_pb2.Empty, call: Call) -> mgmtd_pb2.StatusReply:
        """Everything that an operator wants to see."""
        self._lead()
        async with self._runtime.lock(LOCK):
            # Under the lock, as heartbeats are noted: no age is negative.
            now = self._runtime.clock.now()
            reply = mgmtd_pb2.StatusReply(
                routing=self._routing, bootstrapping=self.bootstrapping,
                primary=self._primary.record,
                clients=[client.session for client in self._clients.values()])
            cut = self._links(now, silent_for=self._lease).cut
            for node in self._routing.nodes:
                heard = self._heard.get(node.node_id)
                entry = reply.nodes.add(node=node, heard=heard is not None, unreachable=sorted(
                    other for pair in cut if node.node_id in pair
                    for other in pair - {node.node_id}))
                if heard:
                    entry.last_heartbeat_age_ms = int((now - heard.at) * 1000)
                    entry.targets.extend(heard.targets)
            _add_space(reply)
            return reply


def _add_space(reply: mgmtd_pb2.StatusReply) -> None:
    """Space for user data: each device counted once, divided by the number of replicas."""
    chains = reply.routing.chains
    replicas = len(chains[0].targets) if chains else 1
    devices: dict[str, mgmtd_pb2.TargetReport] = {}
    used = 0
    for entry in reply.nodes:
        for report in entry.targets:
            devices[report.device or f"{entry.node.node_id}/{report.disk}"] = report
            used += report.used_bytes
    reply.used_bytes = used // replicas
    reply.capacity_bytes = sum(r.capacity_bytes for r in devices.values()) // replicas
    reply.free_bytes = sum(r.free_bytes for r in devices.values()) // replicas


def _take_out(txn: Transaction, routing: mgmtd_pb2.Routing, target_id: int) -> None:
    """A target came back with another content: it has no part in its chain until it has synced.

    Raises FsError NOT_SERVING if the chain has nobody else.
    """
    for chain in routing.chains:
        if any(member.target_id == target_id for member in chain.targets):
            store.put_chain(txn, without_content(chain, target_id))
            log.warning("content_replaced", target=target_id, chain=chain.chain_id)
