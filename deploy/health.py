"""What is wrong with a cluster, as its manager tells it.

Layer: pure. One rule for `luciole up`, which waits until nothing is wrong, and `luciole status`.
"""

from __future__ import annotations

from luciole.proto import mgmtd_pb2

FRESH_MS = 4000  # heartbeats come twice a second; even a default lease is shorter


def node_name(node: mgmtd_pb2.Node) -> str:
    """"storage node 101"."""
    return f"{mgmtd_pb2.NodeKind.Name(node.kind).lower()} node {node.node_id}"


def state_name(state: mgmtd_pb2.PublicState) -> str:
    """"last serving"."""
    return mgmtd_pb2.PublicState.Name(state).lower().replace("_", " ")


def without_disabled(status: mgmtd_pb2.StatusReply) -> mgmtd_pb2.StatusReply:
    """The status of what an operator wants to serve: no disabled nodes, and not their targets."""
    disabled = {entry.node.node_id for entry in status.nodes
                if entry.node.state == mgmtd_pb2.DISABLED}
    theirs = {target.target_id for target in status.routing.targets if target.node_id in disabled}
    found = mgmtd_pb2.StatusReply()
    found.CopyFrom(status)
    del found.nodes[:]
    found.nodes.extend(entry for entry in status.nodes if entry.node.node_id not in disabled)
    for chain in found.routing.chains:
        kept = [member for member in chain.targets if member.target_id not in theirs]
        del chain.targets[:]
        chain.targets.extend(kept)
    return found


def node_problems(status: mgmtd_pb2.StatusReply) -> list[str]:
    """Nodes that are not connected, or were not heard of lately."""
    found = []
    for entry in status.nodes:
        node, name = entry.node, node_name(entry.node)
        if node.state != mgmtd_pb2.CONNECTED:
            state = mgmtd_pb2.NodeState.Name(node.state).lower()
            remedy = f": `luciole node enable {node.node_id}`" \
                if node.state == mgmtd_pb2.DISABLED else ""
            found.append(f"{name} ({node.host}:{node.rpc_port}) is {state}{remedy}")
        elif not entry.heard:
            found.append(f"{name} has not been heard by the manager yet")
        elif node.kind == mgmtd_pb2.STORAGE and not entry.targets:
            found.append(f"{name} has not reported its targets to the manager yet")
        elif entry.last_heartbeat_age_ms > FRESH_MS:
            found.append(
                f"{name} was last heard {entry.last_heartbeat_age_ms / 1000:.1f} s ago")
    return found


def resync_progress(
    status: mgmtd_pb2.StatusReply, chain: mgmtd_pb2.Chain
) -> tuple[int, int]:
    """(chunks compared, chunks to compare) of a chain that is being brought up to date."""
    members = {member.target_id for member in chain.targets}
    reports = [report for entry in status.nodes for report in entry.targets
               if report.target_id in members and report.resync_total]
    return (sum(report.resync_done for report in reports),
            sum(report.resync_total for report in reports))


def damage_problems(status: mgmtd_pb2.StatusReply) -> list[str]:
    """Targets with chunks that rotted on every replica that could be asked."""
    return [
        f"target {report.target_id} on {node_name(entry.node)} has {report.unrepairable} damaged "
        "chunks that no other replica can repair: its log names them"
        for entry in status.nodes for report in entry.targets if report.unrepairable
    ]


def link_problems(status: mgmtd_pb2.StatusReply) -> list[str]:
    """Storage nodes that live and do not reach each other, each pair once."""
    names = {entry.node.node_id: node_name(entry.node) for entry in status.nodes}
    return [
        f"{node_name(entry.node)} and {names.get(other, other)} do not reach each other though "
        "both reach the manager: check the network between them"
        for entry in status.nodes for other in entry.unreachable if entry.node.node_id < other
    ]


def resync_seconds_left(status: mgmtd_pb2.StatusReply, chain: mgmtd_pb2.Chain) -> int:
    """Estimated seconds until a chain is up to date; 0: not known."""
    members = {member.target_id for member in chain.targets}
    return max((report.resync_seconds_left for entry in status.nodes for report in entry.targets
                if report.target_id in members), default=0)


def chain_problems(status: mgmtd_pb2.StatusReply) -> list[str]:
    """Targets that do not serve."""
    if not status.routing.chains:
        return ["there are no chains yet: no storage was given out"]
    node_of = {target.target_id: target.node_id for target in status.routing.targets}
    found = []
    for chain in status.routing.chains:
        for member in chain.targets:
            if member.state == mgmtd_pb2.SERVING:
                continue
            progress = ""
            if member.state == mgmtd_pb2.SYNCING:
                done, total = resync_progress(status, chain)
                left = resync_seconds_left(status, chain)
                about = f", about {left} s left" if left else ""
                progress = f" ({done} of {total} chunks compared{about})"
            found.append(f"chain {chain.chain_id}: target {member.target_id} on node "
                         f"{node_of.get(member.target_id, 0)} is "
                         f"{state_name(member.state)}{progress}")
    return found
