"""The cluster manager's process."""

from __future__ import annotations

import trio

from luciole.config import MgmtdConfig
from luciole.kv.open import open_store
from luciole.mgmtd.service import MgmtdService
from luciole.process import Loop, run_loops
from luciole.proto import services
from luciole.rpc.serving import serving
from luciole.runtime import ThreadRuntime, drive


def serve(config: MgmtdConfig) -> None:
    """Runs until SIGTERM. Raises FsError when it cannot start."""
    runtime = ThreadRuntime()
    store = open_store(config.kv, runtime)
    try:
        service = MgmtdService(
            store, runtime, cluster_id=config.cluster_id, lease_seconds=config.lease_seconds,
            client_lease_seconds=config.client_lease_seconds)
        drive(service.start())
        with serving(config, services.MGMTD, service):
            trio.run(run_loops, [Loop("tick", config.tick_seconds, service.tick)])
            service.stop_polls()
    finally:
        store.close()
