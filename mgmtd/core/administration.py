"""Whether a node may be taken out of service: what an operator asks, against what chains need.

Layer: pure.
"""

from __future__ import annotations

from luciole.errors import FsError, Kind
from luciole.proto import mgmtd_pb2


def check_removal(routing: mgmtd_pb2.Routing, node_id: int, *, drain: bool) -> None:
    """Raises FsError unless every chain of the node can do without it.

    A chain can when another of its targets serves; for a drain, when all its other targets do, so
    that the loss of one more does not stop it.

    Raises:
        FsError NOT_PERMITTED: a chain would be left without a serving target.
        FsError BUSY: a drain has to wait for a chain.
    """
    own = {target.target_id for target in routing.targets if target.node_id == node_id}
    for chain in routing.chains:
        others = [member for member in chain.targets if member.target_id not in own]
        mine = [member for member in chain.targets if member.target_id in own]
        if not mine:
            continue
        serving = [member for member in others if member.state == mgmtd_pb2.SERVING]
        needed = any(member.state in {mgmtd_pb2.SERVING, mgmtd_pb2.LAST_SERVING}
                     for member in mine)
        behind = [member for member in others if member.state != mgmtd_pb2.SERVING]
        if drain and others and needed and behind:
            raise FsError(
                Kind.BUSY, "has to wait: target "
                f"{behind[0].target_id} of the same chain does not serve",
                f"chain {chain.chain_id}")
        if needed and not serving:
            raise FsError(
                Kind.NOT_PERMITTED, f"node {node_id} holds the only serving target of the chain: "
                "bring the others back first, or use --force and lose access until it returns",
                f"chain {chain.chain_id}")
