"""The cluster manager's process."""

from __future__ import annotations

import trio

from luciole.config import MgmtdConfig
from luciole.errors import FsError
from luciole.kv.open import open_store
from luciole.log import get_logger
from luciole.mgmtd.primary import Primary
from luciole.mgmtd.service import MgmtdService
from luciole.process import Loop, run_loops
from luciole.proto import services
from luciole.rpc.serving import serving
from luciole.runtime import ThreadRuntime, drive

log = get_logger("mgmtd")
LEASE_STEPS = 6  # looks at the lease within its time


def serve(config: MgmtdConfig) -> None:
    """Runs until SIGTERM. Raises FsError when it cannot start."""
    runtime = ThreadRuntime()
    store = open_store(config.kv, runtime)
    try:
        primary = Primary(
            store, runtime, node_id=config.node_id, lease_seconds=config.primary_lease_seconds)
        service = MgmtdService(
            store, runtime, primary, cluster_id=config.cluster_id,
            lease_seconds=config.lease_seconds, client_lease_seconds=config.client_lease_seconds,
            start_grace_seconds=config.start_grace_seconds)
        drive(service.start())
        with serving(config, services.MGMTD, service) as ports:
            primary.listens_at(f"{config.host}:{ports.rpc}")
            trio.run(run_loops, [
                Loop("lease", config.primary_lease_seconds / LEASE_STEPS, service.campaign),
                Loop("tick", config.tick_seconds, service.tick),
            ])
            try:
                drive(primary.release())
            except FsError as failure:
                log.warning("lease_not_released", error=str(failure))
            service.stop_polls()
    finally:
        store.close()
